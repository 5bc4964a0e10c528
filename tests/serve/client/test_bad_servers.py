"""Servers that hang, die or lie: a command runs here if nothing was shown yet, and says so in two lines if something was."""

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.openai_api.request import RECORD
from openllama_cli.serve.local_socket import precision_name, socket_folder, socket_path
from tests.conftest import Olc
from tests.support.forked import Forked
from tests.support.schemas import valid
from tests.support.serve.completions import CompletionsServer, Handler, completed

HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n" + b'{"status":"ok"}'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def event(text: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


class Liar:
    """A server on the model's own socket. act: called with the connection once a request for completions has come."""

    def __init__(self, path: Path, act: Callable[[socket.socket], None]) -> None:
        self.path, self._act = path, act
        self.left = threading.Event()
        self.asked = threading.Event()

    def __enter__(self) -> "Liar":
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(20)
        self.path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(HEALTHY)
                if connection.recv(65536):
                    self.asked.set()
                    self._act(connection)
                    while connection.recv(65536):
                        pass
            self.left.set()


@pytest.fixture
def path(tiny_model: Path) -> Path:
    """Where a server of the tiny model would listen."""
    socket_folder().mkdir(mode=0o700, exist_ok=True)
    return socket_path(tiny_model, None, precision_name("auto", None), "cpu")


@pytest.fixture
def given(tiny_model: Path) -> tuple[str, ...]:
    return ("complete", "a", "-n", "3", "-m", str(tiny_model), "--device", "cpu")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0\r\n",
        b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 400 No\r\nContent-Length: 29\r\n\r\n{"error": {"message": "never"}}',
        STREAM,
        STREAM + b"data: [DONE]\n\n",
        STREAM + b"data: nonsense\n\n",
        STREAM + b'data: {"choices": [{"text": 3}]}\n\n',
        STREAM + b'data: {"error": {"message": "no", "code": "out_of_memory"}}\n\n',
    ],
)
def test_what_fails_before_anything_is_shown_is_done_here(olc: Olc, path: Path, given: tuple[str, ...], answer: bytes) -> None:
    def act(connection: socket.socket) -> None:
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_RDWR)

    with Liar(path, act) as liar:
        result = olc(*given)
        assert liar.asked.is_set()
    assert result.code == 0
    assert result.out.strip()


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (b"", "the stream ended"),
        (b"data: [DONE]\n\n", "did not end"),
        (b'data: {"error": {"message": "m", "code": "out_of_memory", "cause": "no room", "remedy": "wait"}}\n\n', "no room"),
    ],
)
def test_what_fails_later_is_said(olc: Olc, path: Path, given: tuple[str, ...], rest: bytes, words: str) -> None:
    def act(connection: socket.socket) -> None:
        connection.sendall(STREAM + event("once ") + event("upon") + rest)
        connection.shutdown(socket.SHUT_RDWR)

    with Liar(path, act):
        result = olc(*given)
    assert result.code == 1
    assert result.text.startswith("once upon")
    assert words in result.messages
    assert result.messages.count("\n") == 2


def test_a_socket_that_nobody_listens_on_is_removed(olc: Olc, path: Path, given: tuple[str, ...]) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert olc(*given).code == 0
    assert not path.exists()


def test_a_server_that_hangs_is_left_alone(
    olc: Olc, path: Path, given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openllama_cli.serve.client.connection.CONNECT_SECONDS", 0.3)
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(path))
        hung.listen()
        assert olc(*given).code == 0
        assert path.exists(), "it may live"
    path.unlink()


def test_a_folder_of_others_is_not_entered(olc: Olc, path: Path, given: tuple[str, ...]) -> None:
    with Liar(path, lambda connection: None) as liar:
        path.parent.chmod(0o755)
        try:
            assert olc(*given).code == 0
        finally:
            path.parent.chmod(0o700)
        assert not liar.asked.is_set()


@pytest.fixture
def endless(path: Path) -> Iterator[Liar]:
    """A server that has begun to answer, and goes on for ever."""
    with Liar(path, lambda connection: connection.sendall(STREAM + event("once ") + event("upon"))) as liar:
        yield liar


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_request(endless: Liar, given: tuple[str, ...], number: int, code: int) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as out, Forked(*given, stdout=writer) as run:
        os.close(writer)
        assert out.read(9) == b"once upon"
        run.send_signal(number)
        assert run.wait() == code
    assert endless.left.wait(20)
    assert run.err.strip() == b""


def test_a_closed_pipe_ends_the_request_quietly(path: Path, given: tuple[str, ...]) -> None:
    def act(connection: socket.socket) -> None:
        connection.sendall(STREAM)
        while True:
            connection.sendall(event("upon "))

    reader, writer = os.pipe()
    with Liar(path, act) as liar, Forked(*given, stdout=writer) as run:
        os.close(writer)
        os.read(reader, 5)
        os.close(reader)
        assert run.wait() == 0
        assert liar.left.wait(20)
    assert run.err == b""


def streaming(handler: Handler, body: dict[str, Any], attempt: int) -> None:
    assert body["stream"] is True
    assert "olc" not in body
    parts = [event(text) for text in body["prompt"]] + [event("!", "stop"), b"data: [DONE]\n\n"]
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(b": hello\n\n" + b"".join(parts))
    handler.close_connection = True


def test_any_completions_server_can_be_named(olc: Olc) -> None:
    with CompletionsServer(streaming) as server:
        result = olc("complete", "abc", "--server", server.url, "--stats")
        assert (result.code, result.out) == (0, b"abc!\n"), result.messages
        assert f"answered by {server.url}/v1; first token after" in result.messages
        refused = olc("generate", "abc", "--server", server.url)
        assert refused.code == 2
        assert "token ids" in refused.messages


def test_another_server_scores_without_ids_and_ranks(olc: Olc) -> None:
    """vLLM lists its BOS, and counts its letters."""

    def answer(handler: Handler, body: dict[str, Any], attempt: int) -> None:
        assert (body["echo"], body["max_tokens"], "olc" in body) == (True, 0, False)
        told = {
            "tokens": ["<s>", "the", " blue", " whale"],
            "text_offset": [0, 3, 6, 11],
            "token_logprobs": [None, -1, -2, -0.5],
        }
        told["top_logprobs"] = [None, {"a": -0.5, "the": -1}, {" blue": -2, " red": -1}, {" whale": -0.5}]
        choice = {"index": 0, "text": body["prompt"], "finish_reason": "length", "logprobs": told if attempt == 1 else None}
        handler.reply(200, {"choices": [choice]})

    with CompletionsServer(answer) as server:
        result = olc("score", " blue whale", "--context", "the", "--json", "--server", server.url)
        document = json.loads(result.out)
        assert [(one["text"], one["logprob"], one["id"], one["rank"]) for one in document["entries"]] == [
            *((" blue", -2, None, None), (" whale", -0.5, None, None)),
        ]
        assert [one["expected"] for one in document["entries"]] == [{"text": " red", "logprob": -1}, None]
        assert document["olc"] == {"server": f"{server.url}/v1"}
        valid(document, "score")
        # It answers without log-probabilities now, and never does windows.
        for more, code in (((), 1), (("--stride", "9"), 2)):
            refused = olc("score", " blue whale", "--context", "the", "--server", server.url, *more)
            assert (refused.code, refused.messages.count("\n")) == (code, 2), refused.messages


@pytest.mark.parametrize("patient", [True, False])
def test_a_named_server_has_longer_to_answer_than_to_accept(olc: Olc, monkeypatch: pytest.MonkeyPatch, patient: bool) -> None:
    monkeypatch.setattr("openllama_cli.serve.client.connection.CONNECT_SECONDS", 0.3)
    if not patient:
        monkeypatch.setattr("openllama_cli.serve.client.connection.NAMED_SECONDS", 0.3)
    with CompletionsServer() as server:
        server.models_after = 0.6 if patient else 60
        result = olc("complete", "abc", "--server", server.url, "--json")
    assert result.code == (0 if patient else 1), result.messages
    assert patient or result.messages.count("\n") == 2


CHOICE = {"index": 0, "text": "b", "finish_reason": None}


@pytest.mark.parametrize(
    ("last", "out"),
    [
        ({"choices": [CHOICE | {"text": None, "finish_reason": "stop"}]}, b"a\n"),
        ({"choices": [{"index": 0, "finish_reason": "stop"}]}, b"a\n"),
        ({"choices": [CHOICE | {"finish_reason": "stop"}, CHOICE | {"text": "", "finish_reason": "stop"}]}, b"ab\n"),
        ({"choices": [CHOICE | {"finish_reason": ""}, CHOICE | {"finish_reason": "stop"}]}, b"abb\n"),
        ({"choices": [CHOICE | {"finish_reason": "stop"}], "error": None}, b"ab\n"),
        ({"choices": [CHOICE | {"index": 1}]}, None),
        ({"choices": [CHOICE | {"index": "0"}]}, None),
        ({"choices": [CHOICE | {"text": ["b"]}]}, None),
        ({"choices": ["b"]}, None),
        ({"choices": [], "olc": "b"}, None),
        (["b"], None),
    ],
    ids=str,
)
def test_the_streams_of_others(olc: Olc, last: Any, out: bytes | None) -> None:
    """What can be understood is, and the rest is two lines."""

    def answer(handler: Handler, body: dict[str, Any], attempt: int) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(event("a") + f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())
        handler.close_connection = True

    with CompletionsServer(answer) as server:
        result = olc("complete", "x", "--server", server.url, "--stats")
    assert (result.code, result.out) == ((0, out) if out is not None else (1, b"a")), result.messages
    assert "did not answer to the end" in result.messages or out is not None


def test_json_of_another_server_is_its_own(olc: Olc) -> None:
    with CompletionsServer() as server:
        result = olc("complete", "abc", "--server", server.url, "--json", "--stats")
    document = json.loads(result.out)
    assert f"answered by {server.url}/v1" in result.messages
    assert document["choices"][0]["text"] == " abc!"
    assert document["olc"] == {"server": f"{server.url}/v1"}
    valid(document, "complete")
    assert RECORD not in {name for _, _, headers, _ in server.seen for name in headers}, "others are not asked for a record"


@pytest.mark.parametrize("olc_of", [{}, {"record": 3}, {"record": {"options": []}}])
def test_what_is_no_record_is_left_out(olc: Olc, olc_of: dict[str, Any]) -> None:
    def answer(handler: Handler, body: dict[str, Any], attempt: int) -> None:
        handler.reply(200, completed(body, olc=olc_of))

    with CompletionsServer(answer) as server:
        server.models = [{"id": "base", "olc": {}}]
        result = olc("complete", "abc", "--server", server.url, "--json")
        assert (result.code, "record" in json.loads(result.out)["olc"]) == (0, False), result.messages
        assert [headers.get(RECORD) for method, _, headers, _ in server.seen if method == "POST"] == ["1"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--server", "http://127.0.0.1:9"), 1),
        (("--server", "nowhere"), 2),
        (("--server", "http://x", "--no-server"), 2),
        (("--server", "http://x", "--dtype", "float32"), 2),
        (("--server", "http://x", "--engine", "transformers"), 2),
        (("--server", "http://x", "--speculate", "2"), 2),
    ],
)
def test_what_no_server_can_do_is_two_lines(olc: Olc, arguments: tuple[str, ...], code: int) -> None:
    result = olc("complete", "x", *arguments)
    assert (result.code, result.out) == (code, b"")
    assert result.messages.count("\n") == 2


def test_a_key_that_is_refused_is_two_lines(olc: Olc) -> None:
    with CompletionsServer() as server:
        server.key = "right"
        result = olc("complete", "x", "--server", server.url, env={"OLC_API_KEY": "wrong"})
    assert result.code == 1
    assert "OLC_API_KEY" in result.messages
    assert "wrong" not in result.messages
