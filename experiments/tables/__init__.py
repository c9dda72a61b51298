"""The tables of RESULTS.md: what they hold, their trainings, scores, intervals and Markdown."""
