"""The two names under which nights build a lab, and its file with such a name."""

from __future__ import annotations

import io
from dataclasses import replace

from emulator.core.errors import UsageError
from emulator.lab.lab_files import LoadedLab, load_lab_file


def lab_names_of(name: str) -> tuple[str, str]:
    """The names that nights give to the lab of this name, in turn."""
    return f"{name}-a", f"{name}-b"


def lab_under(loaded: LoadedLab, name: str) -> LoadedLab:
    """The lab of a file under another name. The file's text stays as it is but for that word, since it is kept with the
    lab.

    Raises:
        UsageError: the name stands in the file in a way that cannot be replaced.
        ConfigError: the lab cannot have that name.
    """
    old, at = loaded.spec.name, loaded.report.position_of("metadata.name")
    lines = loaded.source.decode().split("\n")
    line = lines[at.line - 1] if 0 < at.line <= len(lines) else ""
    before, rest = line[: at.column - 1], line[at.column - 1 :]
    quote = rest[:1] if rest[:1] in ("'", '"') else ""
    if not rest.startswith(quote + old):
        raise UsageError(
            "the lab's name cannot be found in its file",
            where=f"{loaded.file}:{at.line}:{at.column}",
            fix="write `metadata: {name: NAME}` without an alias",
        )
    lines[at.line - 1] = before + quote + name + rest[len(quote) + len(old) :]
    source = "\n".join(lines).encode()
    renamed = replace(load_lab_file(loaded.file, io.BytesIO(source)), source=source)
    renamed.require_valid()
    if renamed.spec.name != name:
        raise UsageError("the lab's name cannot be replaced in its file", where=str(loaded.file))
    return renamed
