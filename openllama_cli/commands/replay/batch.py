"""`olc replay` of the record of a batch: its rows read and run as the batch did, and compared with OUTPUT."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.batch.input.readers import read_rows
from openllama_cli.commands.batch.engines import LocalEngine, Work, fitted_settings, open_engine
from openllama_cli.commands.replay.batch_lines import Replayed
from openllama_cli.errors import OlcError, UsageError
from openllama_cli.records.made import changed_surroundings
from openllama_cli.records.replay import rounding
from openllama_cli.terminal.views.batch import BatchProgress

if TYPE_CHECKING:
    from openllama_cli.batch.input.precheck import InputSummary
    from openllama_cli.models.spec import ModelSpec
    from openllama_cli.records.batch.read import BatchRecord


@dataclass(frozen=True)
class ReplayOptions:
    """What is replayed. source, output, examples: the batch's files, where they are not beside the record. rows: --rows.

    sample: so many rows by chance, with this seed. batch_size: None for as many rows at a time as ran then.
    """

    source: str | None = None
    output: str | None = None
    examples: str | None = None
    rows: str | None = None
    sample: int | None = None
    seed: int | None = None
    batch_size: int | None = None

    @property
    def given(self) -> str | None:
        """The first option that is for batches only."""
        flags = ("--input", "--output", "--examples", "--rows", "--sample", "--seed")
        values = (self.source, self.output, self.examples, self.rows, self.sample, self.seed)
        return next((flag for flag, value in zip(flags, values, strict=True) if value is not None), None)

    def check(self) -> None:
        """Raise UsageError for what cannot stand together."""
        if self.rows is not None and self.sample is not None:
            raise UsageError("--rows and --sample cannot be combined", "leave one of them out")
        if self.seed is not None and self.sample is None:
            raise UsageError("--seed requires --sample", "say how many rows: --sample 50")


def replay_batch(record: "BatchRecord", spec: "ModelSpec", options: ReplayOptions) -> Replayed:
    """Run rows of a batch again. spec: the model, as the record says or as it was named. Raises OlcError."""
    from openllama_cli.batch.input.precheck import precheck
    from openllama_cli.compare.lines import open_lines
    from openllama_cli.records.batch import select
    from openllama_cli.records.batch.compare import Comparer

    options.check()
    names = None if options.rows is None else select.parse(options.rows)
    source, output = record.find_input(_path(options.source)), record.find_output(_path(options.output))
    settings = record.settings(model=spec.model, examples=_path(options.examples))
    engine = open_engine(spec, None, None, settings)
    assert isinstance(engine, LocalEngine)
    record.check_weights(engine.opened)
    summary = precheck(source, record.format, settings)
    _check_rows(record, summary)
    if names is not None:
        chosen: Sequence[int] = select.named(read_rows(source, record.format, settings), names, record.rows)
    elif options.sample is not None:
        chosen = select.sample(record.rows, options.sample, options.seed or 0)
    else:
        chosen = range(record.rows)
    settings = fitted_settings(settings, engine)
    with open_lines(output) as lines:
        comparer = Comparer(output, lines, record.rows, rounding(record))
        places: list[Mapping[str, Any]] = []
        work = Work(
            len(chosen),
            summary.longest_prompt + settings.sampling.max_tokens,
            options.batch_size or record.batch_size,
            comparer.add,
            lambda: False,
            lambda run: places.extend(run["places"]),
        )
        wanted = chosen if isinstance(chosen, range) else frozenset(chosen)
        rows = read_rows(source, record.format, settings, skip=lambda index: index not in wanted)
        with engine.runner(work) as runner:
            shown = BatchProgress(len(chosen), 0, as_json=False)
            try:
                for progress in runner.run(comparer.watched(rows)):
                    shown.update(progress.rows, progress.failed, progress.tokens)
            finally:
                shown.finish(done=comparer.compared == len(chosen))
    partings = sorted(comparer.partings, key=lambda parting: parting.index)
    changed = _changed(record, places[0])
    return Replayed(record, partings, comparer.compared, comparer.tokens, comparer.noise, changed)


def hold_against(record: "BatchRecord", other: "BatchRecord", output: str | None) -> Replayed:
    """Compare the OUTPUTs of two batches; nothing is run. output: the first one's, if it is not beside it. Raises OlcError."""
    from openllama_cli.compare.lines import open_lines
    from openllama_cli.records.batch.against import against, refuse_others

    refuse_others(record, other)
    with open_lines(record.find_output(_path(output))) as a, open_lines(other.find_output(None)) as b:
        held = against(a, b, rounding(record))
    there = [place for run in other.runs for place in run["places"]]
    changed = [line for place in there for line in _changed(record, place)]
    return Replayed(record, held.partings, held.compared, held.tokens, held.noise, list(dict.fromkeys(changed)))


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def _check_rows(record: "BatchRecord", summary: "InputSummary") -> None:
    """Raise OlcError where the settings of a record make other rows of its INPUT than the batch had."""
    told = record.document["input"]
    # Messages of wrong rows name files as the batch did, and a server got the lines as they are.
    same = summary.errors or record.server is not None or summary.rows_sha256 == told.get("rows_sha256")
    if summary.rows != record.rows or not same:
        raise OlcError(
            f"this olc makes other rows of {told['name']} than the batch of {record.name} had",
            f"use the version that made them: olc {(record.document['versions'] or {}).get('olc', 'as it was then')}",
            code="replay_rows",
        )


def _changed(record: "BatchRecord", now: Mapping[str, Any]) -> list[str]:
    """What differs from where the rows were made to where they are made now, in words."""
    places = [(run, place) for run in record.runs for place in run["places"]]
    found = []
    for run, place in places:
        where = ""
        if len(places) > 1:
            some = "some of " if len(run["places"]) > 1 else ""
            where = f"{some}{run['rows']} of {record.rows} rows: "
        if place["dtype"] is None:
            found.append(f"{where}it is not known where they were made")
        else:
            found += [where + change for change in changed_surroundings(place, now)]
    return found
