"""Records on the disk, their tables, labels and splits, and the crops that training reads."""
