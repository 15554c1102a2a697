"""Verbs about the GPUs of this host."""
