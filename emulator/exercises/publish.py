"""Publishing the definition of exercises: the JSON schema for editors, and the tables of the guide.

`python -m emulator.exercises.publish` renews both files after a key has changed; a test says when they are out of date.
"""

from __future__ import annotations

import json
from pathlib import Path

from emulator.core.data_files import share_dir
from emulator.exercises.model import exercise_schema
from emulator.labfile.publish import renewed_tables


def schema_path() -> Path:
    return share_dir() / "schemas" / "exercise.schema.json"


def guide_path() -> Path:
    return share_dir() / "docs" / "user" / "exercises.md"


def schema_text() -> str:
    """`schemas/exercise.schema.json` as it should be."""
    return json.dumps(exercise_schema(), indent=2) + "\n"


def guide_text(document: str) -> str:
    """The guide with the tables of all keys between its two marks renewed."""
    return renewed_tables(document, exercise_schema(), "###")


def main() -> None:
    schema_path().write_text(schema_text(), encoding="utf-8")
    guide_path().write_text(guide_text(guide_path().read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
