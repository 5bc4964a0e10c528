"""`olc batch --dry-run`: its figures as fields, and the rows that would fail as a table."""

import sys
from collections.abc import Mapping
from typing import Any

from openllama_cli.terminal.figures import clock, figure
from openllama_cli.terminal.streams import is_terminal, out
from openllama_cli.terminal.tables import fields, table


def show_forecast(forecast: Mapping[str, Any], memory: str | None) -> None:
    """forecast: the document of `batch.forecast.Forecast`. memory: what it says of memory, in words."""
    failing, prompts = forecast["failing"], forecast["prompt_tokens"]
    fields(
        [
            ("rows", _rows(forecast["rows"], failing["rows"])),
            ("prompt tokens", _prompt_tokens(prompts)),
            ("new tokens", _new_tokens(forecast)),
            ("shortened", _shortened(forecast["shortened"])),
            ("batch size", None if forecast["batch_size"] is None else str(forecast["batch_size"])),
            ("memory", memory),
            ("measured", _measured(forecast["measured"])),
            ("time", _time(forecast["estimate"], forecast["measured"])),
        ]
    )
    if failing["rows"]:
        more = failing["rows"] - len(failing["first"])
        out("\n" if is_terminal(sys.stdout) else "\n# rows that would fail\n")
        rows = [[row["custom_id"], str(row["line"] or ""), row["code"], row["message"]] for row in failing["first"]]
        table(("row", "line", "error", "why"), rows, right=("line",), optional=("line",))
        if more:
            out(f"and {more:,} more\n")


def _rows(rows: int, failing: int) -> str:
    return f"{rows:,}" + (f", {failing:,} of which would fail" if failing else "")


def _prompt_tokens(prompts: Mapping[str, int]) -> str | None:
    if "min" not in prompts:
        return None
    if prompts["min"] == prompts["max"]:
        return f"{prompts['total']:,}: {prompts['min']:,} per row"
    return f"{prompts['total']:,}: {prompts['min']:,} to {prompts['max']:,} per row, median {prompts['median']:,}"


def _new_tokens(forecast: Mapping[str, Any]) -> str | None:
    most, estimate = forecast["new_tokens_at_most"], forecast["estimate"]
    if not most:
        return None
    return f"at most {most:,}" + (
        "" if estimate is None else f"; about {estimate['new_tokens']:,} if all are like those measured"
    )


def _shortened(rows: int) -> str | None:
    are = "row ends" if rows == 1 else "rows end"
    return f"{rows:,} {are} where the model's context does" if rows else None


def _measured(measured: Mapping[str, Any] | None) -> str | None:
    if measured is None:
        return None
    rows, decode = measured["rows"], measured["decode_tokens_per_s"]
    speed = f"prefill {figure(measured['prefill_tokens_per_s'])} tokens/s"
    speed += "" if decode is None else f", decode {figure(decode)} tokens/s"
    unfinished = f", {measured['unfinished']} unfinished" if measured["unfinished"] else ""
    return f"{rows:,} row{'s' * (rows != 1)} in {figure(measured['seconds'])} s{unfinished}: {speed}"


def _time(estimate: Mapping[str, Any] | None, measured: Mapping[str, Any] | None) -> str | None:
    if estimate is None or measured is None:
        return None
    parts = [f"loading {clock(estimate['load_seconds'])}", f"prefill {clock(estimate['prefill_seconds'])}"]
    if estimate["decode_seconds"]:
        parts.append(f"decode {clock(estimate['decode_seconds'])}")
    about = "at most about" if measured["unfinished"] else "about"
    return f"{about} {clock(estimate['seconds'])} ({', '.join(parts)})"
