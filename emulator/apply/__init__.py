"""How is a plan carried out so that a crash loses nothing? Journal, state, locks, and the executor."""
