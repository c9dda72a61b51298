"""One recording in memory, and the readers of its file formats."""
