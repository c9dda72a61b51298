"""What the engine asks of a model, and how models are found and built by name."""
