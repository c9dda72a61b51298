"""From outputs to numbers: criteria, scores, intervals, thresholds."""
