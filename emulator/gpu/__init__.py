"""What can a GPU be cut into? Models, catalogue, geometry, and the ports to drivers."""
