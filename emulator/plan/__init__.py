"""The plan: what to change, in which order and why. Pure functions; nothing here touches the world."""
