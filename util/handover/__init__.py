"""Trained models in use: called on signals, embedded, exported, tested under noise."""
