"""The ledger: jobs, their uploads and chunks, who holds what, and what became of every slice."""
