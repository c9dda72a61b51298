"""From a config to trained weights: set-up, the loop, its state, checkpoints, the log."""
