"""The network, its initial weights, and the copy that is trained."""
