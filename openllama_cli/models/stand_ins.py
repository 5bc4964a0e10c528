"""What lies in place of a model's file, by its first bytes: nothing, a web page, an error message, another format."""

import re
from pathlib import Path

from openllama_cli.errors import ModelError
from openllama_cli.models.model_files import brief, damaged, is_there

# A Hugging Face folder is what olc reads in place of every other format.
_FOLDER = "use the model's Hugging Face folder (config.json, safetensors, tokenizer.model)"
_GGUF = "a GGUF file of llama.cpp"
# First bytes of what people have under the name of weights or of a tokenizer.
_FORMATS = (
    (b"GGUF", _GGUF),
    (b"ggml", "a GGML file of llama.cpp"),
    (b"lmgg", "a GGML file of llama.cpp"),
    (b"tjgg", "a GGML file of llama.cpp"),
    (b"fmgg", "a GGML file of llama.cpp"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"%PDF-", "a PDF document"),
)
# What browsers and downloaders call a file that has not come to its end.
_UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".incomplete", ".opdownload", ".aria2", ".!qb", ".tmp")
_ARCHIVES = ("gzip", "bzip2", "xz", "7-Zip", "zstd", "RAR")


def refuse_stand_in(file: Path, start: bytes, wanted: str) -> None:
    """Raise ModelError for what people often have in place of a file: nothing, a Git LFS pointer, a web page, another format.

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
    if re.match(rb"<(!doctype|html|\?xml|head|error)", text, re.IGNORECASE):
        raise damaged(file, f"is a web page, not {wanted}: the download saved an error page")
    format_ = _other_format(start)
    if format_ is not None:
        packed = format_.split()[1] in _ARCHIVES
        remedy = f"unpack it, and give the folder that was in it; or {_FOLDER}" if packed else _FOLDER
        if format_ == _GGUF:
            remedy = f"rename it to {file.stem}.gguf, and give that file as the model"
        raise ModelError(f"{file} is {format_}, not {wanted}", remedy)
    if wanted == "weights":
        _refuse_text(file, start)


def refuse_file_as_model(path: Path, shown: str) -> ModelError:
    """The error for a file given as MODEL, which is a folder. shown: how the user wrote it."""
    try:
        if not is_there(path):
            return ModelError(f"{shown} does not exist", "check the path; `olc models list` shows available models")
        if path.suffix.lower() in _UNFINISHED:
            return ModelError(
                f"{shown} is a download that has not ended, by its name ({path.suffix})",
                f"let it end, or download it again; then give {path.with_suffix('')}",
            )
        with path.open("rb") as stream:
            format_ = _other_format(stream.read(64))
    except ModelError as error:
        return error
    except OSError:
        format_ = None
    if format_ == _GGUF:
        return ModelError(f"{shown} is {format_} under another name", f"rename it to {path.name}.gguf")
    if format_ is not None:
        return ModelError(f"{shown} is {format_}, which olc does not read", _FOLDER)
    return ModelError(f"{shown} is a file; a model is a folder", f"give the folder that contains it: {path.parent}")


def _other_format(start: bytes) -> str | None:
    return next((name for magic, name in _FORMATS if start.startswith(magic)), None)


def _refuse_text(file: Path, start: bytes) -> None:
    """Raise ModelError if a file of weights begins as text does: what a server answered in place of the file."""
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # A character that is cut at the end does not count.
            return
        text = start[: error.start].decode()
    if len(text) >= 9 and all(char.isprintable() or char in "\t\r\n" for char in text):
        said = brief(" ".join(text.split()), 48)
        raise damaged(file, f"is text, not weights: the download saved an error message, or a note ({said})")
