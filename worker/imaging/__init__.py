"""Turns untrusted bytes into prepared slices, with pure functions on arrays."""
