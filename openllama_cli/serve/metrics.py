"""Counts for Prometheus, in its text format."""

import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openllama_cli.serve.engine import Engine
    from openllama_cli.serve.guard import Entry

# Others are anybody's to invent.
_PATHS = ("/v1/completions", "/v1/models", "/tokenize", "/detokenize", "/tokenizer_info", "/health", "/metrics", "/")


class Metrics:
    """What has been answered since the start."""

    def __init__(self) -> None:
        self._started = time.time()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds = 0.0
        self._prompt_tokens = self._completion_tokens = 0

    def count(self, entry: "Entry") -> None:
        """Add a finished request."""
        self._requests[entry.path if entry.path in _PATHS else "other", entry.status] += 1
        self._prompt_tokens += entry.prompt_tokens or 0
        self._completion_tokens += entry.completion_tokens or 0
        if entry.completion_tokens is not None:
            self._seconds += entry.seconds

    def text(self, engine: "Engine") -> str:
        """All of them."""
        import psutil

        singles = [
            ("olc_prompt_tokens_total", "counter", "Tokens of prompts.", self._prompt_tokens),
            ("olc_completion_tokens_total", "counter", "Tokens generated.", self._completion_tokens),
            ("olc_completion_seconds_total", "counter", "Time that completions took, waiting included.", self._seconds),
            ("olc_rows_running", "gauge", "Completions in the decode loop.", engine.scheduler.active),
            ("olc_rows_waiting", "gauge", "Completions that wait for a place in it.", engine.scheduler.waiting),
            ("olc_ready", "gauge", "Whether the model is loaded.", int(engine.facts is not None)),
            ("process_resident_memory_bytes", "gauge", "Memory in use.", psutil.Process().memory_info().rss),
            ("process_start_time_seconds", "gauge", "Start of the process, in seconds of the epoch.", self._started),
        ]
        lines = ["# HELP olc_requests_total Requests answered.", "# TYPE olc_requests_total counter"]
        lines += [
            f'olc_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self._requests.items())
        ]
        for name, kind, help_, value in singles:
            lines += [f"# HELP {name} {help_}", f"# TYPE {name} {kind}", f"{name} {value}"]
        return "\n".join(lines) + "\n"
