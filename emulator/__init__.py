"""hyperscaler: one GPU workstation as a miniature AI hyperscaler."""

try:
    from emulator.core._version import __version__ as __version__
except ImportError:  # a checkout that was never installed; builds write the file
    __version__ = "0+unknown"
