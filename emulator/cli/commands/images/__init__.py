"""Verbs about golden images and bundles."""
