"""What a set's own tables say of its recordings: metadata, patients, labels, splits."""
