"""A completions server on loopback, over real HTTP, that does what a prompt says: well-behaved, or not."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Answer = Callable[["Handler", dict[str, Any], int], None]


class Handler(BaseHTTPRequestHandler):
    """Answers GET /v1/models and POST /v1/completions."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        world = self.server.world
        world.seen.append(("GET", self.path, dict(self.headers), None))
        world.ended.wait(world.models_after)
        if self.path != "/v1/models" or world.models is None:
            self.reply(404, {"detail": "Not Found"})
        elif world.loading:
            world.loading -= 1
            self.reply(503, {"error": {"message": "Loading model", "code": 503}})
        else:
            self.reply(200, {"object": "list", "data": [{"object": "model", **model} for model in world.models]})

    def do_POST(self) -> None:
        world = self.server.world
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = json.dumps(body.get("prompt"))
        with world.lock:
            world.seen.append(("POST", self.path, dict(self.headers), body))
            world.attempts[prompt] += 1
            attempt = world.attempts[prompt]
            world.running += 1
            world.most_running = max(world.most_running, world.running)
        try:
            if world.key is not None and self.headers["Authorization"] != f"Bearer {world.key}":
                self.reply(401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}})
            elif self.path != "/v1/completions":
                self.reply(404, {"detail": "Not Found"})
            else:
                world.answer(self, body, attempt)
        finally:
            with world.lock:
                world.running -= 1

    def reply(self, status: int, document: Any, **headers: str) -> None:
        """Send a document as JSON, or bytes as they are."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def cut(self, data: bytes = b"") -> None:
        """Send this, and close the connection."""
        self.wfile.write(data)
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(2)

    def hang(self) -> None:
        """Answer nothing as long as the server runs."""
        self.server.world.ended.wait(60)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Tests are quiet."""


def completed(body: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A right answer: as many choices as were asked for, with a text that tells the prompt."""
    choices = [
        {"index": index, "text": f" {body['prompt']}!", "finish_reason": "stop", "logprobs": None}
        for index in range(body.get("n") or 1)
    ]
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": body["model"],
        "choices": choices,
        "usage": usage,
    } | more


def well_behaved(handler: Handler, body: dict[str, Any], attempt: int) -> None:
    handler.reply(200, completed(body))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    world: "CompletionsServer"

    def handle_error(self, *_: Any) -> None:
        """A client that left is none of the tests' concern."""


class CompletionsServer:
    """The server while its context lasts.

    answer: called with the handler, the request's JSON and how often its prompt has come, from 1. models: of /v1/models; None
    for a server that has no such list. key: that requests must have. loading: how many times it says that it is not ready.
    models_after: seconds until it answers GET.
    seen: method, path, headers and JSON of the requests. most_running: at a time.
    """

    def __init__(self, answer: Answer = well_behaved, *, port: int = 0) -> None:
        self.answer = answer
        self.models: list[dict[str, Any]] | None = [{"id": "base"}]
        self.key: str | None = None
        self.loading = 0
        self.models_after = 0.0
        self.seen: list[tuple[str, str, dict[str, str], Any]] = []
        self.attempts: Counter[str] = Counter()
        self.running = self.most_running = 0
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self._port = port

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The JSON of the requests for completions."""
        return [body for method, _, _, body in self.seen if method == "POST"]

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._server.world = self
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def slow(seconds: float) -> Answer:
    """Well-behaved, after a while."""

    def answer(handler: Handler, body: dict[str, Any], attempt: int) -> None:
        time.sleep(seconds)
        well_behaved(handler, body, attempt)

    return answer
