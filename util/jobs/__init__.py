"""From a config to a run: its records and labels, model, loaders and loop, fold by fold."""
