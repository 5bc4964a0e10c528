"""The JSON Schemas of olc's JSON outputs (draft 2020-12), which ship with the package."""

from pathlib import Path

from openllama_cli.errors import UsageError

_FOLDER = Path(__file__).parent.parent / "schemas"


def names() -> list[str]:
    """Of all schemas."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def schema(name: str) -> str:
    """The text of a schema. Raises UsageError for a name that there is not."""
    if name not in names():
        raise UsageError(f"there is no schema {name!r}", f"use one of {', '.join(names())}", code="schema")
    return (_FOLDER / f"{name}.json").read_text(encoding="utf-8")
