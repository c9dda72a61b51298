"""What a run writes while it trains: log lines, TensorBoard, trackers, means over steps."""
