"""One recording in memory, and what is checked of it: leads, their order, units, plausibility."""
