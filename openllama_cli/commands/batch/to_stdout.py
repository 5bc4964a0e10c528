"""`olc batch` to stdout: rows in the order of the input as they finish, and nothing to resume from."""

import hashlib
import tempfile
from pathlib import Path

from openllama_cli.batch.input.readers import read_rows
from openllama_cli.commands.batch.engines import fitted_settings
from openllama_cli.commands.batch.given import Plan
from openllama_cli.commands.batch.looks import keep_stdin
from openllama_cli.commands.batch.run import Batch, GracefulStop, input_changed, tell_empty
from openllama_cli.terminal.streams import out


def to_stdout(plan: Plan) -> None:
    """Write each row as soon as those before it are. Raises OlcError, RowsFailedError where rows failed."""
    from openllama_cli.batch.input.precheck import precheck
    from openllama_cli.batch.output.stream import RowStream

    with tempfile.TemporaryDirectory(prefix="olc-") as folder, GracefulStop() as stop:
        path = Path(plan.source)
        if plan.from_stdin:
            path = Path(folder) / "stdin"
            keep_stdin(path, restart=False)
        summary = precheck(path, plan.fmt, plan.settings)
        engine = plan.find_engine()
        settings = fitted_settings(plan.settings, engine)
        if plan.annotator is not None:
            plan.annotator.open()
        tell_empty(summary, plan.fmt)
        rows = RowStream(summary.rows, lambda line: out(line.decode()))
        batch = Batch(
            rows,
            summary,
            stop,
            engine,
            settings,
            batch_size=plan.batch_size,
            annotate=plan.annotator,
            source=plan.source,
            spooled=None,
            as_json=False,
        )
        digest = hashlib.sha256()
        batch.run(row for row in read_rows(path, plan.fmt, settings, on_bytes=digest.update) if row.index < summary.rows)
        if digest.hexdigest() != summary.sha256:
            raise input_changed(plan.source, "run it again")
        batch.report(Path("stdout"))
