"""The stages of `upgrade`."""
