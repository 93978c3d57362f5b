"""What many machines and many slices take: simulated devices, the ledger alone, and growth with the slices."""
