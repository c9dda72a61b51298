"""From files of recordings to shards."""
