"""The loop: an epoch, its optimiser and state, one graph a step, the folder it claims, the log."""
