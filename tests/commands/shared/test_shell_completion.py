"""What a shell completes after olc's options."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from openllama_cli.cli import COMMANDS, olc
from tests.conftest import olc_command

MODELS = ["demo", "3b-v2", "7b-v2", "3b", "7b", "13b"]


def completed(*words: str) -> list[tuple[str, str]]:
    """Type and value of what is offered for the last word."""
    shell = ShellComplete(olc, {"obj": {"debug": False}}, "olc", "_OLC_COMPLETE")
    return [(item.type, item.value) for item in shell.get_completions(list(words[:-1]), words[-1])]


def plain(values: list[str]) -> list[tuple[str, str]]:
    return [("plain", value) for value in values]


def test_commands_are_offered() -> None:
    assert completed("") == plain(list(COMMANDS))
    assert completed("comp") == plain(["complete"])
    assert completed("--ver") == plain(["--version"])
    assert ("plain", "pull") in completed("models", "")


@pytest.mark.parametrize("command", ["complete", "generate", "batch", "bench", "tokenize", "devices"])
def test_models_are_offered_by_alias_folder_or_gguf_file(command: str) -> None:
    assert completed(command, "-m", "") == [("file", ""), *plain(MODELS)]
    assert completed(command, "--model", "3b") == [("file", "3b"), *plain(["3b-v2", "3b"])]
    assert completed(command, "-m", "./mod") == [("file", "./mod")]


def test_models_commands_are_offered_models() -> None:
    for command in ("info", "default", "rm", "convert"):
        assert completed("models", command, "d") == [("file", "d"), *plain(["demo"])]
    assert completed("models", "pull", "") == plain(MODELS[1:]), "the demo model is here always"
    assert completed("models", "convert", "3b", "") == [("dir", "")]


@pytest.mark.parametrize("command", ["complete", "batch"])
def test_templates_are_offered_by_name_or_file(command: str) -> None:
    assert completed(command, "-t", "") == [
        ("file", ""),
        *plain(["classify", "code", "qa", "sentiment", "summarize", "topic", "translate"]),
    ]
    assert completed(command, "--template", "q") == [("file", "q"), *plain(["qa"])]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["complete", "--device", ""], ["auto", "cpu", "cuda", "mps"]),
        (["devices", "--device", "c"], ["cpu", "cuda"]),
        (["generate", "--dtype", "f"], ["float32", "float16"]),
        (["batch", "--quantize", ""], ["int8", "int4"]),
        (["batch", "in", "--format", ""], ["txt", "jsonl", "csv", "tsv"]),
        (["batch", "--engine", ""], ["local", "ray"]),
        (["complete", "--engine", ""], ["loop", "transformers"]),
    ],
)
def test_the_values_of_an_option_are_offered(words: list[str], values: list[str]) -> None:
    assert completed(*words) == plain(values)


@pytest.mark.parametrize(
    "words",
    [
        *(["complete", "-f"], ["generate", "--file"], ["tokenize", "-f"], ["explain", "-f"], ["annotate", "-f"]),
        *(["batch"], ["batch", "in.txt", "-o"], ["generate", "--svg"], ["annotate", "--svg"], ["sgd", "--data"]),
        ["sgd", "--plot"],
    ],
)
def test_files_are_left_to_the_shell(words: list[str]) -> None:
    assert completed(*words, "no") == [("file", "no")]


def test_a_folder_is_offered_for_a_pipeline() -> None:
    assert completed("annotate", "--pipeline", "./en") == [("dir", "./en")]


def test_a_command_that_is_none_has_nothing_to_offer() -> None:
    assert completed("nonsense", "-m", "") == plain(list(COMMANDS))


def test_nothing_is_asked_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", never)
    monkeypatch.setattr(socket, "getaddrinfo", never)
    assert completed("models", "pull", "7")
    assert completed("complete", "-m", "openlm-research/") == [("file", "openlm-research/")]


def test_bash_completes_a_model(tmp_path: Path) -> None:
    """The script of README's "Shell completion", in a real bash."""
    (tmp_path / "olc").write_text(f'#!/bin/sh\nexec {" ".join(olc_command())} "$@"\n')
    (tmp_path / "olc").chmod(0o755)
    (tmp_path / "my-model").mkdir()
    script = """
        eval "$(_OLC_COMPLETE=bash_source olc)"
        compopt() { printf "%s %s\\n" "$@"; }
        COMP_WORDS=(olc complete -m 7); COMP_CWORD=3
        _olc_completion olc
        printf "%s\\n" "${COMPREPLY[@]}"
    """
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(Path(__file__).parents[3])}
    run = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("-o default\n7b-v2\n7b\n", "")
