"""Whether a store is what was written, and which recordings are in it twice."""
