"""Verbs that read a lab file and change nothing."""
