"""Records on the disk, their tables and splits, and the crops that training reads."""
