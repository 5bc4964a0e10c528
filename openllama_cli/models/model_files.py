"""The files of a model folder: are they there, reading the small ones within limits, the boundary around all parsers, and
writing a folder completely or not at all. Nothing is opened that is not a regular file: a pipe never ends.
"""

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from openllama_cli.errors import ModelError, OlcError, Terminated, first_line
from openllama_cli.system.files import atomic_write, sync_folder
from openllama_cli.system.memory import is_out_of_memory, size

Format = Literal["safetensors", "bin", "meta", "gguf"]

# Weights in one file, in the order in which transformers looks for them; shards have an index, NAME.index.json.
WEIGHT_FILES: dict[Format, str] = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}
TOKENIZERS = ("tokenizer.model", "tokenizer.json")
TOKENIZER_FILES = (*TOKENIZERS, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")

# consolidated.00.pth, as Meta names them; also consolidated.00-of-02.pth and consolidated.pt, as others copied them.
META_SHARD = re.compile(r"consolidated(?:[._-]([0-9]{2,3})(?:-of-([0-9]{2,3}))?)?\.(?:pth|pt)")

# The largest published SentencePiece models are some 5 MB, of tokenizer.json files 35 MB. Whatever is bigger than this is
# another file with its name, and reading it could take minutes and all of the memory.
MAX_TOKENIZER_BYTES = {"tokenizer.model": 16 * 2**20, "tokenizer.json": 64 * 2**20}
# Of any other. An index of 2,000 layers takes 2 MB. Parsed JSON can take 25 times its bytes in memory.
MAX_JSON_BYTES = 4 * 2**20
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def is_there(file: Path) -> bool:
    """Whether a file is there; False where nothing of its name is.

    Raises ModelError for what is no regular file (a folder, a pipe, a device) and for a broken symlink, OSError where that
    cannot be found out. Opens nothing.
    """
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if file.is_symlink():
            raise damaged(file, f"is a broken symlink: {brief(str(file.readlink()), 120)} is not there") from None
        return False
    except ValueError:  # A NUL in its name.
        return False
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False
    if stat.S_ISREG(mode):
        return True
    kind = _KINDS.get(stat.S_IFMT(mode), "not a regular file")
    how = f"links to {brief(os.path.realpath(file), 120)}, {kind}" if file.is_symlink() else f"is {kind}"
    raise ModelError(f"{file} {how}, not a file", fetch_again(file))


def largest(name: str) -> int:
    """How many bytes a tokenizer, configuration or index of this name may have, on the Hub or on the disk."""
    return MAX_TOKENIZER_BYTES.get(name, MAX_JSON_BYTES)


def read(path: Path) -> bytes:
    """The bytes of a tokenizer or configuration file. Raises ModelError when it cannot be read or is far too large for one."""
    try:
        if not is_there(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        with path.open("rb") as stream:
            content = stream.read(largest(path.name) + 1)  # Not its size: /proc has files of 0 bytes that hold something.
        if len(content) > largest(path.name):
            what = "a tokenizer" if path.name in TOKENIZERS else f"the {path.name} of a Llama"
            raise damaged(path, f"is {size(path.stat().st_size)}, too large to be {what}")
        return content
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", "check the file and its permissions") from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a model's folder; {} when the file is absent. Raises ModelError for anything but an object."""
    try:
        if not is_there(path):
            return {}
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", "check the file and its permissions") from error
    content = read(path)
    with parsing(path):
        try:
            value = json.loads(content.decode("utf-8-sig"))
        except (ValueError, RecursionError, MemoryError) as error:
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
            return f"remove it and download it again: olc models rm --yes {repo} && olc models pull {repo}"
    return f"copy {brief(file.name)} again from its source, and compare size and checksum"


def brief(text: object, limit: int = 60) -> str:
    """A name or a value out of a file, on one line of an error message and not longer than that."""
    if not isinstance(text, (str, int, float, bool, type(None))):
        return f"a {type(text).__name__}"  # Formatting what is nested may take forever.
    line = (text if isinstance(text, str) else repr(text))[: limit + 1]
    line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def short(value: object) -> str:
    """A value of a file in an error: its repr, cut."""
    if isinstance(value, (dict, list)) and (
        len(value) > 4
        or any(isinstance(inner, (dict, list)) for inner in (value.values() if isinstance(value, dict) else value))
    ):
        return f"a JSON {'object' if isinstance(value, dict) else 'array'} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return "a number of many digits"
    text = repr(value if not isinstance(value, str) else value[:60])
    return text if len(text) <= 40 else f"{text[:37]}..."


@contextlib.contextmanager
def parsing(file: Path, *, memory: bool = True) -> Iterator[None]:
    """The boundary to outside data: whatever a parser of `file` raises becomes a ModelError that names the file.

    Parsers fail in any way on bytes that are damaged or hostile: RecursionError, MemoryError, OverflowError, struct.error,
    the panics of extension modules, which are no Exception. Only this passes: what is worded already, what the system says of
    the file, a name that is missing in the program, and what ends the process. memory: False where the weights themselves are
    read: that there is no room for them says nothing of the file, and passes too.
    """
    try:
        yield
    except (OlcError, OSError, NameError, ImportError, KeyboardInterrupt, SystemExit, GeneratorExit, Terminated):
        raise
    except BaseException as error:
        if not memory and is_out_of_memory(error):
            raise
        raise damaged(file, f"is damaged, or not what its name says ({type(error).__name__}: {first_line(error)})") from error


@contextlib.contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to write into, which is called `path` after the block, complete; after any exception nothing is left of it.

    Its name until then is `.NAME.*.partial`. Flush each file (`write_json` does). replace: remove what is at `path` first.
    Raises OSError where it cannot be written.
    """
    import shutil  # Not at the top: see `hub.cache.remove`.

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
