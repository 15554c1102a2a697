"""hyperscaler: one GPU workstation as a miniature AI hyperscaler."""

__version__ = "0.1.0"
