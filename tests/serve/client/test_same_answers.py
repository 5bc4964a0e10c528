"""Commands that a running `olc serve` answers: the same outputs as without it, and nothing imported for them."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.serve.local_socket import socket_folder
from tests.conftest import Olc, Result, olc_command
from tests.support.schemas import valid
from tests.support.serve.server_processes import Process, process

PROMPT = "the quick brown fox"
COMPLETE: list[tuple[str, ...]] = [
    (PROMPT,),
    (PROMPT, "--echo"),
    (PROMPT, "--no-stream", "-n", "5"),
    (PROMPT, "--stop", "e", "--stop", "th"),
    (PROMPT, "--temperature", "0.8", "--seed", "7"),
    (PROMPT, "--num-samples", "3", "-s", "5", "-n", "12"),
    (PROMPT, "--top-k", "9", "--min-p", "0.01", "--top-p", "0.9", "--repetition-penalty", "1.3", "-s", "3"),
    (PROMPT, "-n", "0"),
    (PROMPT, "--json"),
    (PROMPT, "--json", "--logprobs", "3", "--echo", "-s", "9"),
    (PROMPT, "--json", "--logprobs", "0", "--stop", "e"),
    (PROMPT, "--json", "--num-samples", "2", "-s", "1", "--echo"),
    ("",),
    ("größer 🐋 \t  x",),
    ("word " * 60,),  # Without -n it ends where the context does.
    (PROMPT, "-n", "1000000"),  # Too long: an error either way.
    (PROMPT, "--choices", "jumps,sits,jumps over"),
    (PROMPT, "--json", "--choices", "größer,🐋", "--choices-prefix", "", "--choices-normalize", "byte", "--calibrate"),
    ("word " * 300, "--choices", "a,b"),  # Too long as well.
]
GENERATE: list[tuple[str, ...]] = [
    (PROMPT, "two", "-s", "5"),
    (PROMPT, "two", "--temperature", "0", "--echo"),
    (PROMPT, "--logprobs", "-s", "2", "--stop", "e"),
    (PROMPT, "two", "--json", "-s", "5", "-n", "9"),
    (PROMPT, "größer 🐋", "--json", "--logprobs", "--echo", "-s", "5"),
    ("", "--json", "-s", "1"),
]
SCORE: list[tuple[str, ...]] = [
    (PROMPT,),
    (PROMPT, "--by", "word"),
    (PROMPT, "--json", "--top", "3"),
    (" fox", "--context", PROMPT.removesuffix(" fox"), "--json"),
    ("größer 🐋 \t  x\n", "--json", "--by", "line"),
    (f"{PROMPT} 🐋 " * 40, "--json"),  # Longer than the context.
    (f"{PROMPT} 🐋 " * 40, "--json", "--context", "word " * 200, "--stride", "77"),
    (PROMPT, "--stride", "1000"),  # Out of range: an error either way.
]


@pytest.fixture(scope="module")
def server(tiny_model: Path) -> Iterator[Process]:
    """A server of the tiny model, for all tests here."""
    socket_folder().parent.mkdir(exist_ok=True)
    with process("-m", str(tiny_model), "--dtype", "float32", "--device", "cpu") as running:
        yield running


@pytest.fixture
def run(olc: Olc, tiny_model: Path, server: Process) -> Olc:
    """Run olc with the model and options of the server."""

    def run(*arguments: str) -> Result:
        return olc(*arguments, "-m", str(tiny_model), "--dtype", "float32", "--device", "cpu")

    return run


def compared(result: Result) -> Any:
    """All but what differs from run to run, and what is said where loading takes long. Of a record all but the threads."""
    told = [line for line in result.err.splitlines() if not line.startswith(b"loading ")]
    if not result.out.startswith(b"{"):
        return result.code, result.out, told
    document = json.loads(result.out)
    for name in ("id", "created"):
        document.pop(name, None)
    document["olc"].pop("timings", None)
    del document["olc"]["record"]["machine"]["threads"]
    return result.code, document, told


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No command may load a model."""

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded here")

    with monkeypatch.context() as patch:
        for name in ("complete", "generate", "score"):
            patch.setattr(f"openllama_cli.commands.{name}.load_model", load)
        yield patch


@pytest.mark.parametrize(
    "arguments",
    [("complete", *one) for one in COMPLETE] + [("generate", *one) for one in GENERATE] + [("score", *one) for one in SCORE],
)
def test_a_server_gives_what_the_model_gives_here(
    run: Olc, arguments: tuple[str, ...], never_loaded: pytest.MonkeyPatch
) -> None:
    served = run(*arguments)
    never_loaded.undo()
    here = run(*arguments, "--no-server")
    expected = compared(here)
    for one in (served, here):
        if one.out.startswith(b"{"):
            valid(json.loads(one.out), arguments[0])
    if served.out.startswith(b"{") and arguments[0] != "generate":
        document = json.loads(served.out)
        assert document["olc"].pop("server").endswith(".sock")
        assert document["olc"]["timings"]["load_s"] == 0
        served = Result(served.code, json.dumps(document).encode(), served.err)
    assert compared(served) == expected


def test_svg_is_the_same(run: Olc, tmp_path: Path, never_loaded: pytest.MonkeyPatch) -> None:
    files = [tmp_path / "served.svg", tmp_path / "here.svg"]
    for file, more in zip(files, ((), ("--no-server",)), strict=True):
        assert run("generate", PROMPT, "-s", "4", "--svg", str(file), *more).code == 0
        never_loaded.undo()
    # rich names the styles by a hash of the text.
    assert len({len(file.read_bytes()) for file in files}) == 1


def test_stats_say_who_answered(run: Olc, never_loaded: pytest.MonkeyPatch) -> None:
    result = run("complete", PROMPT, "--stats")
    assert "; answered by /" in result.messages
    assert "loaded in" not in result.messages


@pytest.mark.parametrize(
    "arguments",
    [
        ("--dtype", "bfloat16"),
        ("--engine", "transformers"),
        ("--speculate", "3"),
        ("--no-server",),
        ("--quantize", "int8"),
    ],
)
def test_what_the_server_does_not_do_is_done_here(run: Olc, arguments: tuple[str, ...], olc: Olc, tiny_model: Path) -> None:
    given = (
        ("--device", "cpu")
        if "--dtype" in arguments or "--quantize" in arguments
        else ("--device", "cpu", "--dtype", "float32")
    )
    result = olc("complete", PROMPT, "-n", "2", "--json", "-m", str(tiny_model), *given, *arguments)
    assert result.code == 0, result.messages
    assert "server" not in json.loads(result.out)["olc"]


@pytest.mark.parametrize("option", ["--check", "--trace"])
def test_the_loop_laid_open_runs_here(run: Olc, server: Process, option: str) -> None:
    assert run("generate", PROMPT, "-n", "3", "--temperature", "0", option).code == 0


def test_files_that_changed_are_another_model(olc: Olc, server: Process, tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    result = olc("complete", PROMPT, "-n", "1", "--json", "-m", str(copy), "--dtype", "float32", "--device", "cpu")
    assert "server" not in json.loads(result.out)["olc"]


def test_a_named_server_answers(olc: Olc, server: Process, never_loaded: pytest.MonkeyPatch, tiny_model: Path) -> None:
    result = olc("complete", PROMPT, "--json", "--server", server.url)
    assert json.loads(result.out)["olc"]["server"] == f"{server.url}/v1"
    assert olc("generate", PROMPT, "--temperature", "0", "--server", server.url).code == 0
    refused = olc("complete", PROMPT, "-n", "1000000", "--server", server.url)
    assert refused.code == 1
    assert "context" in refused.messages
    assert refused.messages.count("\n") == 2


def test_a_batch_over_the_server_is_the_batch_here(olc: Olc, server: Process, tiny_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    rows = [{"prompt": f"{PROMPT} {n}", "max_tokens": n} for n in range(4)]
    rows += [
        {"prompt": "a", "temperature": 1},
        {"prompt": "a", "seed": 3, "logprobs": 2, "echo": True},
        {"prompt": "word " * 60},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outputs = [tmp_path / "served.jsonl", tmp_path / "here.jsonl"]
    here = ("-m", str(tiny_model), "--dtype", "float32", "--device", "cpu")
    for output, more in zip(outputs, (("--server", server.url), here), strict=True):
        result = olc("batch", str(source), "-o", str(output), "--seed", "2", "--temperature", "0", *more)
        assert result.code == 0, result.messages
        assert "does not promise" not in result.messages
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


@pytest.mark.parametrize("command", ["complete", "generate", "score"])
def test_an_answered_command_imports_little(server: Process, tiny_model: Path, command: str) -> None:
    short = () if command == "score" else ("-n", "3")
    arguments = olc_command(command, PROMPT, "-m", str(tiny_model), "--dtype", "float32", "--device", "cpu", *short)
    run = subprocess.run(
        [arguments[0], "-X", "importtime", *arguments[1:]],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
    assert "openllama_cli.serve.client.find" in imported
    heavy = {"torch", "transformers", "numpy", "huggingface_hub", "httpx", "sentencepiece", "asyncio", "ssl"}
    assert not (heavy | ({"rich"} if command == "complete" else set())) & imported
    assert not {name for name in imported if name.startswith("openllama_cli.serve.") and "client" not in name} - {
        "openllama_cli.serve.local_socket"
    }


def test_a_server_that_has_ended_leaves_nothing_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, olc: Olc, tmp_model: Path
) -> None:
    given = ("-m", str(tmp_model), "--dtype", "float32", "--device", "cpu")
    with process(*given) as server:
        server.run.kill()
        server.run.wait()
        left = [path for path in socket_folder().iterdir() if tmp_model.name[:20] in path.name]
        assert left
        result = olc("complete", PROMPT, "-n", "1", "--json", *given)
        assert result.code == 0
        assert "server" not in json.loads(result.out)["olc"]
        assert not any(path.name == left[0].name for path in socket_folder().iterdir())
        server.end(signal.SIGKILL)
