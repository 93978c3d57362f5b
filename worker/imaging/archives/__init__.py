"""From an archive's bytes to its entries, streamed and within limits."""
