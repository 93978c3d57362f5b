"""The commands. Most have a module of their own, named as in the table of `cli.main`."""
