"""Records of batches as files have them: checked, with INPUT and OUTPUT found and held against their hashes."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from openllama_cli.batch.input.readers import FormatName, input_format
from openllama_cli.batch.input.rows import RowSettings
from openllama_cli.batch.input.saved import restored
from openllama_cli.errors import ModelError, OlcError, UsageError
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelSpec
from openllama_cli.records.made import Made, check_form, guarded

_REMEDY = "name the OUTPUT.record.json that olc batch wrote beside OUTPUT"
_SUFFIX = ".record.json"


@dataclass(frozen=True)
class BatchRecord(Made):
    """The record of a batch. path: its file."""

    path: Path

    @property
    def rows(self) -> int:
        """Of INPUT."""
        return int(self.document["input"]["rows"])

    @property
    def format(self) -> FormatName:
        """Of INPUT."""
        return cast(FormatName, self.document["input"]["format"])

    @property
    def suffix(self) -> str:
        """Of OUTPUT, which says its format."""
        return Path(self.document["output"]["name"]).suffix.lower()

    @property
    def runs(self) -> Sequence[Mapping[str, Any]]:
        """See `record.merged`."""
        return cast(Sequence[Mapping[str, Any]], self.document["runs"])

    @property
    def places(self) -> Sequence[Mapping[str, Any]]:
        return [place for run in self.runs for place in run["places"]]

    @property
    def batch_size(self) -> int | None:
        """Rows at a time where most of them were made; None where that is not known."""
        return cast(int | None, max(self.runs, key=lambda run: int(run["rows"])).get("batch_size"))

    @property
    def server(self) -> str | None:
        """That completed the rows."""
        return cast(str | None, self.document["server"])

    def settings(self, *, model: str | None, examples: Path | None) -> RowSettings:
        """By which INPUT gives the same rows, to be run here. model: the one that was named. examples: their file, if it is
        needed. Raises UsageError.
        """
        with guarded(self.name, _REMEDY, "examples", "constraint_package"):
            told = self.document["settings"]
            beside = examples or self.path.parent / str((told["examples"] or {}).get("name"))
            settings = restored(told, examples=beside)
        named = settings.model if settings.model is not None and self.server is None else model
        return replace(settings, model=named, for_server=False)

    def spec(
        self, model: str | None, device: str | None, adapters: tuple[str, ...] = (), *, offline: bool = False
    ) -> ModelSpec:
        """As of all records; of a batch that a server completed the model has to be named.

        Where nothing is known of where its rows were made, the model is loaded as the command asked for. Raises UsageError.
        """
        asked = self.document["options"]
        if self.server is not None and model is None:
            raise UsageError(
                f"the rows of {self.name} were completed by a server, {self.server}",
                f"name the model that is to complete them here, the server's {self.document['model'].get('name')}: -m MODEL",
                code="replay_model",
            )
        known = {
            "dtype": self.document["dtype"] or asked.get("dtype") or "auto",
            "device": self.document["device"] or asked.get("device") or "auto",
            "quantization": self.document["quantization"] if self.document["dtype"] else asked.get("quantize"),
            "model": {"origin": "hub", "name": model, "revision": None, **self.document["model"]},
        }
        return Made(self.name, self.document | known).spec(model, device, adapters, offline=offline)

    def check_weights(self, opened: OpenedModel) -> None:
        """As of all records; what a server did not tell of its model is not compared. Raises ModelError."""
        if self.server is None:
            super().check_weights(opened)
            return
        olc = self.document["model"].get("olc")
        tokenizer = olc.get("tokenizer_sha256") if isinstance(olc, dict) else None
        if tokenizer is not None and tokenizer != opened.tokenizer.sha256:
            raise ModelError(
                f"{opened.folder.name} has another tokenizer than the server's model in {self.name}",
                f"name with -m the model that the server had, {self.document['model'].get('name')}",
                code="replay_weights",
            )

    def find_input(self, given: Path | None) -> Path:
        """INPUT, beside the record or where it was given. Raises UsageError where it is missing, OlcError for another one."""
        told = self.document["input"]
        return self._find("INPUT", given or self.path.parent / told["name"], "--input", told)

    def find_output(self, given: Path | None) -> Path:
        """OUTPUT, likewise."""
        told = self.document["output"]
        beside = self.path.with_name(self.path.name.removesuffix(_SUFFIX))
        if not self.path.name.endswith(_SUFFIX) or not beside.is_file():
            beside = self.path.parent / told["name"]
        return self._find("OUTPUT", given or beside, "--output", told)

    def _find(self, what: str, path: Path, flag: str, told: Mapping[str, Any]) -> Path:
        # As `olc batch` names what has no name.
        stdin = what == "INPUT" and told["name"] == "stdin"
        remedy = f"name the {what} that {self.name} was made with: {flag} {'FILE' if stdin else 'path/to/' + told['name']}"
        code = f"replay_{what.lower()}"
        try:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError) as problem:
            if stdin and path == self.path.parent / "stdin":
                remedy = "save what it read, byte for byte, and name that file: --input FILE"
                raise UsageError(f"INPUT of {self.name} was stdin, which is not kept", remedy, code=code) from problem
            why = getattr(problem, "strerror", None) or str(problem)
            raise UsageError(f"{what} {path} cannot be read: {why}", remedy, code=code) from problem
        if sha256 != told["sha256"]:
            cause = f"{path} is not the {what} of {self.name}, or has changed since: it has other bytes"
            raise OlcError(cause, f"name the unchanged {what}: {flag} FILE", code=code)
        return path


def read_batch(path: Path, document: dict[str, Any]) -> BatchRecord:
    """The record of a batch. document: see `records.read.read_document`. Raises UsageError for one that is damaged."""
    if document.get("command") != "batch":
        raise UsageError(f"{path} is the record of a result, not of a batch", _REMEDY, code="record")
    if "settings" not in document or "runs" not in document:
        cause = f"{path} does not have all that a replay needs: an earlier olc wrote it"
        raise UsageError(cause, "run the batch again, then olc diff on both outputs", code="record")
    record = BatchRecord(str(path), document, path)
    check_form(str(path), document, _REMEDY)
    with guarded(str(path), _REMEDY):
        _check(record)
    return record


def _check(record: BatchRecord) -> None:
    """What the schema does not say."""
    document = record.document
    for told in (document["input"], document["output"]):
        if Path(told["name"]).name != told["name"]:
            raise ValueError("INPUT and OUTPUT are not named")
    if record.rows < 1:
        raise ValueError("the number of rows is none")
    input_format(Path(), record.format)
    if record.server is None and ("files" not in document["model"] or document["tokenizer"] is None):
        raise ValueError("the model is not told")
    if not record.runs:
        raise ValueError("no run is told")
    record.spec("any", None, ("any",))
