"""What would make this machine ready for labs? Steps as data, and what only a person can do."""
