"""Carrying out a plan under a write-ahead journal."""
