"""Verbs that let people in, and change secrets."""
