"""What all records have in common: found in a file, checked; the model that they name; what differs in the surroundings."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from openllama_cli.batch.output.output import OutputFiles
from openllama_cli.errors import ModelError, UsageError
from openllama_cli.models.fingerprint import opened_fingerprint
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelSpec, scale_text
from openllama_cli.records.record import VERSION
from openllama_cli.records.validate import MisfitError, validate
from openllama_cli.system.convert import to_lines
from openllama_cli.version import __version__

_LARGEST = 256 << 20
OF_RESULT = "name a file with the output of olc complete --json, olc generate --json or olc score --json"
_OR_BATCH = f"{OF_RESULT}, or the OUTPUT.record.json of a batch"
# Of what is wrong in a damaged record, which may be of any length.
_MOST_SHOWN = 200
# What tells machines and libraries apart, in the order in which it is told.
_SURROUNDINGS = ("quantization", "dtype", "device", "engine", "forward", "versions", "machine")


@dataclass(frozen=True)
class Made:
    """What is common to all records: something was made with a model. name: of the file. document: all of it."""

    name: str
    document: dict[str, Any]

    @property
    def places(self) -> Sequence[Mapping[str, Any]]:
        """The surroundings in which it was made; of a batch there may be several."""
        return [self.document]

    @property
    def weights(self) -> tuple[object, object]:
        """By which two models are the same: the fingerprints of the files and of the adapters that were merged."""
        return self.document["model"].get("files"), [(one["scale"], one["files"]) for one in self.document["adapters"]]

    def spec(
        self, model: str | None, device: str | None, adapters: tuple[str, ...] = (), *, offline: bool = False
    ) -> ModelSpec:
        """The model that made it, loaded as it was. model, device, adapters: others to use.

        Raises UsageError where model or adapters have to be named.
        """
        told, merged = self.document["model"], self.document["adapters"]
        nameless = [one["name"] for one in merged if not adapters and one["repo_id"] is None]
        options = " ".join(map(_option, merged)) if nameless else ""
        if model is None and told["origin"] == "folder":
            raise UsageError(
                f"the model of {self.name} was a folder, {told['name']}, and records tell no paths",
                f"name it: -m path/to/{told['name']} {options}".rstrip(),
                code="replay_model",
            )
        if nameless:
            raise UsageError(
                f"adapter {nameless[0]} of {self.name} was a folder, and records tell no paths",
                f"name it: {options}",
                code="replay_model",
            )
        recorded: str = self.document["device"]
        where = device or (recorded if "," not in recorded else "auto")
        revision = told["revision"] if model is None else None
        quantize = self.document["quantization"]
        adapters = adapters or tuple(f"{one['repo_id']}:{one['scale']!r}" for one in merged)
        return ModelSpec(model or told["name"], revision, where, self.document["dtype"], offline, quantize, adapters)

    def check_weights(self, opened: OpenedModel) -> None:
        """Raise ModelError if a model's files are not those of the record; none is loaded by then."""
        found = opened_fingerprint(opened)
        recorded, here = self.document["model"]["files"], found["files"]
        changed = [name for name in sorted({*recorded, *here}) if recorded.get(name) != here.get(name)]
        if not changed and self.document["tokenizer"]["sha256"] != opened.tokenizer.sha256:
            changed = [self.document["tokenizer"]["name"]]
        adapters = self.document["adapters"], found.get("adapters", [])
        merged = [[(one["scale"], one["files"]) for one in side] for side in adapters]
        if not changed and merged[0] != merged[1]:
            raise ModelError(
                f"the adapters or their scales are not those of {self.name}",
                f"name them with --adapter: {', '.join(_label(one) for one in adapters[0]) or 'none'}",
                code="replay_weights",
            )
        if changed:
            shown = ", ".join(f"{name} {_change(name, recorded, here)}" for name in changed[:3])
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            told = self.document["model"]
            made_by = self.document["versions"].get("olc")
            named = f"path/to/{told['name']}" if told["origin"] == "folder" else told["name"]
            remedy = f"name the model that made it: -m {named}"
            if told["origin"] == "demo" and opened.folder.name == told["name"]:
                remedy = f"the demo model comes with olc: install the one that made it, olc {made_by}"
                if made_by == __version__:
                    remedy = "the record was changed, or the demo model of this installation: install olc again"
            raise ModelError(
                f"{opened.folder.name} is not the model of {self.name}: {shown}{more}", remedy, code="replay_weights"
            )


def check_form(name: str, document: Mapping[str, Any], remedy: str) -> None:
    """Raise UsageError for a record that is not as its schema says. name: its file. remedy: where it is damaged."""
    form = "batch" if document.get("command") == "batch" else "record"
    versions = document.get("versions")
    made_by = versions.get("olc") if isinstance(versions, dict) else None
    another = isinstance(made_by, str) and made_by != __version__
    try:
        validate(document, form, older=another)
    except MisfitError as problem:
        what = "is damaged"
        if problem.unknown and another:
            what, remedy = "is not of this olc", f"use the olc that made it, {str(made_by)[:_MOST_SHOWN]}, or a later one"
        why = str(problem) if len(str(problem)) <= _MOST_SHOWN else f"{str(problem)[:_MOST_SHOWN]}…"
        raise UsageError(f"the record of {name} {what}: {why}", remedy, code="record") from problem


@contextmanager
def guarded(name: str, remedy: str, *passed: str) -> Iterator[None]:
    """Raise UsageError for a record that turns out to be damaged. name: its file. passed: codes of errors that say more."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, UsageError) as problem:
        if isinstance(problem, UsageError) and problem.code in passed:
            raise
        why = f"{problem} is missing" if isinstance(problem, KeyError) else str(problem)
        why = why if len(why) <= _MOST_SHOWN else f"{why[:_MOST_SHOWN]}…"
        raise UsageError(f"the record of {name} is damaged: {why}", remedy, code="record") from problem


def _option(adapter: Mapping[str, Any]) -> str:
    """What names an adapter of a record, with a path to fill in where it was a folder."""
    where = f"path/to/{adapter['name']}" if adapter["repo_id"] is None else adapter["repo_id"]
    return f"--adapter {where}" + (f":{scale_text(adapter['scale'])}" if adapter["scale"] != 1 else "")


def _label(adapter: Mapping[str, Any]) -> str:
    return f"{adapter['name']}:{adapter['scale']:g}"


def _change(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return "is new" if name not in before else "is missing" if name not in now else "differs"


def read_document(path: Path, stdin: BinaryIO | None = None) -> dict[str, Any]:
    """The record in a file, a result's or a batch's, in the form that this olc reads. Raises UsageError where there is none.

    stdin: what to read where the path is -. The file is read once: it may be a pipe.
    """
    name, data = "stdin" if stdin is not None and str(path) == "-" else str(path), b""
    try:
        with path.open("rb") if stdin is None or str(path) != "-" else stdin as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise UsageError(f"{name} is longer than {_LARGEST >> 20} MiB", _OR_BATCH, code="record")
        found = json.loads(data)
    except OSError as problem:
        raise UsageError(f"{name} cannot be read: {problem.strerror}", _OR_BATCH, code="record") from problem
    except (ValueError, RecursionError) as problem:
        raise UsageError(*_not_one(name, path, data), code="record") from problem
    document = _within(found)
    if document is None:
        if isinstance(found, list) and any(map(_within, found)) and name != "stdin":
            remedy = f"put each on a line of its own: {to_lines(path)}"
            raise UsageError(f"{name} is a list of JSON documents", remedy, code="record")
        raise UsageError(f"{name} has no record", _instead_of(path), code="record")
    form = document.get("olc_record")
    if form is True or form != VERSION:
        raise UsageError(
            f"{name} has a record of another form ({repr(form)[:20]}; this olc reads {VERSION})",
            "update olc, or make the result again",
            code="record",
        )
    return document


def _within(found: Any) -> dict[str, Any] | None:
    """The record in a document, or the document itself if it is one."""
    if isinstance(found, dict) and "olc_record" not in found:
        olc = found.get("olc")
        found = olc.get("record") if isinstance(olc, dict) else None
    return found if isinstance(found, dict) else None


def _not_one(name: str, path: Path, data: bytes) -> tuple[str, str]:
    """The cause and the remedy where a file is not one JSON document: empty, several of them, or something else."""
    if not data.strip():
        return f"{name} is empty", _instead_of(path)
    text = data.decode("utf-8-sig", errors="replace").lstrip()
    with suppress(ValueError, RecursionError):
        first, end = json.JSONDecoder().raw_decode(text)
        if _within(first) is not None:
            remedy = "put each into a file of its own"
            if "\n" not in text[:end]:
                one = "pipe one of its lines, such as the first: head -n 1"
                remedy = one if name == "stdin" else f"pipe one of its lines: sed -n 1p {shlex.quote(str(path))}"
                remedy += " | olc replay -"
            return f"{name} is more than one JSON document", remedy
    return f"{name} is not one JSON document", _instead_of(path)


def _instead_of(path: Path) -> str:
    """The remedy for a file without a record: an OUTPUT of olc batch has its own beside it."""
    beside = OutputFiles.of(path).record
    return f"its record stands beside it: olc replay {shlex.quote(f'{path}.record.json')}" if beside.is_file() else _OR_BATCH


def changed_surroundings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs from one record to another besides their results, in words: "torch: 2.13.0, then 2.14.0"."""
    found = []
    for name in _SURROUNDINGS:
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [(key, old.get(key), new.get(key)) for key in {**old, **new}]
        else:
            found.append((name, old, new))
    return [f"{name}: {_shown(old)}, then {_shown(new)}" for name, old, new in found if old != new]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value in (None, []) else json.dumps(value)
