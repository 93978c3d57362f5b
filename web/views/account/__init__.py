"""The pages of accounts: sign-in, password, API tokens, and the audit trail."""
