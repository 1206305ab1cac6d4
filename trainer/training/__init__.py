"""A run: the step, the loop, checkpoints, stops, and its end."""
