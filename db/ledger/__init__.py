"""The ledger: jobs, their uploads and chunks, the leases on them, and the outcome of every slice."""
