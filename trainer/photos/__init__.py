"""From files, tables and shards to batches of crops, every photo looked at with suspicion."""
