"""`olc explain`: what an error message means, and what to do about it."""

import codecs
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from openllama_cli.commands.shared.options import file_option
from openllama_cli.errors import OlcError, UsageError
from openllama_cli.explain.catalogue import KnownError, find, known_errors
from openllama_cli.explain.diagnosis import Explanation, Unknown
from openllama_cli.explain.own_code import OwnLine
from openllama_cli.explain.search import explain
from openllama_cli.terminal.streams import out_json, stdin_has_input

EXAMPLES = """\b
Examples:
  olc explain "RuntimeError: Expected all tensors to be on the same device"
  torchrun example.py 2>&1 | olc explain
  olc explain -f train.log --json | jq -r '.explanations[0].fix'
  olc explain --list
  olc explain mixed_devices
"""

_PIECE = 1 << 20
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    # What PowerShell writes for `> file`.
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OF_HUGGING_FACE = ("transformers", "accelerate", "huggingface_hub", "safetensors", "tokenizers", "peft", "datasets")
_ISSUES = {name: f"huggingface/{name}" for name in _OF_HUGGING_FACE} | {
    "torch": "pytorch/pytorch",
    "sentencepiece": "google/sentencepiece",
    "bitsandbytes": "bitsandbytes-foundation/bitsandbytes",
}

# What is shown of an explanation, in this order, and how it is labeled.
_LABELS = {"line": "line", "your_code": "your code", "cause": "cause", "fix": "fix", "olc": "olc", "link": "see"}


@click.command(epilog=EXAMPLES)
@click.argument("text", nargs=-1)
@file_option("Read the text from FILE, such as a log of any size; - is stdin.")
@click.option("--json", "as_json", is_flag=True, help='Print one JSON object: {"explanations", "unknown"}.')
@click.option("--list", "as_list", is_flag=True, help="List all known errors.")
def command(text: tuple[str, ...], file: str | None, as_json: bool, as_list: bool) -> None:
    """Explain an error message, a traceback or a log: the cause and the fix.

    Without TEXT, or with -, the text is read from stdin. If there are several errors, the root cause comes first. TEXT may also
    be the code of a known error. Nothing is sent anywhere. The exit code is 1 if the error is not known, or if there is none.
    """
    if as_list:
        if text or file is not None:
            raise UsageError("--list and a text cannot be combined", "give only one of them")
        _list(as_json=as_json)
        return
    known = find(text[0]) if len(text) == 1 and file is None else None
    if known is not None:
        _show([_document(known)], None, as_json=as_json)
        return
    diagnosis = explain(_not_empty(_pieces(text, file)))
    documents = [_document(one.error, one) for one in diagnosis.explanations]
    _show(documents, diagnosis.unknown, as_json=as_json)
    if diagnosis.unknown is not None:
        raise _unknown_error(diagnosis.unknown)
    if not documents:
        cause = "no error was found: nothing in the text reads like an error message"
        raise OlcError(cause, "give all that the command prints, stderr too: command 2>&1 | olc explain", code="no_error")


def _pieces(text: tuple[str, ...], file: str | None) -> Iterator[str]:
    """The text to explain, in pieces. Raises UsageError if there is none or it cannot be read."""
    if text and file is not None:
        raise UsageError("both a text and --file were given", "give only one of them")
    if file == "-" or text == ("-",) or (not text and file is None and stdin_has_input()):
        if sys.stdin is None:
            raise UsageError("stdin is closed", "give the text as an argument")
        yield from _decoded(sys.stdin.buffer)
    elif file is not None:
        try:
            with Path(file).open("rb") as stream:
                yield from _decoded(stream)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(f"cannot read {file}: {reason}", "check the path; --file expects a text file") from error
    elif text:
        given = " ".join(text)
        # Longer than a file name can be: asking would be an error.
        if len(os.fsencode(given)) < 200 and Path(given).is_file():
            raise UsageError(f"{given} is a file", f"to read it: olc explain -f {given}")
        # A byte that is not UTF-8 is no reason to refuse an error message.
        yield given.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    else:
        raise UsageError(
            "no error message was given", "give it as an argument or a file (-f train.log), or paste it: olc explain -"
        )


def _decoded(stream: BinaryIO) -> Iterator[str]:
    """A stream of bytes as text, whatever its encoding: what cannot be decoded is replaced."""
    piece = stream.read(_PIECE)
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if piece.startswith(mark)), "utf-8")
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    while len(piece) == _PIECE:
        yield decoder.decode(piece)
        piece = stream.read(_PIECE)
    # A short piece is the last: reading a terminal again would need a second Ctrl-D.
    yield decoder.decode(piece, final=True)


def _not_empty(pieces: Iterator[str]) -> Iterator[str]:
    empty = True
    for piece in pieces:
        empty = empty and not piece.strip()
        yield piece
    if empty:
        raise UsageError("the text is empty", "give the error message, or the full log: command 2>&1 | olc explain")


def _document(error: KnownError, found: Explanation | None = None) -> dict[str, Any]:
    told = {name: getattr(error, name) or None for name in ("code", "title", "cause", "fix", "olc", "link", "rank")}
    place = (found.line, found.line_number, _your_code(found.own_line)) if found is not None else (None,) * 3
    return told | dict(zip(("line", "line_number", "your_code"), place, strict=True))


def _your_code(own: OwnLine | None) -> dict[str, Any] | None:
    return None if own is None else {"file": own.file, "line": own.line, "code": own.code}


def _unknown_document(unknown: Unknown) -> dict[str, Any]:
    near = [{"code": one.code, "title": one.title, "shared": list(one.shared)} for one in unknown.nearest]
    told = {"line": unknown.line, "line_number": unknown.line_number, "library": unknown.library}
    return told | {"your_code": _your_code(unknown.own_line), "nearest": near}


def _show(documents: list[dict[str, Any]], unknown: Unknown | None, *, as_json: bool) -> None:
    if as_json:
        out_json({"explanations": documents, "unknown": None if unknown is None else _unknown_document(unknown)})
        return
    from openllama_cli.terminal.views.findings import show_explanation

    headings = ("", "") if len(documents) == 1 else (f"{len(documents)} known errors. First:", "Then, or because of it:")
    if unknown is not None:
        headings = ("Known, but not the cause:", "")
    for place, document in enumerate(documents):
        shown = {key: document[key] for key in _LABELS if document[key] is not None}
        if document["line"] is not None:
            shown["line"] = f"{document['line_number']}: {document['line']}"
        if document["your_code"] is not None:
            shown["your_code"] = str(OwnLine(**document["your_code"]))
        heading = headings[place] if place < 2 else ""
        lines = [(label, shown[key]) for key, label in _LABELS.items() if key in shown]
        show_explanation(document["code"], document["title"], lines, heading=heading, first=place == 0)


def _unknown_error(unknown: Unknown) -> OlcError:
    """What is said about an error that the catalogue does not have."""
    own = f" (your code: {unknown.own_line})" if unknown.own_line is not None else ""
    cause = f"not one of the {len(known_errors())} known errors: line {unknown.line_number}: {unknown.line}{own}"
    if unknown.library == "openllama_cli":
        fix = "run the olc command again with --debug and report the traceback that it prints"
    elif unknown.line.startswith("error: "):
        fix = "if olc printed it, its next line, “fix: …”, says what to do; else give the full log"
    elif unknown.library in _ISSUES:
        fix = f"search for it, or report it with the full traceback, at https://github.com/{_ISSUES[unknown.library]}/issues"
    else:
        fix = "give the full log, not only its last line; or report it with its traceback to the project that raised it"
    if unknown.nearest:
        near = " and ".join(f"{one.code} ({', '.join(one.shared)})" for one in unknown.nearest)
        fix += f"; nearest by the words they share: {near}: olc explain {unknown.nearest[0].code}"
    return OlcError(cause, fix, code="unknown_error")


def _list(*, as_json: bool) -> None:
    errors = known_errors()
    if as_json:
        names = ("topic", "code", "title", "cause", "fix", "olc", "link", "example")
        out_json({"known_errors": [{name: getattr(one, name) for name in names} for one in errors]})
        return
    from openllama_cli.terminal.tables import table

    table(("code", "topic", "meaning"), [(one.code, one.topic, one.title) for one in errors], optional=("topic",))
