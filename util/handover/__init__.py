"""Trained models in use: called on signals, described, embedded, exported, disturbed."""
