"""`olc batch` as people run it: real processes, real kills, real signals. A random model: only the plumbing is judged here."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Olc, olc_command, run_process

GREEDY = ("-n", "6", "--dtype", "float32")


@pytest.fixture
def model(tiny_model: Path) -> str:
    return str(tiny_model)


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """120 rows that take a while: some sample, some are wrong."""
    rng = random.Random(0)
    lines = []
    for index in range(120):
        if index % 17 == 5:
            lines.append(b"{not json")
            continue
        document: dict[str, Any] = {"prompt": "the quick brown fox " * rng.randrange(0, 4), "custom_id": f"id-{index}"}
        if index % 3 == 0:
            document |= {"temperature": 1.0, "seed": index}
        lines.append(json.dumps(document).encode())
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n")
    return file


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def finished(output: Path) -> int:
    """Whole rows in the journal."""
    journal = output.with_name(output.name + ".journal")
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


def wait_for(condition: Callable[[], bool], run: subprocess.Popen[bytes], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert run.poll() is None, "it ended before"
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_text_file_becomes_completions_in_order(olc: Olc, model: str, tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_bytes(b"\xef\xbb\xbfone\r\n\r\nthree [b]")
    output = tmp_path / "out.jsonl"
    result = olc("batch", str(source), "-o", str(output), *GREEDY, "-m", model)
    assert result.code == 0, result.messages
    assert result.out == b""
    rows = read(output)
    assert [row["prompt"] for row in rows] == ["one", "", "three [b]"]
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert all(set(row) == {"custom_id", "index", "prompt", "text", "finish_reason", "usage", "error"} for row in rows)
    assert all(row["error"] is None for row in rows)
    single = olc("complete", "one", "--json", *GREEDY, "-m", model)
    assert rows[0]["text"] == json.loads(single.text)["choices"][0]["text"]
    assert "3 rows, 0 failed" in result.messages


def test_a_table_fills_a_template(olc: Olc, model: str, tmp_path: Path) -> None:
    template = tmp_path / "ask.toml"
    template.write_text('description = "Asks."\ntemplate = "Q: {{ question }}\\nA:"\nstop = ["\\n"]\nmax_tokens = 7\n')
    source = tmp_path / "in.csv"
    source.write_text('custom_id,question,unused\na,"What, now?",x\nb,Größe 🐋,y\n')
    output = tmp_path / "out.jsonl"
    assert olc("batch", str(source), "-t", str(template), "-o", str(output), "-m", model).code == 0
    rows = read(output)
    assert [(row["custom_id"], row["prompt"]) for row in rows] == [("a", "Q: What, now?\nA:"), ("b", "Q: Größe 🐋\nA:")]
    assert all("\n" not in row["text"] and row["usage"]["completion_tokens"] <= 7 for row in rows)


def test_escapes_in_stops_become_characters_on_request(olc: Olc, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": "Q: What is the capital of France?\nA:"}, {"prompt": r"\n", "max_tokens": 0}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert olc("batch", str(source), "-o", str(output), "-e", "--stop", r"\n", "--dtype", "float32", "-m", "demo").code == 0
    assert [row["text"] for row in read(output)] == [" Paris.", ""]
    assert read(output)[1]["prompt"] == r"\n", "a file can hold the characters themselves"


def test_the_same_command_again_does_nothing_once_all_is_done(olc: Olc, model: str, tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("one\ntwo\n")
    command = ("batch", str(source), "-o", str(output), *GREEDY, "-m", model)
    assert olc(*command).code == 0
    before = output.stat()
    again = olc(*command)
    assert again.code == 0
    assert "complete already" in again.messages
    assert output.stat() == before
    changed = olc(*command, "--temperature", "1")
    assert changed.code == 2
    assert "--temperature" in changed.messages
    assert olc(*command, "--temperature", "1", "--restart").code == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("options", "--max-tokens was 6, is 7"),
        ("input", "the input"),
        ("model", "model.safetensors changed"),
        ("tokenizer", "tokenizer"),
    ],
)
def test_a_journal_of_another_run_is_refused_by_name(
    olc: Olc, tmp_model: Path, tmp_path: Path, change: str, named: str
) -> None:
    from tests.tiny_models import write_tiny_llama

    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "one"}\nbad\n')
    command = ["batch", str(source), "-o", str(output), *GREEDY, "-m", str(tmp_model)]
    assert olc(*command).code == 3
    if change == "options":
        command += ["-n", "7"]
    elif change == "input":
        source.write_text('{"prompt": "two"}\nbad\n')
    elif change == "model":
        other = write_tiny_llama(tmp_path / "other", seed=9)
        shutil.copy(other / "model.safetensors", tmp_model)
    else:
        file = tmp_model / "tokenizer_config.json"
        (tmp_model / "tokenizer.model").write_bytes((tmp_model / "tokenizer.model").read_bytes() + b"\x82\x01\x00")
        assert file.parent.is_dir()
    result = olc(*command)
    assert result.code == 2
    assert named in result.messages
    assert "--restart" in result.messages


def test_failed_rows_are_counted_by_code_and_run_again_on_request(olc: Olc, model: str, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "one"}\nbad\n{"prompt": 5}\n{"prompt": "x", "max_tokens": 9999}\n{"prompt": "last"}\n')
    command = ("batch", str(source), "-o", str(output), *GREEDY, "-m", model)
    first = olc(*command)
    assert first.code == 3
    assert "1 context_length_exceeded, 1 invalid_json, 1 invalid_type" in first.messages
    rows = read(output)
    assert [row["error"] and row["error"]["code"] for row in rows] == [
        None,
        "invalid_json",
        "invalid_type",
        "context_length_exceeded",
        None,
    ]
    whole = output.read_bytes()
    again = olc(*command, "--retry-errors")
    assert again.code == 3
    assert "2 of 5 rows are done" in again.messages
    assert output.read_bytes() == whole


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.txt", "-o", "out.jsonl"], ["nothing.txt"]),
        (["in.md", "-o", "out.jsonl"], ["--format"]),
        (["in.txt", "-o", "no/such/folder/out.jsonl"], ["no/such/folder"]),
        (["in.txt", "-o", "in.txt"], ["in.txt"]),
        (["in.txt", "-o", "link.txt"], ["in.txt"]),
        (["in.txt", "-o", "."], ["folder"]),
        (["in.txt", "-o", "there.jsonl"], ["there.jsonl", "--restart"]),
        (["empty.txt", "-o", "out.jsonl"], ["no rows"]),
        (["twice.jsonl", "-o", "out.jsonl"], ["custom_id", "same"]),
        (["in.csv", "-t", "qa", "-o", "out.jsonl"], ["question"]),
        (["in.txt", "-t", "nonsense", "-o", "out.jsonl"], ["nonsense"]),
        (["in.txt", "-o", "out.jsonl", "--batch-size", "0"], ["--batch-size"]),
        (["in.txt", "-o", "out.jsonl", "--retry-errors", "--restart"], ["--retry-errors"]),
        (["in.txt", "-o", "out.jsonl", "--top-p", "3"], ["--top-p"]),
        (["-", "-o", "out.jsonl"], ["--format"]),
        (["-", "--format", "txt"], ["-o"]),
    ],
)
def test_what_can_be_refused_is_refused_before_the_model_loads(
    olc: Olc, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("one\n")
    (tmp_path / "in.md").write_text("one\n")
    (tmp_path / "in.csv").write_text("prompt\none\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "there.jsonl").write_text("precious\n")
    (tmp_path / "twice.jsonl").write_text('{"prompt": "a", "custom_id": "same"}\n{"prompt": "b", "custom_id": "same"}\n')
    (tmp_path / "link.txt").symlink_to("in.txt")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("openllama_cli.commands.batch.load_model", never)
    result = olc("batch", *arguments, "-m", model)
    assert result.code == 2, result.messages
    assert len(result.messages.splitlines()) == 2
    for word in words:
        assert word in result.messages
    assert (tmp_path / "in.txt").read_text() == "one\n"
    assert (tmp_path / "there.jsonl").read_text() == "precious\n"


def test_an_input_that_changes_under_way_is_noticed(
    olc: Olc, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openllama_cli.commands import batch

    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("one\ntwo\n")
    load = batch.load_model

    def change_and_load(*arguments: Any) -> Any:
        source.write_text("one\nTWO\n")
        return load(*arguments)

    monkeypatch.setattr(batch, "load_model", change_and_load)
    result = olc("batch", str(source), "-o", str(output), *GREEDY, "-m", model)
    assert result.code == 1
    assert "was changed" in result.messages
    assert not output.exists()


def test_stdin_is_an_input_too(model: str, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    result = run_process(
        "batch", "-", "--format", "txt", "-o", str(output), *GREEDY, "-m", model, "--json-progress", stdin="ñ\n🐋\n".encode()
    )
    assert result.code == 0, result.messages
    assert [row["prompt"] for row in read(output)] == ["ñ", "🐋"]
    last = json.loads(result.text.splitlines()[-1])
    assert (last["rows"], last["total"], last["done"]) == (2, 2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.journal"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Callable[[Path], bytes]:
    """The output of a run that nothing disturbed, in another process."""
    known: dict[bytes, bytes] = {}

    def output_of(source: Path) -> bytes:
        content = source.read_bytes()
        if content not in known:
            output = tmp_path_factory.mktemp("whole") / "out.jsonl"
            run = run_process("batch", str(source), "-o", str(output), *GREEDY, "-m", str(tiny_model), "--batch-size", "3")
            assert run.code == 3, run.messages
            known[content] = output.read_bytes()
        return known[content]

    return output_of


def assert_whole(output: Path, rows_file: Path, expected: bytes) -> None:
    """Every row once, in order, the bytes of an uninterrupted run, and nothing left beside it but the journal."""
    assert [row["index"] for row in read(output)] == list(range(120))
    assert output.read_bytes() == expected
    assert sorted(path.name for path in output.parent.iterdir()) == sorted(
        {rows_file.name, output.name, output.name + ".journal"}
    )


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing_and_repeat_nothing(
    model: str, tmp_path: Path, rows_file: Path, uninterrupted: Callable[[Path], bytes]
) -> None:
    expected = uninterrupted(rows_file)
    output = tmp_path / "out.jsonl"
    command = olc_command("batch", str(rows_file), "-o", str(output), *GREEDY, "-m", model, "--batch-size", "4")
    rng = random.Random(1)
    before = 0
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            goal = before + rng.randrange(8, 25)
            wait_for(lambda goal=goal: finished(output) >= goal, run)  # type: ignore[misc]
            time.sleep(rng.random() * 0.02)
            run.kill()
        assert not output.exists()
        assert finished(output) >= before, "finished rows were lost"
        before = finished(output)
    end = run_process(*command[3:])
    assert end.code == 3
    assert f"{before} of 120 rows are done" in end.messages
    assert_whole(output, rows_file, expected)


ARMED = """
import os, signal, sys
from openllama_cli.batch import disk, journal, output
point, count = sys.argv.pop(1), int(sys.argv.pop(1))
def die(): os.kill(os.getpid(), signal.SIGKILL)
write = journal.write_whole
appends = 0
def write_whole(descriptor, data):
    global appends
    appends += 1
    if appends == count and point == "before an append": die()
    if appends == count and point == "amid an append":
        os.write(descriptor, data[: len(data) // 2]); die()
    write(descriptor, data)
    if appends == count and point == "after an append": die()
journal.write_whole = write_whole
if point == "before the rename":
    from openllama_cli.batch.output_files import OutputFiles
    def write_output(journal, path):
        OutputFiles.of(path).temporary.write_bytes(b"half of it"); die()
    output.write_output = write_output
from openllama_cli.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("point", ["before an append", "amid an append", "after an append", "before the rename"])
def test_kills_at_armed_points_lose_nothing_and_repeat_nothing(
    model: str, tmp_path: Path, rows_file: Path, uninterrupted: Callable[[Path], bytes], point: str
) -> None:
    expected = uninterrupted(rows_file)
    output = tmp_path / "out.jsonl"
    arguments = ["batch", str(rows_file), "-o", str(output), *GREEDY, "-m", model]
    killed = subprocess.run([sys.executable, "-c", ARMED, point, "70", *arguments], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not output.exists()
    assert run_process(*arguments).code == 3
    assert_whole(output, rows_file, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_is_done_and_says_how_to_go_on(
    model: str, tmp_path: Path, rows_file: Path, uninterrupted: Callable[[Path], bytes], number: int, code: int
) -> None:
    expected = uninterrupted(rows_file)
    output = tmp_path / "out.jsonl"
    command = olc_command("batch", str(rows_file), "-o", str(output), *GREEDY, "-m", model, "--batch-size", "2")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        wait_for(lambda: finished(output) >= 10, run)
        signalled = time.monotonic()
        run.send_signal(number)
        _, errors = run.communicate(timeout=30)
    assert time.monotonic() - signalled < 4, "2 seconds to stop, and a margin for a busy machine"
    assert run.returncode == code
    said = errors.decode()
    assert "Traceback" not in said
    assert f"olc batch {rows_file}" in said
    assert not output.with_name("out.jsonl.lock").exists()
    assert run_process(*command[3:]).code == 3
    assert_whole(output, rows_file, expected)


@pytest.mark.slow
def test_an_interrupted_stdin_is_kept_and_gone_on_with(
    model: str, tmp_path: Path, rows_file: Path, uninterrupted: Callable[[Path], bytes]
) -> None:
    expected = uninterrupted(rows_file)
    output = tmp_path / "out.jsonl"
    arguments = ("batch", "-", "--format", "jsonl", "-o", str(output), *GREEDY, "-m", model, "--batch-size", "2")
    with rows_file.open("rb") as rows, subprocess.Popen(olc_command(*arguments), stdin=rows, stderr=subprocess.PIPE) as run:
        wait_for(lambda: finished(output) >= 10, run)
        run.send_signal(signal.SIGTERM)
        _, errors = run.communicate(timeout=30)
    assert run.returncode == 143
    assert f"< {output}.input" in errors.decode()
    # The same command without its pipe: an empty stdin.
    assert run_process(*arguments).code == 3
    assert_whole(output, rows_file, expected)


def test_a_reader_of_the_progress_that_leaves_does_not_end_the_batch(model: str, tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("one\ntwo\n")
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = olc_command("batch", str(source), "-o", str(output), *GREEDY, "-m", model, "--json-progress")
    run = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, check=False)
    os.close(write_end)
    assert run.returncode == 0
    assert b"Traceback" not in run.stderr
    assert len(read(output)) == 2


def test_two_runs_at_once_are_refused_with_the_holder_named(model: str, tmp_path: Path, rows_file: Path) -> None:
    output = tmp_path / "out.jsonl"
    arguments = ("batch", str(rows_file), "-o", str(output), "-n", "100", "--dtype", "float32", "-m", model)
    with subprocess.Popen(olc_command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        lock = tmp_path / "out.jsonl.lock"
        wait_for(lambda: lock.exists() and lock.stat().st_size > 0, run)
        second = run_process(*arguments)
        run.kill()
    assert second.code == 2
    assert str(run.pid) in second.messages


@pytest.mark.slow
def test_a_full_disk_keeps_the_journal_and_the_run_goes_on_with_room(
    model: str, tmp_path: Path, rows_file: Path, uninterrupted: Callable[[Path], bytes]
) -> None:
    expected = uninterrupted(rows_file)
    output = tmp_path / "out.jsonl"
    arguments = ["batch", str(rows_file), "-o", str(output), *GREEDY, "-m", model]

    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    full = subprocess.run(olc_command(*arguments), capture_output=True, preexec_fn=little_room)
    assert full.returncode == 1
    assert len(full.stderr.decode().splitlines()[-2:]) == 2
    assert b"Traceback" not in full.stderr
    kept = finished(output)
    assert kept > 5
    again = run_process(*arguments)
    assert again.code == 3
    assert f"{kept} of 120 rows are done" in again.messages
    assert_whole(output, rows_file, expected)


@pytest.mark.slow
def test_a_folder_that_vanishes_is_two_lines(model: str, tmp_path: Path, rows_file: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    output = folder / "out.jsonl"
    command = olc_command("batch", str(rows_file), "-o", str(output), *GREEDY, "-m", model, "--batch-size", "2")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        wait_for(lambda: finished(output) >= 3, run)
        shutil.rmtree(folder)
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert b"Traceback" not in errors
    assert str(folder) in errors.decode()


@pytest.mark.slow
def test_memory_stays_flat_with_many_rows(model: str, tmp_path: Path) -> None:
    """Rows that are wrong need no model time: 100,000 of them pass in seconds, and must not pile up."""
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    with source.open("w") as file:
        file.write('{"prompt": "one", "max_tokens": 1}\n')
        for index in range(100_000):
            file.write(json.dumps({"prompt": 5, "note": f"row {index} " + "x" * 300}) + "\n")
    code = (
        "import resource, sys\n"
        "from openllama_cli.cli import main\n"
        "try: main()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    command = [sys.executable, "-c", code, "batch", str(source), "-o", str(output), "-m", model]
    # A few rows first: what torch, transformers and the model take.
    few = tmp_path / "few.jsonl"
    few.write_text('{"prompt": "one", "max_tokens": 1}\n')
    small = [*command[:4], str(few), "-o", str(tmp_path / "few.out.jsonl"), "-m", model]
    base = int(subprocess.run(small, capture_output=True, text=True, env=os.environ).stdout)
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert run.returncode == 3, run.stderr
    assert output.read_bytes().count(b"\n") == 100_001
    assert int(run.stdout) - base < 40_000, "kilobytes more than a small batch needs"
