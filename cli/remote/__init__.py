"""Code that talks to a server over HTTP."""
