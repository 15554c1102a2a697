"""Changing a lab's secrets for new ones: in which steps, and how far it has come. Pure."""
