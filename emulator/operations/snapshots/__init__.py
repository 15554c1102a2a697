"""Snapshots of whole labs: made, listed, gone back to, deleted."""
