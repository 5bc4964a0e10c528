"""The small files of a model folder: reading them, the two lines about one that is damaged or not what its name says, and
writing a folder completely or not at all.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from openllama_cli.errors import ModelError
from openllama_cli.system.files import atomic_write, sync_folder
from openllama_cli.system.memory import size

Format = Literal["safetensors", "bin", "meta"]

# Weights in one file, in the order in which transformers looks for them; shards have an index, NAME.index.json.
WEIGHT_FILES: dict[Format, str] = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}
TOKENIZERS = ("tokenizer.model", "tokenizer.json")
TOKENIZER_FILES = (*TOKENIZERS, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")

# The largest published SentencePiece models are some 5 MB, indexes of shards some 10 MB; whatever is bigger than this is
# another file with its name, and reading it could take minutes and all of the memory.
MAX_BYTES = 16 * 2**20


def read(path: Path, most: int = MAX_BYTES) -> bytes:
    """The bytes of a tokenizer or configuration file. Raises ModelError when it cannot be read or is far too large for one.

    most: the largest size of such a file.
    """
    try:
        count = path.stat().st_size
        if count > most:
            wanted = "a tokenizer" if path.name in TOKENIZERS else f"a {path.name}"
            raise damaged(path, f"is {size(count)}, too large to be {wanted}")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", "check the file and its permissions") from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a model's folder; {} when the file is absent. Raises ModelError for anything but an object."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(read(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        line = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise damaged(path, f"is not valid JSON{line}") from error
    if not isinstance(value, dict):
        raise damaged(path, f"contains a JSON {type(value).__name__}, not an object")
    return value


def damaged(file: Path, what: str) -> ModelError:
    """A ModelError saying what is wrong with a file, and how to get it again."""
    return ModelError(f"{file} {what}", fetch_again(file))


def fetch_again(file: Path) -> str:
    """What to do about a broken file: a file in the Hub's cache is pulled again, any other one is the user's to copy."""
    for part in file.parts:
        if part.startswith("models--"):
            repo = part.removeprefix("models--").replace("--", "/")
            return f"remove it and download it again: olc models rm {repo} && olc models pull {repo}"
    return f"copy {file.name} again from its source, and compare size and checksum"


def refuse_stand_in(file: Path, start: bytes, wanted: str) -> None:
    """Raise ModelError for what people often have in place of a file: nothing, a Git LFS pointer, a web page.

    start: its first 64 bytes or more. wanted: what it should be, "weights" or "a SentencePiece model".
    """
    text = start.lstrip()
    if not text:
        raise damaged(file, "is blank" if start else "is empty (0 bytes)")
    if text.startswith(b"version https://git-lfs"):
        raise ModelError(
            f"{file} is a Git LFS pointer, not {wanted}",
            f"run `git lfs pull` in {file.parent}, or let `olc models pull` download the model",
        )
    if re.match(rb"<(!doctype|html|\?xml|head)", text, re.IGNORECASE):
        raise damaged(file, f"is a web page, not {wanted}: the download saved an error page")


@contextlib.contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to write into, which is called `path` after the block, complete; after any exception nothing is left of it.

    Its name until then is `.NAME.*.partial`. Flush each file (`write_json` does). replace: remove what is at `path` first.
    Raises OSError where it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        sync_folder(partial)
        if replace:
            shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(file: Path, value: object) -> None:
    """Write JSON for people to read, and flush it to the disk. Raises OSError."""
    with atomic_write(file) as stream:
        stream.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
