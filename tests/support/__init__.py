"""Worlds, benches and doubles that tests share."""
