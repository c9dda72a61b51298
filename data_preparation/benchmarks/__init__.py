"""Labels and splits of public data sets."""
