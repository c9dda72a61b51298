"""What is known of records: tables of labels, the files they come from, who annotated what."""
