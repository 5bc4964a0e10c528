"""`olc batch --server`: the journal, resuming and messages around rows that a completions server completes."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Olc, Result, olc_command
from tests.support.batches import finished, read, wait_for
from tests.support.forked import Forked
from tests.support.serve.completions import CompletionsServer, Handler, slow, well_behaved

Batch = Callable[..., Result]
KEY = "sk-of-nobody"


@pytest.fixture
def server() -> Iterator[CompletionsServer]:
    with CompletionsServer() as running:
        yield running


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture
def batch(olc: Olc, server: CompletionsServer, tmp_path: Path, output: Path) -> Batch:
    """`batch("in.txt", "one\\n", "--restart")`: a batch of this input over the server."""

    def run(name: str, content: str | None, *arguments: str, **options: object) -> Result:
        source = tmp_path / name
        if content is not None:
            source.write_text(content)
        return olc("batch", str(source), "-o", str(output), "--server", server.url, *arguments, **options)

    return run


def test_rows_are_completed_in_order_and_once(batch: Batch, server: CompletionsServer, output: Path) -> None:
    result = batch("in.csv", "prompt,country,seed\none,FR,\ntwo,DE,7\n", "--temperature", "0.5")
    assert result.code == 0, result.messages
    rows = read(output)
    assert [(row["custom_id"], row["text"], row["country"]) for row in rows] == [
        ("row-0", " one!", "FR"),
        ("row-1", " two!", "DE"),
    ]
    assert {request["prompt"]: request["seed"] for request in server.requests} == {"one": 0, "two": 7}
    assert "2 rows, 0 failed" in result.messages
    assert "does not promise the same bytes" in result.messages
    again = batch("in.csv", None, "--temperature", "0.5")
    assert "already complete" in again.messages
    assert len(server.requests) == 2


def test_examples_go_to_a_server_uncut(batch: Batch, server: CompletionsServer, tmp_path: Path) -> None:
    """Nobody here can count its tokens."""
    (tmp_path / "t.toml").write_text('template = "{{ text }}:"\nseparator = "\\n"\n')
    (tmp_path / "e.csv").write_text("text,answer\n" + "".join(f"{'word ' * 500}{n},yes\n" for n in range(9)))
    examples = ("-t", str(tmp_path / "t.toml"), "--examples", str(tmp_path / "e.csv"), "--shots", "8")
    result = batch("in.jsonl", '{"text": "x", "max_tokens": 5}\n', *examples)
    assert result.code == 0, result.messages
    [request] = server.requests
    assert request["prompt"] == "".join(f"{'word ' * 500}{n}: yes\n" for n in range(8)) + "x:"
    assert "shots" not in result.messages


def test_openai_lines_go_through(batch: Batch, server: CompletionsServer, output: Path) -> None:
    lines = [
        {"custom_id": str(n), "method": "POST", "url": "/v1/completions", "body": {"prompt": f"p{n}", "n": n, "user": "u"}}
        for n in (1, 2)
    ]
    assert batch("in.jsonl", "".join(json.dumps(line) + "\n" for line in lines)).code == 0
    rows = read(output)
    assert [len(row["response"]["body"]["choices"]) for row in rows] == [1, 2]
    assert rows[0]["response"]["body"]["id"] == "cmpl-1"
    assert {request["prompt"]: request for request in server.requests}["p2"] == {
        "prompt": "p2",
        "n": 2,
        "user": "u",
        "model": "base",
    }


def test_another_server_model_or_body_is_refused_by_name(batch: Batch, server: CompletionsServer, output: Path) -> None:
    server.answer = lambda handler, body, attempt: handler.reply(
        400 if body["prompt"] == "bad" else 200, {"choices": [{"text": "x"}]}
    )
    assert batch("in.txt", "one\nbad\n").code == 3
    with CompletionsServer() as other:
        changed = batch("in.txt", None, "--server", other.url)
    assert changed.code == 2
    assert f"--server was {server.url}/v1, now {other.url}/v1" in changed.messages
    server.models = [{"id": "tuned"}]
    changed = batch("in.txt", None)
    assert changed.code == 2
    assert "the model's name was base, now tuned" in changed.messages
    here = batch("in.txt", None, "--server", server.url, "-m", "tuned", "--temperature", "1")
    assert here.code == 2


def test_a_batch_that_began_here_does_not_go_on_over_a_server(
    olc: Olc, batch: Batch, model: str, tmp_path: Path, output: Path
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "one"}\n{"promt": "two"}\n')
    assert olc("batch", str(source), "-o", str(output), "-m", model, "-n", "2").code == 3
    changed = batch("in.jsonl", None, "-n", "2")
    assert changed.code == 2
    assert "a different run: --server was not given, now http://" in changed.messages
    assert ";" not in changed.messages.splitlines()[0]


def test_the_key_is_sent_and_kept_nowhere(batch: Batch, server: CompletionsServer, tmp_path: Path, output: Path) -> None:
    server.key = KEY
    refused = batch("in.txt", "one\n")
    assert refused.code == 1
    assert "OLC_API_KEY" in refused.messages
    told = batch("in.txt", None, env={"OLC_API_KEY": KEY})
    assert told.code == 0, told.messages
    assert KEY not in told.messages + refused.messages
    assert KEY.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_failed_rows_can_be_retried(batch: Batch, server: CompletionsServer, output: Path) -> None:
    ready = False

    def answer(handler: Handler, body: dict[str, object], attempt: int) -> None:
        if body["prompt"] == "two" and not ready:
            handler.reply(500, {"error": {"message": "[b]boom"}})
        else:
            well_behaved(handler, body, attempt)

    server.answer = answer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("openllama_cli.batch.remote.attempts.Patience.seconds", lambda self, attempt: 0.0)
        result = batch("in.txt", "one\ntwo\n")
    assert result.code == 3
    assert "--retry-errors" in result.messages
    assert read(output)[1]["error"] == {"code": "server_error", "message": "500: [b]boom (6 attempts)"}
    ready = True
    assert batch("in.txt", None, "--retry-errors").code == 0
    assert [row["text"] for row in read(output)] == [" one!", " two!"]
    assert sum(request["prompt"] == "one" for request in server.requests) == 1


def test_a_killed_batch_resumes(server: CompletionsServer, tmp_path: Path, output: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("".join(f"prompt {n}\n" for n in range(60)))
    arguments = ("batch", str(source), "-o", str(output), "--server", server.url, "--batch-size", "2")
    server.answer = slow(0.02)
    run = Forked(*arguments)
    wait_for(lambda: finished(output) >= 5, run)
    run.kill()
    run.wait()
    before = finished(output)
    server.answer = well_behaved
    sent = len(server.requests)
    again = Forked(*arguments)
    assert again.wait() == 0, again.err
    assert [row["text"] for row in read(output)] == [f" prompt {n}!" for n in range(60)]
    assert f"resuming: {before} of 60".encode() in again.err
    assert len(server.requests) == sent + 60 - before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_batch_whose_server_hangs(
    server: CompletionsServer, tmp_path: Path, output: Path, number: int, code: int
) -> None:
    def answer(handler: Handler, body: dict[str, object], attempt: int) -> None:
        well_behaved(handler, body, attempt) if body["prompt"] == "one" else handler.hang()

    server.answer = answer
    source = tmp_path / "in.txt"
    source.write_text("one\ntwo\nthree\n")
    run = Forked("batch", str(source), "-o", str(output), "--server", server.url)
    wait_for(lambda: finished(output) == 1 and len(server.requests) == 3, run)
    run.send_signal(number)
    assert run.wait() == code
    assert b"1 of 3 rows done; to resume:" in run.err
    assert b"Traceback" not in run.err


def test_stdout_gets_rows_in_order(olc: Olc, server: CompletionsServer) -> None:
    server.answer = lambda handler, body, attempt: slow(0.2 if body["prompt"] == "a" else 0)(handler, body, attempt)
    result = olc("batch", "-", "--format", "txt", "-o", "-", "--server", server.url, stdin=b"a\nb\nc\n")
    assert result.code == 0, result.messages
    assert [json.loads(line)["text"] for line in result.text.splitlines()] == [" a!", " b!", " c!"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--server", "localhost:1"),
        ("--dtype", "float32"),
        ("--quantize", "int8"),
        ("--device", "cpu"),
        ("--revision", "main"),
        ("--offline",),
        ("--engine", "ray"),
    ],
)
def test_what_a_server_does_not_follow_is_refused(batch: Batch, server: CompletionsServer, arguments: tuple[str, ...]) -> None:
    result = batch("in.txt", "one\n", *arguments)
    assert result.code == 2
    assert result.messages.count("\n") == 2
    assert server.seen == []


def test_no_server_is_two_lines(olc: Olc, tmp_path: Path, output: Path) -> None:
    (tmp_path / "in.txt").write_text("one\n")
    result = olc("batch", str(tmp_path / "in.txt"), "-o", str(output), "--server", "http://127.0.0.1:9")
    assert result.code == 1
    assert result.messages.splitlines()[0].startswith("error: no server answers at http://127.0.0.1:9/v1: ")
    assert result.messages.count("\n") == 2


def test_neither_torch_nor_numpy_is_imported(server: CompletionsServer, tmp_path: Path, output: Path) -> None:
    (tmp_path / "in.txt").write_text("one\n")
    arguments = ("batch", str(tmp_path / "in.txt"), "-o", str(output), "--server", server.url)
    command = [*olc_command(*arguments)]
    command[1:1] = ["-X", "importtime"]
    run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
    assert "httpx" in imported
    assert not {"torch", "transformers", "numpy", "huggingface_hub"} & imported
