"""A server for the page that answers what a test tells it to, when it tells it to: the contract of `olc serve`, and no model.

A token is a word with the space before it, and its id a number that the server gives it when it first appears.
"""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openllama_cli

PAGE = Path(openllama_cli.__file__).parent / "serve" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
BOS, EOS = "<s>", "</s>"


@dataclass(frozen=True)
class Word:
    """A token of an answer: its text, its probability, and what else could stand there.

    trace: of texts, what was made of each: penalized, tempered, drawn, cut; where it is asked for.
    """

    text: str
    probability: float = 0.5
    others: tuple[tuple[str, float], ...] = ((" or", 0.3), (" else", 0.1))
    trace: Mapping[str, tuple[float, float | None, float, str | None]] | None = None
    stages: tuple[str, ...] = ("allowed", "temperature", "top-p")


@dataclass
class Script:
    """What the server does. words: what it answers, given the texts of the prompt's tokens.

    hold: while it is cleared, an answer stops after its first word. failure: status, body and headers of the next completions
    in place of an answer. breaks: the answer ends after its first word, without `[DONE]`. requests: for completions, as they
    came; looks: for more of the tokens at one position; keys: what came as `Authorization`.
    """

    words: Callable[[Sequence[str]], Sequence[Word]] = lambda prompt: [Word(" one"), Word(" two"), Word(EOS, 0.9)]
    hold: threading.Event = field(default_factory=threading.Event)
    failure: tuple[int, dict[str, Any], dict[str, str]] | None = None
    loading: bool = False
    breaks: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list)
    looks: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


class ScriptedServer:
    """Serves the page and a `Script`. It can die, and come back at the same address."""

    def __init__(self) -> None:
        self.script = Script()
        self.vocabulary: list[str] = [BOS, EOS]
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/"

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), type("Handler", (_Handler,), {"owner": self}))
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def id(self, text: str) -> int:
        if text not in self.vocabulary:
            self.vocabulary.append(text)
        return self.vocabulary.index(text)

    def encode(self, text: str) -> list[int]:
        return [0, *map(self.id, re.findall(r" ?[^ \n]+|\n| ", text))]

    def entry(self, word: Word, offset: int) -> dict[str, Any]:
        from math import log

        top = sorted([(word.text, word.probability), *word.others], key=lambda one: -one[1])
        return {
            "id": self.id(word.text),
            "text": word.text,
            "offset": offset,
            "logprob": log(word.probability),
            "entropy": 2.0,
            "top": [[self.id(text), text, log(probability)] for text, probability in top],
        }

    def trace(self, word: Word) -> dict[str, Any]:
        """As `olc serve` gives it with `olc.trace`; empty where the script has none."""
        if word.trace is None:
            return {}
        names = ("penalized", "tempered", "drawn", "cut")
        shares = {word.text: word.probability, **dict(word.others)}
        candidates = [
            {"token": self.id(text), "model": shares[text], **dict(zip(names, made, strict=True)), "taken": text == word.text}
            for text, made in word.trace.items()
        ]
        return {"trace": {"stages": list(word.stages), "candidates": candidates}}


class _Handler(BaseHTTPRequestHandler):
    owner: ScriptedServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        script = self.owner.script
        path = PAGE / (self.path.partition("?")[0].lstrip("/") or "index.html")
        if script.loading and self.path in ("/health", "/v1/models"):
            self._send(503, {"error": {"message": "loading", "code": "loading"}})
        elif self.path == "/favicon.ico":  # A browser asks for it wherever a document names none.
            self._send(200, b"")
        elif self.path == "/health":
            self._send(200, {"status": "ok"})
        elif self.path == "/v1/models":
            facts = {"bos_id": 0, "eos_ids": [1], "precision": "float32", "device": "cpu"}
            self._send(200, {"object": "list", "data": [{"id": "scripted", "max_model_len": 100, "olc": facts}]})
        elif path.is_file():
            # Kept by the browser from test to test, which saves most of the time that a page takes.
            headers = {"Content-Type": _TYPES[path.suffix], "Content-Security-Policy": POLICY, "Cache-Control": "max-age=600"}
            self._send(200, path.read_bytes(), headers)
        else:
            self._send(404, {"error": {"message": f"no {self.path}"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self._send(200, {"tokens": self.owner.encode(body["prompt"])})
            return
        script = self.owner.script
        looked_at = body["logprobs"] > 10
        script.keys.append(self.headers["Authorization"])
        (script.looks if looked_at else script.requests).append(body)
        if script.failure:
            status, answer, headers = script.failure
            self._send(status, answer, headers)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        with contextlib.suppress(OSError):  # The page may leave.
            if looked_at:
                self._deepen(script, body)
            else:
                self._answer(script, body)

    def _deepen(self, script: Script, body: dict[str, Any]) -> None:
        """More of the tokens at one position: what it has reported before, and four of 2 %."""
        word = script.words([self.owner.vocabulary[token] for token in body["prompt"]])[0]
        entry = self.owner.entry(Word(word.text, word.probability, (*word.others, *((f" r{n}", 0.02) for n in range(4)))), 0)
        self._event({"choices": [{"index": 0, "text": word.text, "olc": {"tokens": [entry], "finish_reason": "length"}}]})
        self.wfile.write(b"data: [DONE]\n\n")

    def _answer(self, script: Script, body: dict[str, Any]) -> None:
        owner = self.owner
        prompt = [owner.vocabulary[token] for token in body["prompt"]]
        length = 0
        if body["echo"]:
            entries = []
            for word in prompt:
                shown = "" if word == BOS else word
                entries.append(owner.entry(Word(word), length) | ({"logprob": None, "top": []} if word == BOS else {}))
                length += len(shown)
            self._event({"choices": [{"index": 0, "text": "".join(prompt[1:]), "olc": {"prompt": entries}}]})
        words = script.words(prompt)
        for number, word in enumerate(words):
            ends = word.text == EOS
            finish = ("eos" if ends else "length") if word is words[-1] else None
            entry = owner.entry(word, length) | (owner.trace(word) if body["olc"].get("trace") else {})
            text = "" if ends else word.text
            length += len(text)
            self._event({"choices": [{"index": 0, "text": text, "olc": {"tokens": [entry], "finish_reason": finish}}]})
            if script.breaks:
                return
            if number == 0:
                script.hold.wait(30)
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.flush()

    def _send(self, status: int, body: bytes | dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
