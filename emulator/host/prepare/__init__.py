"""What makes this host ready for labs? Steps as data, and steps that only a person can take."""
