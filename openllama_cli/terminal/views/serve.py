"""What `olc serve` shows: what runs where, and a line for every request. All of it on stderr."""

import shlex

from rich.text import Text

from openllama_cli.terminal.streams import message, one_line


def show_started(
    url: str, *, model: str, precision: str, device: str, max_rows: int, local: str | None, key_file: str | None
) -> None:
    """Write what a server serves, where, and how to try it. A terminal may wrap the command, which a line break would spoil."""
    auth = f' -H "Authorization: Bearer $(cat {shlex.quote(one_line(key_file))})"' if key_file is not None else ""
    json = ' -H "Content-Type: application/json"'
    example = """ -d '{"prompt": "The largest animal is"}'"""
    lines = [
        (
            "model",
            f"{one_line(model)}: {precision} on {device}, up to {max_rows} completion{'' if max_rows == 1 else 's'} at a time",
        ),
        ("page", f"{url}/"),
        ("API", f"{url}/v1{'   (with the key)' if key_file is not None else ''}"),
        *([("socket", one_line(local))] if local is not None else []),
        ("try", f"curl {url}/v1/completions{json}{auth}{example}"),
        ("end", "Ctrl-C"),
    ]
    for label, text in lines:
        message(Text.assemble((f"{label:>7}  ", "bold green"), text), wrap=False)


def request_line(
    method: str, path: str, status: int, code: str | None, *, prompt: int | None, completion: int | None, seconds: float
) -> Text:
    """One line for the log of requests."""
    style = "red" if status >= 500 else "yellow" if status >= 400 else "dim"
    parts = [f"{method} {one_line(path[:100])} {status}"]
    if code is not None:
        parts.append(code)
    if prompt is not None:
        parts.append(f"{prompt} tokens in, {completion or 0} out")
    parts.append(f"{seconds * 1000:.0f} ms")
    return Text("  ".join(parts), style=style)
