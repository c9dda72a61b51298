"""What a trained network looked at in a recording, and what it makes of many."""
