"""`olc explain`: what an error message means, and what to do about it."""

import codecs
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from openllama_cli.commands.shared.options import file_option
from openllama_cli.commands.shared.prompt_input import stdin_has_input
from openllama_cli.errors import OlcError, UsageError
from openllama_cli.explain.catalogue import KnownError, find, known_errors
from openllama_cli.explain.search import Diagnosis, Explanation, OwnMessage, Unknown, explain
from openllama_cli.terminal.streams import out_json

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
_ISSUES = {
    "torch": "pytorch/pytorch",
    "transformers": "huggingface/transformers",
    "accelerate": "huggingface/accelerate",
    "huggingface_hub": "huggingface/huggingface_hub",
    "safetensors": "huggingface/safetensors",
    "tokenizers": "huggingface/tokenizers",
    "peft": "huggingface/peft",
    "datasets": "huggingface/datasets",
    "sentencepiece": "google/sentencepiece",
    "bitsandbytes": "bitsandbytes-foundation/bitsandbytes",
}


@click.command(epilog=EXAMPLES)
@click.argument("text", nargs=-1)
@file_option("The text is this file's, such as a log of any size; - is stdin.")
@click.option("--json", "as_json", is_flag=True, help='One JSON object: {"explanations", "unknown"}.')
@click.option("--list", "as_list", is_flag=True, help="All errors that olc knows.")
def command(text: tuple[str, ...], file: str | None, as_json: bool, as_list: bool) -> None:
    """Name the cause of an error message, a traceback or a whole log, and the fix.

    Without TEXT, or with -, the text is read from stdin. Of several errors the root cause comes first. TEXT may also be the
    name of a known error. Nothing is sent anywhere. Exit 1 if the error is not known.
    """
    if as_list:
        if text or file is not None:
            raise UsageError("--list takes no text", "leave the text or --list out")
        _list(as_json=as_json)
        return
    known = find(text[0]) if len(text) == 1 and file is None else None
    if known is not None:
        _show([_document(known, None, None)], None, as_json=as_json)
        return
    diagnosis = explain(_not_empty(_pieces(text, file)))
    documents = [_explained(one) for one in diagnosis.explanations]
    if diagnosis.own is not None:
        documents.append(_own(diagnosis.own))
    _show(documents, diagnosis.unknown, as_json=as_json)
    if diagnosis.unknown is not None:
        raise _unknown_error(diagnosis)


def _pieces(text: tuple[str, ...], file: str | None) -> Iterator[str]:
    """The text to explain, in pieces. Raises UsageError if there is none or it cannot be read."""
    if text and file is not None:
        raise UsageError("a text and --file were both given", "leave one of them out")
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
            raise UsageError(f"cannot read {file}: {reason}", "check the path; --file takes a text file") from error
    elif text:
        given = " ".join(text)
        # Longer than a file name can be: asking would be an error.
        if len(os.fsencode(given)) < 200 and Path(given).is_file():
            raise UsageError(f"{given} is a file", f"to read it: olc explain -f {given}")
        # A byte that is not UTF-8 is no reason to refuse an error message.
        yield given.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    else:
        raise UsageError(
            "an error message is missing", "give it as an argument or a file (-f train.log), or paste it: olc explain -"
        )


def _decoded(stream: BinaryIO) -> Iterator[str]:
    """A stream of bytes as text, whatever its encoding: what cannot be decoded is replaced."""
    piece = stream.read(_PIECE)
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if piece.startswith(mark)), "utf-8")
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    while len(piece) == _PIECE:
        yield decoder.decode(piece)
        piece = stream.read(_PIECE)
    # A short piece is the last: to ask a terminal once more would take a second Ctrl-D.
    yield decoder.decode(piece, final=True)


def _not_empty(pieces: Iterator[str]) -> Iterator[str]:
    empty = True
    for piece in pieces:
        empty = empty and not piece.strip()
        yield piece
    if empty:
        raise UsageError("the text is empty", "give the error message, or the whole log: command 2>&1 | olc explain")


def _document(error: KnownError, line: str | None, line_number: int | None) -> dict[str, Any]:
    return {
        "code": error.code,
        "title": error.title,
        "cause": error.cause,
        "fix": error.fix,
        "olc": error.olc,
        "link": error.link,
        "line": line,
        "line_number": line_number,
    }


def _explained(one: Explanation) -> dict[str, Any]:
    return _document(one.error, one.line, one.line_number)


def _own(own: OwnMessage) -> dict[str, Any]:
    """An error of olc that is not in the catalogue has said itself what to do."""
    return {
        "code": "olc",
        "title": "An error of olc, which names its fix",
        "cause": own.cause,
        "fix": own.remedy,
        "olc": None,
        "link": None,
        "line": f"error: {own.cause}",
        "line_number": own.line_number,
    }


def _show(documents: list[dict[str, Any]], unknown: Unknown | None, *, as_json: bool) -> None:
    if as_json:
        rest = (
            None if unknown is None else {"line": unknown.line, "line_number": unknown.line_number, "library": unknown.library}
        )
        out_json({"explanations": documents, "unknown": rest})
        return
    from openllama_cli.terminal.views.explanations import show_explanation

    for place, document in enumerate(documents):
        heading = ""
        if len(documents) > 1:
            heading = (
                f"{len(documents)} known errors. First:" if place == 0 else "Then, or because of it:" if place == 1 else ""
            )
        labels = {"line": "line", "cause": "cause", "fix": "fix", "olc": "olc", "link": "see"}
        lines = [(label, document[key]) for key, label in labels.items() if document[key] is not None]
        if document["line"] is not None:
            lines[0] = ("line", f"{document['line_number']}: {document['line']}")
        show_explanation(document["code"], document["title"], lines, heading=heading, first=place == 0)


def _unknown_error(diagnosis: Diagnosis) -> OlcError:
    """What is said about an error that the catalogue does not have."""
    assert diagnosis.unknown is not None, "there is an unknown error"
    unknown = diagnosis.unknown
    cause = f"not among the {len(known_errors())} known errors: line {unknown.line_number}: {unknown.line}"
    if unknown.library == "openllama_cli":
        remedy = "run the olc command again with --debug and report the traceback that it prints"
    elif unknown.library in _ISSUES:
        remedy = (
            f"search for it, or report it with the whole traceback, at https://github.com/{_ISSUES[unknown.library]}/issues"
        )
    else:
        remedy = "give the whole log, not its last line; or report it with its traceback to the project that raised it"
    return OlcError(cause, remedy, code="unknown_error")


def _list(*, as_json: bool) -> None:
    errors = known_errors()
    if as_json:
        documents = [{"topic": one.topic, **_document(one, None, None), "example": one.example} for one in errors]
        out_json({"known_errors": [{k: v for k, v in one.items() if not k.startswith("line")} for one in documents]})
        return
    from openllama_cli.terminal.tables import table

    table(("code", "topic", "meaning"), [(one.code, one.topic, one.title) for one in errors], optional=("topic",))
