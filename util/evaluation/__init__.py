"""What trained weights are worth and how to use them: predictions, probes, reports, figures."""
