"""`olc explain`: where the text comes from, what a pipe, a terminal and JSON get, and what is wrong usage."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Olc, olc_command
from tests.support.terminals import Terminal, on_a_terminal, without_color

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
UNKNOWN = (
    'Traceback (most recent call last):\n  File "/x/site-packages/torch/nn.py", line 1, in f\n    f()\nOddError: odd [bold]\n'
)


def test_a_pipe_gets_labels_and_texts(olc: Olc) -> None:
    run = olc("explain", OOM)
    assert (run.code, run.messages) == (0, "")
    fields = [line.split("\t", 1) for line in run.text.splitlines()]
    assert list(dict.fromkeys(label for label, _ in fields)) == ["error", "line", "cause", "fix", "olc", "see"]
    # Code to paste is on lines of its own.
    assert ["fix", '    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, device_map="auto")'] in fields
    assert fields[0][1].startswith("cuda_out_of_memory: ")
    assert fields[1][1] == f"1: {OOM}"
    assert fields[-1][1].startswith("https://github.com/")
    assert olc("explain", *OOM.split()).text == run.text, "words need no quotes"


def test_several_errors_are_told_root_cause_first(olc: Olc, tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text(f"start\n{OOM}\nERROR:torch.distributed.elastic.multiprocessing.api:failed (exitcode: 1)\n")
    run = olc("explain", "-f", str(log))
    first, second = run.text.split("\n\n")
    assert first.startswith("error\tcuda_out_of_memory")
    assert second.startswith("error\ttorchrun_child_failed")
    assert "line\t3: " in second


def test_json(olc: Olc) -> None:
    run = olc("explain", OOM, "--json")
    document = json.loads(run.text)
    assert run.code == 0
    assert list(document) == ["explanations", "unknown"]
    assert document["unknown"] is None
    (found,) = document["explanations"]
    assert list(found) == ["code", "title", "cause", "fix", "olc", "link", "rank", "line", "line_number", "your_code"]
    assert (found["code"], found["line"], found["line_number"]) == ("cuda_out_of_memory", OOM, 1)


def test_an_unknown_error_in_json(olc: Olc) -> None:
    run = olc("explain", UNKNOWN, "--json")
    assert run.code == 1
    unknown = {"line": "OddError: odd [bold]", "line_number": 4, "library": "torch", "your_code": None, "nearest": []}
    assert json.loads(run.text) == {"explanations": [], "unknown": unknown}


def test_the_users_own_line_and_what_is_nearest(olc: Olc) -> None:
    log = 'Traceback (most recent call last):\n  File "/home/me/run.py", line 17, in f\n    ids = tokenizer(text)\n'
    assert "your code\trun.py:17: ids = tokenizer(text)\n" in olc("explain", f"{log}{OOM}").text
    document = json.loads(olc("explain", f"{log}{OOM}", "--json").text)
    assert document["explanations"][0]["your_code"] == {"file": "/home/me/run.py", "line": 17, "code": "ids = tokenizer(text)"}
    unknown = f"{log}OddError: the tokenizer wants protobuf and sentencepiece"
    run = olc("explain", unknown)
    assert "(your code: run.py:17: ids = tokenizer(text))" in run.messages
    assert re.search(r"nearest by the words they share: \w+ \(\w+, .*\) and \w+ \(.*\): olc explain \w+$", run.messages.strip())
    assert len(json.loads(olc("explain", unknown, "--json").text)["unknown"]["nearest"]) == 2


def test_a_text_without_an_error(olc: Olc) -> None:
    run = olc("explain", "all done")
    assert (run.code, run.text, run.messages.count("\n")) == (1, "", 2)
    assert "no error was found" in run.messages
    run = olc("explain", "all done", "--json")
    assert (run.code, json.loads(run.text)) == (1, {"explanations": [], "unknown": None})


@pytest.mark.parametrize(
    ("library", "says"),
    [
        ("torch", "github.com/pytorch/pytorch/issues"),
        ("openllama_cli", "--debug"),
        ("transformers", "huggingface/transformers/issues"),
        ("my_package", "the full log"),
    ],
)
def test_what_to_do_about_an_unknown_error(olc: Olc, library: str, says: str) -> None:
    run = olc("explain", UNKNOWN.replace("torch", library))
    assert (run.code, run.text) == (1, "")
    cause, fix = run.messages.splitlines()
    assert re.fullmatch(r"error: not one of the \d+ known errors: line 4: OddError: odd \[bold\]", cause)
    assert says in fix


def test_a_known_warning_beside_an_unknown_error(olc: Olc) -> None:
    run = olc("explain", f"`torch_dtype` is deprecated! Use `dtype` instead!\n{UNKNOWN}")
    assert run.code == 1
    assert "dtype_renamed" in run.text
    assert "line 5: OddError" in run.messages


def test_errors_of_olc_explain_themselves(olc: Olc) -> None:
    failed = olc("complete", "x", "--device", "toaster")
    assert failed.code == 2
    document = json.loads(olc("explain", failed.messages, "--json").text)
    (own,) = document["explanations"]
    assert own["code"] == "olc"
    assert f"error: {own['cause']}\n  fix: {own['fix']}\n" == failed.messages
    assert (own["olc"], own["link"], document["unknown"]) == (None, None, None)


def test_stdin_files_and_their_encodings(olc: Olc, tmp_path: Path) -> None:
    expected = olc("explain", OOM).out
    assert b"cuda_out_of_memory" in expected
    assert olc("explain", stdin=OOM.encode()).out == expected
    assert olc("explain", "-", stdin=OOM.encode()).out == expected
    assert olc("explain", "-f", "-", stdin=OOM.encode()).out == expected
    # PowerShell writes UTF-16; other systems' messages may be in any encoding.
    for content in (OOM.encode(), OOM.encode("utf-8-sig"), OOM.encode("utf-16"), f"{OOM}\r\n".encode() + b"\xff\xe4\x00\n"):
        (tmp_path / "log").write_bytes(content)
        assert olc("explain", "-f", str(tmp_path / "log")).out == expected
    assert olc("explain", OOM, stdin=b"ignored").out == expected
    assert "cuda_out_of_memory" in olc("explain", os.fsdecode(b"caf\xe9 " + OOM.encode())).text
    assert olc("explain", stdin=b"").code == 2


def test_secrets_do_not_reach_the_output(olc: Olc) -> None:
    secret = "hf_" + "abcDEF123456" * 3
    for arguments in ([f"{OOM} token={secret}"], [f"OddError: {secret}"], [f"error: no {secret}\n  fix: use {secret}\n"]):
        for form in ([], ["--json"]):
            run = olc("explain", *arguments, *form)
            assert secret.encode() not in run.out + run.err


def test_list(olc: Olc) -> None:
    run = olc("explain", "--list")
    rows = [line.split("\t") for line in run.text.splitlines()]
    assert rows[0] == ["code", "topic", "meaning"]
    assert len(rows) > 60
    assert ["mixed_devices", "devices", "Tensors on two devices"] in rows
    document = json.loads(olc("explain", "--list", "--json").text)
    assert [entry["code"] for entry in document["known_errors"]] == [row[0] for row in rows[1:]]
    keys = {"code", "topic", "title", "cause", "fix", "olc", "link", "example"}
    assert all(set(entry) == keys for entry in document["known_errors"])


def test_a_known_error_by_its_name_or_that_of_olc(olc: Olc) -> None:
    run = olc("explain", "mixed_devices")
    assert run.text.startswith("error\tmixed_devices: Tensors on two devices\ncause\t")
    assert olc("explain", "gated").text == olc("explain", "hub_gated").text


# -- on a terminal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_lines_fit_the_terminal(columns: int) -> None:
    written = on_a_terminal("explain", f"{OOM}\nKilled", columns=columns)
    lines = without_color(written).splitlines()
    # But for code to paste, which is whole and has nothing in front of it.
    code = 'model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, device_map="auto")'
    assert code in lines
    assert all(len(line) <= columns for line in lines if not line.startswith(("model = ", "sudo ")))
    assert "The GPU's memory is full" in without_color(written)
    assert "2 known errors. First:" in lines[0]
    assert "\x1b]8;" in written


def test_a_terminal_never_gets_control_characters_or_markup_of_the_text() -> None:
    written = on_a_terminal("explain", f"{OOM} [red]x[/red] \x9b31m\x07 \x1b]0;title\x07 end", columns=100)
    assert "[red]x[/red]" in written
    assert "\x9b" not in written
    assert "\x07" not in written
    assert "\x1b]0;" not in written


def test_no_text_on_a_terminal_is_a_usage_error() -> None:
    assert "no error message was given" in on_a_terminal("explain", columns=100, code=2)


def test_text_pasted_on_a_terminal_is_read_to_its_end() -> None:
    with Terminal("explain", "-", columns=100) as terminal:
        terminal.type(f"{OOM}\n".encode())
        terminal.type(b"\x04")
        assert "cuda_out_of_memory" in terminal.read()


def test_ctrl_c_while_it_reads() -> None:
    process = subprocess.Popen(
        olc_command("explain", "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(b"x\n" * 100_000)
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
