"""Carries requests between connections and the threads that answer them."""
