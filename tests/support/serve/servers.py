"""A server of a tiny model in a thread of the tests, and ways to talk to it."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from openllama_cli.api import Model
from openllama_cli.generation.session import load_model
from openllama_cli.models.opened import open_model
from openllama_cli.models.spec import ModelSpec
from openllama_cli.serve import listen
from openllama_cli.serve.app import Server, make_app
from openllama_cli.serve.engine import Engine
from openllama_cli.serve.guard import Access, Entry


@dataclass
class Served:
    """A server that runs. log: what it told people. entries: of its requests' log. answering: requests that have none yet."""

    url: str
    engine: Engine
    client: httpx.Client
    log: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    answering: int = 0

    @property
    def model(self) -> Model:
        return self.engine.ready()[0]

    def logged(self) -> list[Entry]:
        """The entries of all requests so far: each comes a moment after the last byte of its answer."""
        while self.answering:
            time.sleep(0.005)
        return list(self.entries)

    def complete(self, **body: Any) -> dict[str, Any]:
        """A completion, greedy unless told otherwise."""
        answer = self.client.post("/v1/completions", json={"temperature": 0, **body})
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def stream(self, **body: Any) -> list[dict[str, Any]]:
        """The chunks of a streamed completion."""
        with self.client.stream("POST", "/v1/completions", json={"temperature": 0, **body, "stream": True}) as answer:
            assert answer.status_code == 200
            return events(answer.read().decode())

    def refused(self, **body: Any) -> tuple[int, str, str]:
        """Status, code and message of a request that is not answered."""
        # Python's own JSON, which can write what is not UTF-8.
        answer = self.client.post("/v1/completions", content=json.dumps(body), headers={"content-type": "application/json"})
        error = answer.json()["error"]
        assert set(error) >= {"message", "type", "param", "code"}
        return answer.status_code, error["code"], error["message"]


def events(text: str) -> list[dict[str, Any]]:
    """The JSON of server-sent events, which have to end with [DONE]."""
    parts = [part for part in text.split("\n\n") if part and not part.startswith(":")]
    assert all(part.startswith("data: ") for part in parts)
    assert parts[-1] == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-1]]


def joined(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The choices that a stream comes to: texts and lists joined, the rest from their last chunk."""
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for part in chunk["choices"]:
            found = choices.setdefault(part["index"], {})
            _join(found, part)
    return [choices[index] for index in sorted(choices)]


def _join(found: dict[str, Any], part: dict[str, Any]) -> None:
    for name, value in part.items():
        if isinstance(value, dict):
            _join(found.setdefault(name, {}), value)
        elif name == "text" or isinstance(value, list):
            found[name] = found[name] + value if name in found else value
        else:
            found[name] = value


@contextlib.contextmanager
def running(
    folder: Path, *, access: Access | None = None, always_bos: bool = False, max_rows: int | None = None, drain: float = 20.0
) -> Iterator[Served]:
    """A server of a model folder, in float32 on the CPU, on a free port; ready when the block begins."""
    ready = threading.Event()
    log: list[str] = []
    entries: list[Entry] = []
    spec = ModelSpec(str(folder), dtype="float32", device="cpu")
    engine = Engine(
        lambda: Model(load_model(open_model(spec), spec)),
        max_rows=max_rows,
        log=log.append,
        ended=lambda error: ready.set(),
    )
    server = Server(engine, always_bos, log.append)
    listener = listen.bind("127.0.0.1", 0)
    app = make_app(server, access, done=entries.append)

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        served.answering += scope["type"] == "http"
        try:
            await app(scope, receive, send)
        finally:
            served.answering -= scope["type"] == "http"

    http = listen.make_server(counted, drain=drain, log=log.append)
    thread = threading.Thread(target=http.run, args=([listener],))
    url = listen.url("127.0.0.1", listener)
    client = httpx.Client(base_url=url, timeout=120, verify=False)  # Certificates take a tenth of a second to load.
    served = Served(url, engine, client, log, entries)
    engine.start()
    thread.start()
    try:
        assert ready.wait(120)
        engine.ready()
        yield served
    finally:
        client.close()
        http.should_exit = True
        thread.join(60)
        assert engine.close(60)
