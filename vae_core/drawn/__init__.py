"""Pictures with words: colours for numbers, charts, strips, tiles."""
