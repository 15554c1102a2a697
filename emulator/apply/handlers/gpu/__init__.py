"""How is each resource on a GPU observed, made and removed? One handler per kind."""
