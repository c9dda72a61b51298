"""Building blocks that encoders and methods share."""
