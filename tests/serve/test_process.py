"""`olc serve` as a process: its start, its messages, its end."""

import asyncio
import json
import signal
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from openllama_cli.api import Model
from openllama_cli.serve import check, listen
from openllama_cli.serve.app import Server, make_app
from openllama_cli.serve.engine import Engine
from openllama_cli.serve.local_socket import precision_name, socket_path
from tests.conftest import Olc
from tests.support.serve.server_processes import Process, process
from tests.support.serve.servers import events


def test_a_server_finishes_what_runs_and_ends_with_143(runtime: Path, tiny_model: Path) -> None:
    with process("-m", str(tiny_model), "--dtype", "float32", "--device", "cpu") as server:
        path = socket_path(tiny_model, None, precision_name("float32", None), "cpu")
        assert server.said("socket  ") == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport) as local:
            assert local.get("http://localhost/health").json() == {"status": "ok"}
        body = {"prompt": "a", "max_tokens": 200, "stream": True, "logit_bias": {"2": -100}}  # No EOS ends it early.
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as answer:
            parts = answer.iter_text()
            text = next(parts)
            server.run.send_signal(signal.SIGTERM)
            server.said("finishing 1 completion,")
            chunks = events(text + "".join(parts))
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert server.run.wait() == 143
        assert not path.exists()
        server.end(signal.SIGTERM)
    assert any("POST /v1/completions 200  2 tokens in" in line for line in server.lines)
    assert not any("Traceback" in line for line in server.lines)


def test_ctrl_c_ends_with_130_and_twice_at_once(runtime: Path, tiny_model: Path) -> None:
    with process("-m", str(tiny_model), "--max-rows", "1") as server:
        assert server.end(signal.SIGINT) == 130
    with process("-m", str(tiny_model), "--drain", "3000") as server, socket.create_connection(address(server)) as busy:
        body = b'{"prompt": "a", "max_tokens": 1}'
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        busy.sendall(head + b"Content-Length: %d\r\n\r\n" % (len(body) + 1) + body)  # One byte is missing.
        httpx.get(f"{server.url}/health")
        server.run.send_signal(signal.SIGINT)
        server.said("olc: ending")
        assert server.end(signal.SIGINT) == 130


def test_nothing_is_written_inside_of_a_signal() -> None:
    """It may have interrupted a line that is being written: Python refuses another one, and the server would break."""
    told: list[str] = []
    server = listen.make_server(make_app(Server(Engine(Model))), drain=1, log=told.append)
    server.ending, server.servers = lambda: told.append("ending"), []
    server.handle_exit(signal.SIGTERM, None)
    assert (server.should_exit, server.force_exit, told) == (True, False, [])
    server.handle_exit(signal.SIGTERM, None)
    assert (server.force_exit, told) == (True, [])
    asyncio.run(server.shutdown())
    assert told == ["ending"]


def address(server: Process) -> tuple[str, int]:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return host, int(port)


def test_what_takes_longer_than_drain_is_given_up(runtime: Path, tiny_model: Path) -> None:
    with process("-m", str(tiny_model), "--drain", "0") as server, socket.create_connection(address(server)) as busy:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        busy.sendall(head + b"Content-Length: 5\r\n\r\n{")
        httpx.get(f"{server.url}/health")
        assert server.end(signal.SIGTERM) == 143
    assert not any("Traceback" in line for line in server.lines)


def test_a_port_in_use_is_two_lines(olc: Olc) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = olc("serve", "--port", str(taken.getsockname()[1]))
    assert run.code == 1
    assert run.messages.splitlines()[0].startswith("error: port ")
    assert len(run.messages.splitlines()) == 2


def test_a_model_that_cannot_be_loaded_ends_the_server_with_two_lines(olc: Olc, runtime: Path, tiny_model: Path) -> None:
    for arguments in (("-m", "./no/such"), ("-m", str(tiny_model), "--device", "mps")):
        run = olc("serve", "--port", "0", *arguments)
        assert run.code == 1, run.messages
        assert [line[:7] for line in run.messages.splitlines()] == ["error: ", "  fix: "]


def test_usage_is_checked_first(olc: Olc, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k\n")
    for arguments in (
        ("--host", "0.0.0.0"),
        ("--host", "no such host"),
        ("--api-key-file", str(tmp_path / "key")),
        ("--allow-origin", "example.org"),
        ("--drain", "-1"),
    ):
        assert olc("serve", "-m", "./no/such", *arguments).code == 2, arguments


def test_health_while_the_model_loads() -> None:
    """Listening comes first: 503 and when to ask again, for all that needs a model."""
    may_load, failed = threading.Event(), threading.Event()

    def load() -> Model:
        may_load.wait()
        raise MemoryError

    engine = Engine(load, ended=lambda error: failed.set())
    engine.start()
    app = make_app(Server(engine))
    with httpx.Client(transport=_Transport(app), base_url="http://localhost") as client:
        for path in ("/health", "/v1/models", "/tokenizer_info"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "loading")
            assert answer.headers["retry-after"] == "1"
        assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 503
        assert "olc_ready 0" in client.get("/metrics").text
    may_load.set()
    assert failed.wait(60)
    assert engine.close(60)
    assert isinstance(engine.error, MemoryError)


class _Transport(httpx.BaseTransport):
    """An application without a server."""

    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        import asyncio

        async def run() -> httpx.Response:
            request.stream = httpx.ByteStream(request.read())
            answer = await self._inner.handle_async_request(request)
            return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

        return asyncio.run(run())


def test_the_start_is_told_on_stderr_alone(runtime: Path, tiny_model: Path) -> None:
    with process("-m", str(tiny_model), "--max-rows", "3") as server:
        server.said("end  Ctrl-C")
        text = "".join(server.lines)
        assert "up to 3 completions at a time" in text
        command = next(line for line in server.lines if "curl " in line)
        assert json.loads(command.rpartition("-d '")[2].strip().rstrip("'"))["prompt"]
        server.end(signal.SIGTERM)
        assert server.run.out == b""


def test_check_compares_what_is_answered_over_http(
    olc: Olc, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, runtime: Path
) -> None:
    command = ("serve", "--check", "-m", str(tiny_model), "--dtype", "float32", "--device", "cpu")
    run = olc(*command)
    assert run.code == 0, run.messages
    assert run.text.count("equal") == len(check.TEXTS)
    real = check._ask

    def wrong(host: str, port: int, body: dict[str, Any]) -> Any:
        answer = real(host, port, body)
        answer["prompt"][1]["logprob"] -= 0.01 if body["stream"] else 0
        return answer

    monkeypatch.setattr(check, "_ask", wrong)
    run = olc(*command)
    assert run.code == 1
    assert "3 of 6 prompts differ" in run.messages
    assert olc("serve", "--check", "-m", str(tiny_model), "--quantize", "int8").code == 2
