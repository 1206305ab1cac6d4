"""VAEs of every kind as files and as models: found, built, adapted, exported, verified."""
