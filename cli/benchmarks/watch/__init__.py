"""Measures who used the processor while a benchmark ran: the stages of this ctbatch, and other processes."""
