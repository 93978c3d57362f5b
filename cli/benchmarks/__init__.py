"""The benchmarks of `ctbatch bench`. Most have a module of their own."""
