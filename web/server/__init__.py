"""Passes requests from connections to the threads that answer them, and the answers back."""
