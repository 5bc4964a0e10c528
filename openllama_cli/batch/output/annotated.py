"""Annotations on their way to the journal: finished rows are gathered, annotated together, and then kept.

Whatever engine made them and in whatever order, each row's annotations depend on its own text alone, and a row is journalled
once, with them. A row that waits here is not done yet: after a crash it is done again.
"""

import json
import time
from collections.abc import Callable
from typing import Any

from openllama_cli.batch.output.lines import Results, to_line

# Rows annotated together, and how long the first of them may wait. A crash costs no more than these.
MOST_ROWS = 32
MOST_SECONDS = 1.0


class AnnotatedResults:
    """Adds an `annotations` field to every row's line: what `annotate` says of its text, null for a row that failed.

    results: where the lines go then. annotate: texts in, as many objects out, in types that JSON has. The text is the
    row's `text`, or in OpenAI's shape that of its choice, with the prompt in front if the row has `echo`.
    """

    def __init__(self, results: Results, annotate: Callable[[list[str]], list[dict[str, Any]]]) -> None:
        self._results, self._annotate = results, annotate
        self._waiting: list[tuple[int, dict[str, Any]]] = []
        self._since = 0.0

    def append(self, index: int, code: str | None, line: bytes) -> None:
        """Take a finished row. Raises OlcError when the disk refuses this one or one before it."""
        document = json.loads(line)
        if code is not None:
            self._results.append(index, code, to_line(document | {"annotations": None}))
            return
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append((index, document))
        if len(self._waiting) >= MOST_ROWS:
            self.flush()

    def flush_if_due(self) -> None:
        """`flush` if a row has waited for a second."""
        if self._waiting and time.monotonic() - self._since >= MOST_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Annotate and keep the rows that wait. Raises OlcError when the disk refuses."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        found = self._annotate([_text(document) for _, document in waiting])
        for (index, document), annotations in zip(waiting, found, strict=True):
            self._results.append(index, None, to_line(document | {"annotations": annotations}))


def _text(document: dict[str, Any]) -> str:
    text: str = document["response"]["body"]["choices"][0]["text"] if "response" in document else document["text"]
    return text
