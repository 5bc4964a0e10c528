"""What a batch's rows depend on: cheap fingerprints of large files, and the difference between two runs in words.

A model of many gigabytes is not read through before every run. Of a large file its first and last MiB are hashed, and 4 KiB
of every 4 MiB between: the header (names, shapes and types of the weights) and some of every large weight. So a fine-tuned,
merged, converted or re-quantized checkpoint differs, even one whose changes are confined to a few matrices. What can go
unseen is a change of a few kilobytes inside a file, such as one edited number.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from openllama_cli.errors import OlcError

MIB = 1 << 20
WHOLE_BYTES = 16 * MIB  # files up to this size are hashed through
STRIDE_BYTES = 4 * MIB
SAMPLE_BYTES = 4096
_LONGEST_VALUE = 40


def model_fingerprint(files: Iterable[Path], *, revision: str | None = None) -> dict[str, Any]:
    """The fingerprint of a model's files: weights, configuration, tokenizer. revision: the Hub's commit, where it is known.

    {"revision": …, "files": {name: {"bytes": …, "sha256": …}}}. Names without their folder: a model may be moved. Raises
    OlcError for a file that cannot be read.
    """
    return {"revision": revision, "files": {file.name: file_fingerprint(file) for file in sorted(files)}}


def file_fingerprint(path: Path) -> dict[str, Any]:
    """{"bytes", "sha256"} of a file: of all of it up to 16 MiB, of samples beyond. Raises OlcError if it cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256()
            for offset, length in _blocks(size):
                digest.update(_read(file, offset, length))
    except OSError as problem:
        raise OlcError(f"{path} cannot be read: {problem.strerror}", "check the file and its permissions") from problem
    return {"bytes": size, "sha256": digest.hexdigest()}


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """The (offset, length) of what is hashed, in order."""
    if size <= WHOLE_BYTES:
        yield from ((offset, min(MIB, size - offset)) for offset in range(0, size, MIB))
        return
    yield 0, MIB
    yield from ((offset, SAMPLE_BYTES) for offset in range(STRIDE_BYTES, size - MIB, STRIDE_BYTES))
    yield size - MIB, MIB


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed between two journal headers, in words that name it: "--temperature was 0, is 0.8".

    Empty if nothing did; a setting that is None is one that is not there.
    """
    found = []
    for name in sorted(before.keys() | now.keys(), key=_input_first):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if name in ("rows", "input"):
            found += _input_differences(before, now)
        elif name == "model" and isinstance(old, dict) and isinstance(new, dict):
            found += _model_differences(old, new)
        elif name == "options" and isinstance(old, dict) and isinstance(new, dict):
            found += [_was(f"--{key.replace('_', '-')}", old.get(key), new.get(key)) for key in _changed(old, new)]
        elif name in ("template", "tokenizer"):
            found.append(_named_difference(name, old, new))
        else:
            found.append(_was(name, old, new))
    return list(dict.fromkeys(found))


def _input_first(name: str) -> tuple[int, str]:
    order = ("rows", "input", "model", "tokenizer", "template", "options")
    return (order.index(name) if name in order else len(order), name)


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, in the order of the newer mapping."""
    return [key for key in {**new, **old} if old.get(key) != new.get(key)]


def _input_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if before.get("rows") != now.get("rows"):
        return [f"the input had {before.get('rows')} rows, has {now.get('rows')}"]
    old, new = before.get("input"), now.get("input")
    if isinstance(old, dict) and isinstance(new, dict) and old.get("sha256") == new.get("sha256"):
        return [_was(f"the input's {key}", old.get(key), new.get(key)) for key in _changed(old, new)]
    return ["the input's rows changed"]


def _model_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The files that changed, then a changed revision or another key, unless the files say it all."""
    old_files, new_files = old.get("files"), new.get("files")
    found = []
    if isinstance(old_files, dict) and isinstance(new_files, dict):
        for name in _changed(old_files, new_files):
            what = "is new" if name not in old_files else "is gone" if name not in new_files else "changed"
            found.append(f"the model's file {name} {what}")
    return found or [_was(f"the model's {key}", old.get(key), new.get(key)) for key in _changed(old, new)]


def _named_difference(what: str, old: Any, new: Any) -> str:
    """A template or tokenizer: another name, or another content under the same name."""
    if old is None or new is None:
        return f"a {what} was {'not used, is' if old is None else 'used, is not'}"
    names = [value.get("name") if isinstance(value, dict) else None for value in (old, new)]
    if names[0] == names[1]:
        return f"the {what} changed"
    return _was(f"the {what}", *names)


def _was(name: str, old: Any, new: Any) -> str:
    return f"{name} was {_value(old)}, is {_value(new)}"


def _value(value: Any) -> str:
    """A value as one would type it, short."""
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "on" if value else "off"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | list | dict) else str(value)
    if isinstance(value, str) and value.isascii() and value.isprintable() and " " not in value and value:
        text = value
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
