"""The commands, a module each, named as in the table of `cli.main`."""
