"""The network, the weights it starts from, and what is trained of it."""
