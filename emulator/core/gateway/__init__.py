"""Names and addresses of the host's gateway."""
