"""Trained models in use: called on signals, described, embedded, exported, tested under noise."""
