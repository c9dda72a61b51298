"""From shards to a store."""
