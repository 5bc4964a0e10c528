""" """

import json
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError

# The largest published SentencePiece models are some 5 MB; whatever is bigger than this is another file with its name.
MAX_MODEL_BYTES = 256 * 2**20

GET_AGAIN = "get the file again (`olc models pull` for a Hub model) or copy it from where the model came from"


def read(path: Path) -> bytes:
    """The bytes of a tokenizer file. Raises ModelError when it cannot be read or is far too large to be one."""
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise ModelError(f"{path} is {size / 1e9:.1f} GB, too large to be a tokenizer", GET_AGAIN)
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
        raise ModelError(f"{path} is not valid JSON{line}", GET_AGAIN) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a JSON {type(value).__name__}, not an object", GET_AGAIN)
    return value
