"""The published training scripts, and what is done with trained weights."""
