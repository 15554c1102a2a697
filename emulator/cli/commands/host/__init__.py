"""Verbs about this machine as a host of labs."""
