"""How is each kind of resource observed, made and removed? One handler per kind."""
