"""Benchmarks of many machines and many slices: simulated devices, the ledger alone, and growth with the slices."""
