"""What `olc batch` shows without completing a row: rows so far, the first prompt, a report on what is finished."""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from openllama_cli.batch.input.lines import spool
from openllama_cli.batch.input.readers import FormatName, read_rows
from openllama_cli.batch.input.rows import RowSettings
from openllama_cli.commands.shared.few_shot import fitting, show_prompts, tell_cut
from openllama_cli.commands.shared.model import find_model
from openllama_cli.commands.shared.pictures import save, writable
from openllama_cli.errors import UsageError
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelSpec
from openllama_cli.terminal.streams import is_terminal, note, notice, one_line, out, out_json


def peek_rows(output: Path) -> None:
    """`--peek`: the rows that an unfinished batch has. Raises UsageError where there is none."""
    from openllama_cli.batch.journal.journal import Journal
    from openllama_cli.batch.output.output import OutputFiles

    files = OutputFiles.of(output)
    if not files.journal.exists():
        state = "it was not written by olc batch: no journal is beside it" if files.output.exists() else "it does not exist"
        raise UsageError(
            f"there is no unfinished batch of {output}: {state}", "name the -o of a batch that runs or was stopped"
        )
    journal = Journal.peek(files.journal)
    if journal.complete:
        raise UsageError(f"{output} is complete", f"all {journal.rows} rows are in it")
    for line in journal.finished_lines():
        out(line.decode() + "\n")
    notice(f"olc: {journal.counts.done} of {journal.rows} rows are done, {journal.counts.failed} of them failed")


def show_first_prompt(source: str, fmt: FormatName, settings: RowSettings, spec: ModelSpec | None, *, as_json: bool) -> None:
    """`--show-prompt`: the prompt of the first row. spec: of the model; None where a server has it. Raises OlcError."""
    fit = None
    if settings.few_shot is not None and spec is not None:
        fit = fitting(OpenedModel.of(find_model(spec)))
        settings = replace(settings, fit=fit)
    with tempfile.TemporaryDirectory(prefix="olc-") as folder:
        path = Path(source)
        if source == "-":
            path = Path(folder) / "stdin"
            keep_stdin(path, restart=False)
        row = next(read_rows(path, fmt, settings), None)
    if row is None:
        raise UsageError(f"{source} has no rows", "give at least one prompt", code="no_rows")
    if row.error is not None:
        raise UsageError(f"the first row is wrong: {row.error.message}", "correct it, then look again", code=row.error.code)
    if row.prompt is None:
        raise UsageError("the prompt of the first row is token ids", "leave out --show-prompt: they run as they are")
    if fit is not None and settings.few_shot is not None and row.sampling is not None:
        tell_cut(fit, 1, settings.few_shot.shots, None if row.choices is not None else row.sampling.max_tokens)
    show_prompts([row.prompt], as_json=as_json)


def show_report(output: Path, *, svg: str | None, as_json: bool) -> None:
    """`--report`: how right a finished batch is. Raises OlcError."""
    from openllama_cli.batch.report import reliability
    from openllama_cli.batch.report.measures import Report
    from openllama_cli.batch.report.rows import read_outcomes
    from openllama_cli.terminal.views.report import show_report as show

    if svg is not None:
        writable(svg)
    report = Report.of(read_outcomes(output))
    if report.rows == report.without_answer:
        remedy = "give INPUT a field answer with what each row should be; --carry all, the default, copies it to OUTPUT"
        raise UsageError(f"no row of {output} has a field answer to compare with", remedy, code="no_answers")
    if not report.compared:
        remedy = "its lines say why; correct the rows, or try again with --retry-errors"
        raise UsageError(f"all rows of {output} that have an answer failed", remedy, code="no_answers")
    document = report.document()
    if svg is not None:
        if document["calibration"] is None:
            remedy = "leave out --svg, or run the batch with --choices"
            raise UsageError(f"no row of {output} has probabilities of choices to draw", remedy, code="no_choices")
        save(Path(svg), reliability.svg(document["calibration"], title=f"reliability of {one_line(output.name)}"))
        note(f"wrote {svg}")
    if as_json:
        out_json(document)
    else:
        show(document)


def keep_stdin(path: Path, *, restart: bool) -> None:
    """Copy stdin into a file. Where it is empty (a terminal, a closed pipe) an interrupted run's copy stays, to be resumed."""
    if restart:
        path.unlink(missing_ok=True)
    if sys.stdin is None or is_terminal(sys.stdin):
        if sys.stdin is None and not path.exists():
            raise UsageError("INPUT is stdin, but stdin is closed", "give a file, or pipe the rows in")
        if path.exists():
            return
    spool(sys.stdin.buffer, path)
