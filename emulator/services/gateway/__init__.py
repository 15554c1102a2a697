"""The host's gateway: the ssh server in a namespace of its own, and each lab's relay behind it."""
