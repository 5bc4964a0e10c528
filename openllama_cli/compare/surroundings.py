"""What outputs tell of how they were made: model, tokenizer, template, options. A batch's stand in the journal beside it."""

import contextlib
from pathlib import Path
from typing import Any

from openllama_cli.batch.journal import format as journal_format
from openllama_cli.batch.journal.header import differences
from openllama_cli.batch.output.output import OutputFiles
from openllama_cli.compare.difference import Known
from openllama_cli.errors import OlcError

_NAMES = ("server", "model", "tokenizer", "template", "options")


def surroundings(path: Path, first: Any) -> dict[str, Any]:
    """What is known of a file. first: the first document in it. Empty where nothing is."""
    if isinstance(first, dict) and isinstance(first.get("olc"), dict):
        return _of_result(first["olc"])
    files = OutputFiles.of(path)
    with contextlib.suppress(OSError, OlcError), files.journal.open("rb") as file:
        header = journal_format.read_header(file, files.journal)
        return {name: header[name] for name in _NAMES if name in header}
    return {}


def _of_result(olc: dict[str, Any]) -> dict[str, Any]:
    if isinstance(record := olc.get("record"), dict):
        loading = {name: record.get(name) for name in ("dtype", "device", "engine")} | {"quantize": record.get("quantization")}
        options, model = (value if isinstance(value, dict) else {} for value in (record.get("options"), record.get("model")))
        return {
            "model": {name: model.get(name) for name in ("revision", "files")}
            | {"adapters": _adapters(record.get("adapters"))},
            "tokenizer": record.get("tokenizer"),
            # Under the names of the flags, as in a batch's journal. Which log-probabilities are told makes no other texts.
            "options": loading
            | {"num_samples" if name == "samples" else name: value for name, value in options.items() if name != "logprobs"},
            "versions": record.get("versions"),
        }
    options = {name: olc[name] for name in ("dtype", "device", "engine", "seed") if name in olc}
    return {
        "model": {"name": olc.get("model"), "revision": olc.get("revision")},
        "tokenizer": {"name": olc.get("model"), "sha256": olc.get("tokenizer_sha256")},
        "options": options,
        "versions": olc.get("versions"),
    }


def _adapters(told: Any) -> list[dict[str, Any]]:
    """As journals tell them; what is not in their form is none."""
    listed = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
    known = [one for one in listed if isinstance(one.get("name"), str) and type(one.get("scale")) in (int, float)]
    return [{name: one.get(name) for name in ("name", "scale", "files")} for one in known]


def changes(a: dict[str, Any], b: dict[str, Any]) -> tuple[Known, list[str]]:
    """What differs from A to B among what is known of both: what it may explain, and in words."""
    both = [name for name in _NAMES if name in a and name in b]
    pair = [{name: _shared(side[name], other[name]) for name in both} for side, other in ((a, b), (b, a))]
    if ("versions" in a) != ("versions" in b):  # A result tells what was used, a batch's journal what was asked for.
        asked = {key for side in pair for key, value in side.get("options", {}).items() if value in (None, "auto")}
        for side in pair:
            side["options"] = {key: value for key, value in side.get("options", {}).items() if key not in asked}
    differing = {name for name in both if pair[0][name] != pair[1][name]}
    known = Known(bool(differing & {"server", "model", "tokenizer"}), bool(differing & {"options", "template"}))
    versions = _shared(a.get("versions"), b.get("versions")), _shared(b.get("versions"), a.get("versions"))
    return known, differences(*pair) + (differences(*versions) if all(isinstance(one, dict) for one in versions) else [])


def _shared(value: Any, other: Any) -> Any:
    """Of two objects what both have: another kind of output tells other things, which is no difference."""
    if isinstance(value, dict) and isinstance(other, dict):
        return {key: value[key] for key in value if key in other}
    return value
