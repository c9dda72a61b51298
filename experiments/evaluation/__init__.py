"""Encoders compared by modes, tasks and shares of the labels (experiments/evaluate.py)."""
