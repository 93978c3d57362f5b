"""Users, passwords, tokens, sessions and sign-in links, which decide who may do what."""
