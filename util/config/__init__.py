"""What a job is asked to do: typed keys, YAML files, published YAML, the command line."""
