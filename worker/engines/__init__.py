"""Engines, which run the network. They have one small interface, and each engine has its own module."""
