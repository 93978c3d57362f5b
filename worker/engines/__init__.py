"""Engines that run the network: one small interface, one module an engine."""
