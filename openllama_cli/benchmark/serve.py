"""How a server carries load: python -m openllama_cli.benchmark.serve [URL] [--clients 1,4,16,64] [--requests N] [--memory N]

Without a URL it starts `olc serve` with the options that follow `--`, such as `-- -m 3b-v2 --quantize int8`. For each number of
clients, every client sends one streamed completion after another: a prompt of some 60 tokens that no other shares, 32 tokens at
most, greedy. Prints a line of JSON each: requests and tokens a second, and the seconds until the first text arrived (median and
95 %). A URL may be of any server of OpenAI's completions, such as llama_cpp.server with the same weights.

--memory N: afterwards N short requests, and the server's memory after 100 of them (`bytes_after_base`) and after all.
"""

import argparse
import http.client
import json
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_WORDS = ("the", "of", "water", "animal", "city", "river", "number", "green", "old", "music", "letter", "stone", "winter")
_PROMPT_WORDS, _MAX_TOKENS = 55, 32


@dataclass
class Measured:
    """What the clients saw. first: seconds until the first text of each request. tokens: as the server counts them in `usage`,
    else chunks with text. failed: requests that were refused or not answered."""

    first: list[float] = field(default_factory=list)
    tokens: int = 0
    failed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def prompt(number: int, words: int = _PROMPT_WORDS) -> str:
    """A text of its own for every request."""
    chance = random.Random(number)
    return " ".join(chance.choice(_WORDS) for _ in range(words))


def load(
    url: str, clients: int, requests: int, model: str, *, first_number: int = 0, words: int = _PROMPT_WORDS
) -> dict[str, Any]:
    """Send `requests` requests from `clients` clients, each one after the other."""
    measured = Measured()
    numbers = iter(range(first_number, first_number + requests))

    def client() -> None:
        connection = _connect(url)
        while True:
            with measured.lock:
                number = next(numbers, None)
            if number is None:
                break
            try:
                _request(connection, prompt(number, words), model, measured)
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError):
                connection.close()  # The next request opens it again.
                with measured.lock:
                    measured.failed += 1
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    first = sorted(measured.first)
    return {
        "clients": clients,
        "requests": requests,
        "failed": measured.failed,
        "tokens": measured.tokens,
        "requests_per_s": round(requests / seconds, 2),
        "tokens_per_s": round(measured.tokens / seconds, 1),
        "first_text_s": round(statistics.median(first), 4) if first else None,
        "first_text_95_s": round(first[int(len(first) * 0.95)], 4) if first else None,
    }


def _connect(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=600)


def _request(connection: http.client.HTTPConnection, text: str, model: str, measured: Measured) -> None:
    body: dict[str, Any] = {"model": model, "prompt": text, "max_tokens": _MAX_TOKENS, "temperature": 0, "stream": True}
    body["stream_options"] = {"include_usage": True}
    started = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    first, texts, told = None, 0, None
    for line in answer:
        if line.startswith(b"data: {"):
            chunk = json.loads(line[6:])
            if any(choice.get("text") for choice in chunk.get("choices") or ()):
                texts += 1
                first = first or time.perf_counter() - started
            told = (chunk.get("usage") or {}).get("completion_tokens", told)
    answer.read()  # The end, without which no other request can follow.
    with measured.lock:
        measured.failed += answer.status != 200
        # One chunk may have several tokens, and a token no text: what the server tells is right.
        measured.tokens += texts if told is None else told
        if first is not None:
            measured.first.append(first)


def memory(url: str, requests: int, *, base: int = 100, words: int = _PROMPT_WORDS) -> dict[str, Any]:
    """The server's memory after `base` short requests and after all, from 8 clients."""
    sizes = []
    for start, end in ((0, base), (base, requests)):
        numbers = iter(range(start, end))
        lock = threading.Lock()

        def client(numbers: Iterator[int] = numbers, lock: threading.Lock = lock) -> None:
            connection = _connect(url)
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    break
                scored = {"logprobs": number % 2, "echo": number % 4 == 0}
                body = {"prompt": prompt(number, words), "max_tokens": 1 + number % 3, **scored}
                connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
                connection.getresponse().read()
            connection.close()

        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        connection = _connect(url)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        found = re.search(r"^process_resident_memory_bytes (\d+)", text, re.MULTILINE)
        assert found is not None, "only olc's own server tells its memory"
        sizes.append(int(found[1]))
    growth = round(sizes[1] / sizes[0] - 1, 4)
    return {"requests": requests, "bytes_after_base": sizes[0], "bytes_after_all": sizes[1], "growth": growth}


@contextmanager
def started(arguments: Sequence[str]) -> Iterator[str]:
    """`olc serve` in a process of its own; its address once it is ready."""
    command = [sys.executable, "-m", "openllama_cli", "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r"page +(http://\S+)/", line):
                    break
            else:
                sys.exit("".join(lines))
            # Read on, or the server would wait for room in the pipe.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield found[1]
        finally:
            process.terminate()


def main() -> None:
    """Print the lines of JSON that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m openllama_cli.benchmark.serve", description="Load a completions server.")
    parser.add_argument("url", nargs="?", metavar="URL")
    parser.add_argument("--clients", default="1,4,16,64", metavar="N,…")
    parser.add_argument("--requests", type=int, default=8, metavar="N", help="of each client, and 64 at least in all")
    parser.add_argument("--memory", type=int, default=0, metavar="N")
    parser.add_argument("--model", default="x", help="what the requests name")
    own, served = sys.argv[1:], []
    if "--" in own:
        own, served = own[: own.index("--")], own[own.index("--") + 1 :]
    options = parser.parse_args(own)
    if options.url is not None:
        _measure(options.url, options)
        return
    with started(served) as url:
        _measure(url, options)


def _measure(url: str, options: argparse.Namespace) -> None:
    load(url, 1, 2, options.model, first_number=10**6)  # The first requests also wait for what is done once.
    for number, clients in enumerate(map(int, options.clients.split(","))):
        requests = max(64, clients * options.requests) if options.requests > 1 else clients
        print(json.dumps(load(url, clients, requests, options.model, first_number=number * 10**5)), flush=True)
    if options.memory:
        print(json.dumps(memory(url, options.memory)), flush=True)


if __name__ == "__main__":
    main()
