"""The published and documented commands that make a store; the rooms below do their work."""
