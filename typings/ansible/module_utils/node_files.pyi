from node_files import (
    Derived,
    Directory,
    File,
    ensure_absent,
    ensure_derived,
    ensure_directory,
    ensure_file,
    ensure_only,
    last_change,
)

__all__ = [
    "Derived",
    "Directory",
    "File",
    "ensure_absent",
    "ensure_derived",
    "ensure_directory",
    "ensure_file",
    "ensure_only",
    "last_change",
]
