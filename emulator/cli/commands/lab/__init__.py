"""Verbs that make, use and remove a lab."""
