"""Which verbs are there? One folder per group."""
