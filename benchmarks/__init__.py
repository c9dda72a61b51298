"""Speed, faults, and the acceptance of a GPU machine; run by hand."""
