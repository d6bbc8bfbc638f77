"""The data plane: a process of its own, from a client's request to a replica and back."""
