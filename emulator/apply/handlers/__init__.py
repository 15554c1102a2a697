"""One handler per kind of resource: look at it, make it so, take it away."""
