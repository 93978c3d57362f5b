"""Who may do what: users, passwords, tokens, sessions and sign-in links."""
