"""Bringing the nodes of a standing cluster to another release."""
