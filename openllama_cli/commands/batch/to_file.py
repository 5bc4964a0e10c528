"""`olc batch` to a file: rows go to a journal beside OUTPUT, which appears with its record once it is complete."""

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.batch.input.readers import read_rows
from openllama_cli.commands.batch.engines import fitted_settings
from openllama_cli.commands.batch.given import Plan
from openllama_cli.commands.batch.looks import keep_stdin
from openllama_cli.commands.batch.run import Batch, GracefulStop, input_changed, tell_empty
from openllama_cli.terminal.streams import notice

if TYPE_CHECKING:
    from openllama_cli.batch.journal.format import OutputRecord


def to_file(plan: Plan, *, retry_errors: bool, restart: bool, as_json: bool) -> None:
    """Begin, resume or extend a batch. retry_errors, restart: see the options. as_json: progress for programs.

    Raises OlcError, RowsFailedError where rows failed.
    """
    # Not before the options are known to be right: a usage error is to be as quick as help.
    from openllama_cli.batch.input.precheck import precheck
    from openllama_cli.batch.input.saved import saved
    from openllama_cli.batch.output.extend import Earlier, extend
    from openllama_cli.batch.output.lock import output_lock
    from openllama_cli.batch.output.output import check_output, open_journal, write_output
    from openllama_cli.records.batch.record import batch_record

    source, fmt, settings, annotator = plan.source, plan.fmt, plan.settings, plan.annotator
    made = ".completions.jsonl" if settings.scoring is None else ".scores.jsonl"
    target = Path(plan.output) if plan.output is not None else Path(source).with_suffix(made)
    files = check_output(target, None if plan.from_stdin else Path(source), restart=restart)
    with output_lock(files.output), GracefulStop() as stop:
        path = files.spool if plan.from_stdin else Path(source)
        if plan.from_stdin:
            keep_stdin(path, restart=restart)
        earlier = None if restart else Earlier.of(files)
        summary = precheck(path, fmt, settings, beginning=None if earlier is None else earlier.rows)
        engine = plan.find_engine()
        settings = fitted_settings(settings, engine)
        header = engine.header(settings, fmt, summary)
        if annotator is not None:
            annotator.open()
            header["options"] |= annotator.options
        if earlier is not None and summary.rows > earlier.rows and summary.beginning == earlier.rows_sha256:
            kept = extend(files, header, summary.rows)
            if kept is not None:
                more = summary.rows - earlier.rows
                rows = "1 more row" if more == 1 else f"{more} more rows"
                notice(f"olc: {source} has {rows}; {kept} of the {earlier.rows} before are done")
        with open_journal(files, header, summary.rows, retry_errors=retry_errors, restart=restart) as journal:
            if journal.complete:
                files.spool.unlink(missing_ok=True)
                notice(f"olc: {target} is already complete: {summary.rows} rows, none failed")
                return
            batch = Batch(
                journal,
                summary,
                stop,
                engine,
                settings,
                batch_size=plan.batch_size,
                annotate=annotator,
                source=source,
                spooled=path if plan.from_stdin else None,
                as_json=as_json,
            )
            tell_empty(summary, fmt)
            if journal.counts.done < summary.rows:
                digest = hashlib.sha256()
                # Rows that were appended meanwhile are none of this run's; reading on to the end shows that they are there.
                skip = lambda index: index >= summary.rows or journal.done(index)  # noqa: E731
                batch.run(read_rows(path, fmt, settings, skip=skip, on_bytes=digest.update))
                if digest.hexdigest() != summary.sha256:
                    raise input_changed(source, "start over with --restart")
            told = {"name": Path(source).name if not plan.from_stdin else "stdin", "rows": summary.rows, **header["input"]}

            def record(written: "OutputRecord") -> dict[str, Any]:
                output = {"name": files.output.name, "failed": journal.counts.failed, **asdict(written)}
                model = engine.told
                # A folder is no name that a row can have given, and records tell none.
                named = replace(settings, model=None) if model["model"].get("origin") == "folder" else settings
                return batch_record(header, saved(named), journal.runs, model, {"input": told, "output": output})

            write_output(journal, files.output, record)
            files.spool.unlink(missing_ok=True)
            batch.report(target)
