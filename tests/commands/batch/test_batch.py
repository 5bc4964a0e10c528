"""`olc batch`: what goes in, what comes out, and what is refused. A random model: only the plumbing is judged here."""

import csv
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.batch.input.rows import Row
from openllama_cli.commands.shared.prompt_input import unescape
from tests.conftest import Olc, Result
from tests.support.batches import GREEDY, read

Batch = Callable[..., Result]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture
def batch(olc: Olc, model: str, tmp_path: Path, output: Path) -> Batch:
    """`batch("in.txt", "one", "--restart")`: a batch of this input, which is only written if it is given."""

    def run(name: str, content: str | bytes | None, *arguments: str, model: str = model) -> Result:
        source = tmp_path / name
        if content is not None:
            source.write_bytes(content if isinstance(content, bytes) else content.encode())
        return olc("batch", str(source), "-o", str(output), *GREEDY, "-m", model, *arguments)

    return run


def test_a_text_file_becomes_completions_in_order(olc: Olc, batch: Batch, model: str, output: Path) -> None:
    result = batch("in.txt", b"\xef\xbb\xbfone\r\n\r\nthree [b]")
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
    assert "1 of 3 prompts is empty, as blank lines are prompts" in result.messages


def test_a_table_fills_a_template(olc: Olc, model: str, tmp_path: Path, output: Path) -> None:
    template = tmp_path / "ask.toml"
    template.write_text('description = "Asks."\ntemplate = "Q: {{ question }}\\nA:"\nstop = ["\\n"]\nmax_tokens = 7\n')
    source = tmp_path / "in.csv"
    source.write_text('custom_id,question,unused\na,"What, now?",x\nb,Größe 🐋,y\n')
    assert olc("batch", str(source), "-t", str(template), "-o", str(output), "-m", model).code == 0
    rows = read(output)
    assert [row["unused"] for row in rows] == ["x", "y"]
    assert [(row["custom_id"], row["prompt"]) for row in rows] == [("a", "Q: What, now?\nA:"), ("b", "Q: Größe 🐋\nA:")]
    assert all("\n" not in row["text"] and row["usage"]["completion_tokens"] <= 7 for row in rows)


def test_escapes_in_stops_become_characters_on_request(batch: Batch, output: Path) -> None:
    rows = [{"prompt": "Q: What is the capital of France?\nA:"}, {"prompt": r"\n", "max_tokens": 0}]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    assert batch("in.jsonl", content, "-e", "--stop", r"\n", "-n", "64", model="demo").code == 0
    assert [row["text"] for row in read(output)] == [" Paris.", ""]
    assert read(output)[1]["prompt"] == r"\n", "a file can hold the characters themselves"


def test_the_same_command_again_does_nothing_once_all_is_done(batch: Batch, output: Path) -> None:
    assert batch("in.txt", "one\ntwo\n").code == 0
    before = output.stat()
    again = batch("in.txt", None)
    assert again.code == 0
    assert "already complete" in again.messages
    after = output.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)  # Not all: reading sets atime.
    changed = batch("in.txt", None, "--temperature", "1")
    assert changed.code == 2
    assert "--temperature was not given, now 1.0" in changed.messages
    assert batch("in.txt", None, "--temperature", "1", "--restart").code == 0


def test_carry_belongs_to_a_run_where_it_makes_a_difference(batch: Batch, output: Path) -> None:
    assert batch("in.csv", "prompt,country\none,FR\n", "--carry", "none").code == 0
    assert "country" not in read(output)[0]
    changed = batch("in.csv", None)
    assert changed.code == 2
    assert "--carry was not given, now all" in changed.messages
    assert batch("in.csv", None, "--restart").code == 0
    assert read(output)[0]["country"] == "FR"
    output.with_name(output.name + ".journal").unlink()
    assert batch("in.csv", "prompt\none\n", "--restart").code == 0
    assert "already complete" in batch("in.csv", None, "--carry", "none").messages


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("input", "the input"),
        ("model", "model.safetensors changed"),
        ("tokenizer", "tokenizer"),
    ],
)
def test_a_journal_of_another_run_is_refused_by_name(
    batch: Batch, tmp_model: Path, tmp_path: Path, change: str, named: str
) -> None:
    from tests.support.models.tiny_models import write_tiny_llama

    assert batch("in.jsonl", '{"prompt": "one"}\nbad\n', model=str(tmp_model)).code == 3
    if change == "model":
        other = write_tiny_llama(tmp_path / "other", seed=9)
        shutil.copy(other / "model.safetensors", tmp_model)
    elif change == "tokenizer":
        (tmp_model / "tokenizer.model").write_bytes((tmp_model / "tokenizer.model").read_bytes() + b"\x82\x01\x00")
    content = '{"prompt": "two"}\nbad\n' if change == "input" else None
    result = batch("in.jsonl", content, model=str(tmp_model))
    assert result.code == 2
    assert named in result.messages
    assert "--restart" in result.messages


def test_failed_rows_are_counted_by_code_and_run_again_on_request(batch: Batch, output: Path) -> None:
    rows = '{"prompt": "one"}\nbad\n{"prompt": 5}\n{"prompt": "x", "max_tokens": 9999}\n{"prompt": "last"}\n'
    first = batch("in.jsonl", rows)
    assert first.code == 3
    assert "1 context_length_exceeded, 1 invalid_json, 1 invalid_type" in first.messages
    codes = [row["error"] and row["error"]["code"] for row in read(output)]
    assert codes == [None, "invalid_json", "invalid_type", "context_length_exceeded", None]
    whole = output.read_bytes()
    assert "--retry-errors" not in first.messages
    assert "in.jsonl and run all again with --restart, or run them alone" in " ".join(first.messages.split())
    again = batch("in.jsonl", None, "--retry-errors")
    assert again.code == 3
    assert "2 of 5 rows are done" in again.messages
    assert output.read_bytes() == whole


def test_a_retry_is_offered_where_it_can_help(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    from openllama_cli.batch.input.rows import RowError
    from openllama_cli.batch.prepare import Prepare

    def without_memory(self: Prepare, row: Row) -> tuple[int, ...]:
        raise row.error or RowError("out_of_memory", "no memory")

    monkeypatch.setattr(Prepare, "_tokens", without_memory)
    messages = batch("in.jsonl", '{"prompt": "one"}\nbad\n').messages
    assert "--retry-errors retries those with out_of_memory; correct the rows of " in messages


def test_rows_of_another_encoding_are_told_with_the_command_that_converts_the_file(
    olc: Olc, batch: Batch, tmp_path: Path
) -> None:
    messages = batch("latin.txt", "one\ncaf\xe9\n".encode("cp1252")).messages
    fix = olc("complete", "-f", str(tmp_path / "latin.txt")).messages.partition("convert it")[2]
    assert "iconv" in fix
    assert f"is not UTF-8: convert it{fix}" in messages
    assert "--retry-errors" not in messages
    mixed = batch("mixed.txt", "caf\xe9\n".encode("cp1252") + "caf\xe9\n".encode(), "--restart").messages
    assert "iconv" not in mixed
    assert "correct the rows" in mixed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *[
            (["no/in.txt", *output], ["cannot read no/in.txt: No such file or directory"])
            for output in ([], ["-o", "out.jsonl"], ["-o", "no/such/folder/out.jsonl"])
        ],
        (["in.md", "-o", "out.jsonl"], ["--format"]),
        (["in.txt", "-o", "in.txt"], ["in.txt"]),
        (["in.txt", "-o", "link.txt"], ["in.txt"]),
        (["in.txt", "-o", "there.jsonl"], ["there.jsonl", "--restart"]),
        (["twice.jsonl", "-o", "out.jsonl"], ["custom_id", "same"]),
        (["in.csv", "-t", "qa", "-o", "out.jsonl"], ["question"]),
        (["in.txt", "-t", "nonsense", "-o", "out.jsonl"], ["nonsense"]),
        *[(["in.txt", "-o", "out.jsonl", "--batch-size", n], ["--batch-size"]) for n in ("0", "many", "1.5", "5000")],
        (["in.txt", "-o", "out.jsonl", "--retry-errors", "--restart"], ["--retry-errors"]),
        (["in.txt", "-o", "out.jsonl", "--top-p", "3"], ["--top-p"]),
        (["-", "-o", "out.jsonl"], ["name its format: --format txt\n"]),
        (["-", "-o", "-"], ["name its format: --format txt\n"]),
        (["-", "--format", "txt"], ["name the output: -o answers.jsonl\n"]),
        (["-"], ["name its format and the output: --format txt -o answers.jsonl\n"]),
        (["."], [". is a folder"]),
    ],
)
def test_what_can_be_refused_is_refused_before_the_model_loads(
    olc: Olc, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("one\n")
    (tmp_path / "in.md").write_text("one\n")
    (tmp_path / "in.csv").write_text("prompt\none\n")
    (tmp_path / "there.jsonl").write_text("precious\n")
    (tmp_path / "twice.jsonl").write_text('{"prompt": "a", "custom_id": "same"}\n{"prompt": "b", "custom_id": "same"}\n')
    (tmp_path / "link.txt").symlink_to("in.txt")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("openllama_cli.commands.batch.engines.load_model", never)
    result = olc("batch", *arguments, "-m", model)
    assert result.code == 2, result.messages
    assert len(result.messages.splitlines()) == 2
    for word in words:
        assert word in result.messages
    assert (tmp_path / "in.txt").read_text() == "one\n"
    assert (tmp_path / "there.jsonl").read_text() == "precious\n"


@pytest.mark.parametrize("now", ["one\nTWO\n", "one\ntwo\nthree\n", "one\n"])
def test_an_input_that_changes_under_way_is_noticed(
    batch: Batch, tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch, now: str
) -> None:
    from openllama_cli.commands.batch import engines

    load = engines.load_model

    def change_and_load(*arguments: Any) -> Any:
        (tmp_path / "in.txt").write_text(now)
        return load(*arguments)

    monkeypatch.setattr(engines, "load_model", change_and_load)
    result = batch("in.txt", "one\ntwo\n")
    assert result.code == 1
    assert "was changed" in result.messages
    assert not output.exists()
    result = batch("in.txt", "one\ntwo\n", "-o", "-")
    assert (result.code, "was changed" in result.messages) == (1, True)


def test_a_batch_that_is_stopped_while_it_loads_stops_at_once_and_speaks_of_no_rows(
    batch: Batch, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it went on loading")

    monkeypatch.setattr("openllama_cli.commands.batch.engines.load_model", interrupted)
    result = batch("in.txt", "one\n")
    assert result.code == 130
    assert "in flight" not in result.messages
    assert "stopped with 0 of 1 rows done; to resume" in result.messages


def test_a_long_prompt_without_a_length_is_completed_up_to_the_context(olc: Olc, model: str, tmp_path: Path) -> None:
    from openllama_cli.models.tokenizer.open import open_tokenizer

    context = json.loads((Path(model) / "config.json").read_text())["max_position_embeddings"]
    encode = open_tokenizer(Path(model)).encode
    prompt = next(text for n in range(context) if len(encode(text := "the quick " * n)) > context - 20)
    source, target = tmp_path / "long.txt", tmp_path / "long.jsonl"
    source.write_text(prompt)
    command = ("batch", str(source), "-o", str(target), "-m", model, "--dtype", "float32")
    assert olc(*command).code == 0
    [row] = read(target)
    room = context - row["usage"]["prompt_tokens"]
    assert (row["finish_reason"], row["usage"]["completion_tokens"]) == ("length", room)
    assert "1 context_length_exceeded" in olc(*command, "-n", "64", "--restart").messages
    single = olc("complete", prompt, "--json", "-m", model, "--dtype", "float32")
    assert json.loads(single.text)["choices"][0]["text"] == row["text"]


def test_stdout_is_an_output_that_has_the_same_rows_in_order(
    olc: Olc, batch: Batch, model: str, tmp_path: Path, output: Path
) -> None:
    rows = '{"prompt": "one"}\nbad\n{"prompt": "the quick brown fox"}\n{"prompt": "the"}\n'
    assert batch("in.jsonl", rows).code == 3
    before = sorted(tmp_path.iterdir())
    streamed = olc("batch", str(tmp_path / "in.jsonl"), "-o", "-", *GREEDY, "-m", model)
    assert streamed.code == 3
    assert streamed.out == output.read_bytes()
    piped = olc("batch", "-", "--format", "jsonl", "-o", "/dev/stdout", *GREEDY, "-m", model, stdin=rows.encode())
    assert piped.out == streamed.out
    assert sorted(tmp_path.iterdir()) == before
    assert olc("batch", str(tmp_path / "in.jsonl"), "-o", "-", "--json-progress", "-m", model).code == 2


def test_the_suffix_of_the_output_is_its_format(olc: Olc, model: str, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text('prompt,country,text\none,FR,"a\nb"\ntwo,"D,E",\nthree\n')
    command = ("batch", str(source), *GREEDY, "-m", model, "-o")
    assert olc(*command, str(tmp_path / "out.jsonl")).code == 3
    rows = read(tmp_path / "out.jsonl")
    for name, delimiter in (("out.csv", ","), ("out.tsv", "\t")):
        assert olc(*command, str(tmp_path / name)).code == 3
        with (tmp_path / name).open(newline="") as file:
            table = list(csv.DictReader(file, delimiter=delimiter))
        assert [row["text"] for row in table] == [row["text"] or "" for row in rows]
        assert [(row["country"], row["input_text"]) for row in table] == [("FR", "a\nb"), ("D,E", ""), ("", "")]
        assert [row["error_code"] for row in table] == ["", "", "invalid_csv"]
        assert table[0]["completion_tokens"] == "6"
    assert olc(*command, str(tmp_path / "out.txt")).code == 3
    lines = (tmp_path / "out.txt").read_text().split("\n")
    assert [unescape(line).replace("\\r", "\r") for line in lines] == [*(row["text"] or "" for row in rows), ""]
    refused = olc(*command, str(tmp_path / "out.json"))
    assert refused.code == 2
    assert f"-o {tmp_path / 'out.out.jsonl'}" in refused.messages


def test_a_batch_that_is_not_done_can_be_looked_at(batch: Batch, olc: Olc, output: Path) -> None:
    assert batch("in.jsonl", '{"prompt": "one"}\nbad\n{"prompt": "three"}\n').code == 3
    journal = output.with_name(output.name + ".journal")
    lines = journal.read_bytes().splitlines(keepends=True)
    part = b"".join(line for line in lines if not line.startswith(b"0 ")) + b"0 torn"
    journal.write_bytes(part)
    peeked = olc("batch", "--peek", str(output))
    assert peeked.code == 0
    assert peeked.out == b"".join(output.read_bytes().splitlines(keepends=True)[1:])
    assert "2 of 3 rows are done, 1 of them failed" in peeked.messages
    assert journal.read_bytes() == part
    assert olc("batch", "--peek", str(output.with_name("none.jsonl"))).code == 2
    assert "not written by olc batch" in olc("batch", "--peek", str(output.with_name("in.jsonl"))).messages
    assert olc("batch").code == 2


@pytest.mark.parametrize("done", ["all", "some"])
def test_rows_that_are_added_to_an_input_run_alone(batch: Batch, output: Path, tmp_path: Path, done: str) -> None:
    assert batch("in.jsonl", '{"prompt": "one"}\n{"prompt": "two"}\n' + "bad\n" * (done == "some")).code in (0, 3)
    kept = output.read_bytes()
    more = (tmp_path / "in.jsonl").read_text() + '{"prompt": "three"}\n'
    result = batch("in.jsonl", more)
    assert "has 1 more row;" in result.messages
    assert output.read_bytes().startswith(kept)
    assert [row["prompt"] for row in read(output)] == ["one", "two", *([None] * (done == "some")), "three"]
    [run] = json.loads((tmp_path / "out.jsonl.record.json").read_text())["runs"]
    assert (run["by"], run["rows"]) == ("local", len(read(output))), "where the earlier ones were made is still known"
    # Another beginning, or other options: refused as before.
    assert batch("in.jsonl", more.replace("two", "TWO") + '{"prompt": "four"}\n').code == 2
    assert batch("in.jsonl", more + '{"prompt": "four"}\n', "--temperature", "1").code == 2
    assert output.read_bytes().startswith(kept)


def test_an_added_row_may_have_something_to_carry(batch: Batch, output: Path) -> None:
    assert batch("in.jsonl", '{"prompt": "one"}\n').code == 0
    grown = '{"prompt": "one"}\n{"prompt": "two", "topic": "x"}\n'
    assert batch("in.jsonl", grown).code == 0
    assert [row.get("topic") for row in read(output)] == [None, "x"]
    # Without OUTPUT there are no earlier rows to keep.
    output.unlink()
    refused = batch("in.jsonl", grown + '{"prompt": "three"}\n')
    assert (refused.code, "--restart" in refused.messages) == (2, True)


def test_stdin_is_an_input_too(olc: Olc, model: str, tmp_path: Path, output: Path) -> None:
    arguments = ("batch", "-", "--format", "txt", "-o", str(output), *GREEDY, "-m", model, "--json-progress")
    result = olc(*arguments, stdin="ñ\n🐋\n".encode())
    assert result.code == 0, result.messages
    assert [row["prompt"] for row in read(output)] == ["ñ", "🐋"]
    last = json.loads(result.text.splitlines()[-1])
    assert (last["rows"], last["total"], last["done"]) == (2, 2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.journal", "out.jsonl.record.json"]
