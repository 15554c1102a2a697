"""Verbs that rewind a lab."""
