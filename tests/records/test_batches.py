"""Batches made again from their records: every format and kind of row, and what differs. A random model in float32."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from openllama_cli.batch.runner import open_runner
from openllama_cli.errors import UsageError
from openllama_cli.records.batch.read import read_batch
from openllama_cli.records.batch.select import sample
from openllama_cli.records.replay import precision, rounding
from tests.conftest import Olc, Result
from tests.records.test_records import valid
from tests.support.serve.completions import CompletionsServer
from tests.support.serve.servers import running

FLOAT32 = ("--dtype", "float32")
LINES = [
    {"custom_id": "plain", "prompt": "The sky is", "country": "y"},
    {"custom_id": "3", "prompt": "x", "temperature": 1.2, "seed": 5, "max_tokens": 9},
    {"custom_id": "more", "prompt": "Whales sing", "n": 2, "best_of": 3, "logprobs": 2},
    {"custom_id": "echo", "prompt": "b c", "echo": True, "logprobs": 1, "repetition_penalty": 1.3},
    {"custom_id": "wrong", "prompt": "x", "max_tokens": -1},
    {"custom_id": "long", "prompt": "a b " * 200},
    {"custom_id": "ban", "prompt": "x y", "ban": ["e"], "stop": ["o"], "min_tokens": 2},
]
OPENAI = [
    {"custom_id": name, "method": "POST", "url": "/v1/completions", "body": {"prompt": "The sky", "max_tokens": 6, **body}}
    for name, body in {
        "a": {"temperature": 0, "logprobs": 1},
        "b": {"n": 2},
        "c": {"prompt": [1, 7, 9]},
        "d": {"top_p": 9},
    }.items()
]
TABLE = "custom_id,question,answer\none,What now?,x\ntwo,Größe,y\n"
TEMPLATE = 'heading = "{{ shots }} of these\\n"\ntemplate = "Q: {{ question }}\\nA:"\nstop = ["\\n"]\nmax_tokens = 7\n'
EXAMPLES = "question,answer\nWhat now?,Nothing\nWho,Me\nWhere,Here\n"
CHOICES = 'prompt,choices\nThe sky is,\nThe sea is,"[""wet"", ""dry""]"\n'


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# What goes in, by its suffix, what comes out, and the options.
KINDS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "lines": (".jsonl", json_lines(LINES), "out.jsonl", ("-n", "8")),
    "sampled table": (".jsonl", json_lines(LINES[:5]), "out.csv", ("-n", "8", "--temperature", "0.9", "--seed", "3")),
    "openai": (".jsonl", json_lines(OPENAI), "out.jsonl", ()),
    "openai table": (".jsonl", json_lines(OPENAI), "out.tsv", ()),
    "texts": (".txt", "one\n\nthree\\n\n", "out.txt", ("-n", "12")),
    "samples": (".txt", "one\ntwo\n", "out.jsonl", ("-n", "6", "--num-samples", "3")),
    "samples as texts": (".txt", "one\ntwo\n", "out.txt", ("-n", "6", "--num-samples", "3", "--seed", "1")),
    "examples": (".csv", TABLE, "out.jsonl", ("-t", "{}/ask.toml", "--examples", "{}/shots.csv", "--shots", "2", "--balance")),
    "choices": (".csv", CHOICES, "out.csv", ("--choices", "blue,green,red", "--calibrate-with", "N/A")),
    "chosen lines": (
        *(".csv", TABLE, "out.jsonl"),
        ("-t", "{}/ask.toml", "--choices", "Yes,No", "--choices-normalize", "byte", "--calibrate"),
    ),
    "scores": (".csv", TABLE.replace("question", "prompt"), "out.jsonl", ("--score", "--context-column", "custom")),
    "scores table": (".txt", "The sky is blue\nx\n", "out.tsv", ("--score",)),
}


@pytest.fixture
def batch(olc: Olc, tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Run a batch of a kind; its record."""
    (tmp_path / "ask.toml").write_text(TEMPLATE)
    (tmp_path / "shots.csv").write_text(EXAMPLES)

    def run(kind: str | tuple[Any, ...] = "lines", *more: str, name: str | None = None) -> Path:
        suffix, content, output, options = KINDS[kind] if isinstance(kind, str) else kind
        source = tmp_path / f"in{suffix}"
        source.write_text(content.replace("custom_id,prompt", "custom,prompt") if "scores" in kind else content)
        output = name or output
        arguments = [option.format(tmp_path) for option in (*options, *more)]
        run = olc("batch", str(source), "-o", str(tmp_path / output), "-m", str(tiny_model), *FLOAT32, *arguments)
        assert run.code in (0, 3), run.messages
        return tmp_path / f"{output}.record.json"

    return run


@pytest.fixture
def replay(olc: Olc, tiny_model: Path) -> Callable[..., Result]:
    return lambda record, *arguments: olc("replay", str(record), "-m", str(tiny_model), *arguments)


def change(record: Path, what: Callable[[str], str]) -> None:
    """Change OUTPUT, and have the record know it."""
    document = json.loads(record.read_text())
    output = record.parent / document["output"]["name"]
    before = output.read_text(encoding="utf-8")
    assert what(before) != before
    output.write_text(what(before), encoding="utf-8")
    document["output"]["sha256"] = hashlib.sha256(output.read_bytes()).hexdigest()
    record.write_text(json.dumps(document))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_made_again_from_its_record(batch: Any, replay: Any, tmp_path: Path, kind: str) -> None:
    record = batch(kind)
    document = json.loads(record.read_text())
    valid(document, "batch")
    assert str(tmp_path) not in record.read_text()
    [run] = document["runs"]
    assert (run["by"], run["rows"], run["places"][0]["dtype"]) == ("local", document["input"]["rows"], "float32")
    for options in ((), ("--batch-size", "1")):
        run = replay(record, *options)
        assert (run.code, run.text.split(",")[0]) == (0, f"equal: {document['input']['rows']} rows"), run.text + run.messages
        assert len(run.text.splitlines()) == 1


def test_other_threads_batch_sizes_and_parts_make_the_same_in_float32(batch: Any, replay: Any, tmp_path: Path) -> None:
    record = batch("lines", "--temperature", "0.8", "--seed", "2")
    threads = torch.get_num_threads()
    try:
        for size, others, part in (
            ("1", threads + 1, ()),
            ("2", threads + 2, ("--sample", "5")),
            ("5", 1, ("--rows", "long,3")),
        ):
            torch.set_num_threads(others)
            run = replay(record, "--batch-size", size, *part)
            assert (run.code, run.text.startswith(f"equal: {(7, 5, 2)[int(size) // 2]} rows")) == (0, True), run.text
    finally:
        torch.set_num_threads(threads)


def test_the_demo_model_samples_the_same_on_other_threads(batch: Any, replay: Any) -> None:
    prompts = "".join(f"The capital of {name} is\n" for name in ("France", "Italy", "Peru", "Japan", "Kenya"))
    record = batch((".txt", prompts, "out.csv", ("-n", "8", "--temperature", "1", "--seed", "7", "-m", "demo")))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        run = replay(record, "-m", "demo", "--batch-size", "2")
    finally:
        torch.set_num_threads(threads)
    assert (run.code, run.text.startswith("equal: 5 rows")) == (0, True), run.text


def test_a_resumed_batch_says_where_all_its_rows_were_made(batch: Any, replay: Any, tmp_path: Path) -> None:
    record = batch()
    journal = tmp_path / "out.jsonl.journal"
    threads = torch.get_num_threads()
    # As after a kill when all rows were done: the last run makes none.
    (tmp_path / "out.jsonl").unlink()
    batch()
    document = json.loads(record.read_text())
    assert [(run["by"], run["rows"]) for run in document["runs"]] == [("local", 7)]
    assert (document["device"], document["machine"]["threads"]) == ("cpu", threads)
    # And as after one amid them, on another number of threads.
    lines = journal.read_bytes().splitlines(keepends=True)
    (tmp_path / "out.jsonl").unlink()
    journal.write_bytes(b"".join(line for line in lines if not line.startswith((b"0 ", b"1 ", b"2 "))))
    try:
        torch.set_num_threads(threads + 1)
        batch()
    finally:
        torch.set_num_threads(threads)
    document = json.loads(record.read_text())
    valid(document, "batch")
    places = [(run["rows"], run["places"][0]["machine"]["threads"]) for run in document["runs"]]
    assert (places, document["machine"]["threads"]) == ([(4, threads), (3, threads + 1)], threads)
    assert replay(record).code == 0
    change(record, lambda text: text.replace('"length"', '"stop"', 1))
    changed = [line for line in replay(record).text.splitlines() if line.startswith("changed: ")]
    assert changed == [f"changed: 3 of 7 rows: threads: {threads + 1}, then {threads}"]


def test_rows_of_a_server_say_where_it_made_them(olc: Olc, tiny_model: Path, replay: Any, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"prompt": "The sky", "temperature": 1}, {"prompt": "x", "temperature": 1, "seed": 3, "n": 2}]
    source.write_text(json_lines([*lines, {"prompt": "y", "logprobs": 1}]))
    with running(tiny_model) as served:
        assert olc("batch", str(source), "-o", str(output), "-n", "5", "--server", served.url).code == 0
        machine = served.engine.ready()[1].surroundings["machine"]
    record = tmp_path / "out.jsonl.record.json"
    document = json.loads(record.read_text())
    valid(document, "batch")
    assert [(run["by"], run["rows"], run["places"][0]["machine"]) for run in document["runs"]] == [("server", 3, machine)]
    assert (document["dtype"], document["device"], document["engine"]) == ("float32", "cpu", "loop")
    run = replay(record)
    assert (run.code, run.text.startswith("equal: 3 rows")) == (0, True), run.text + run.messages
    assert (olc("replay", str(record)).code, olc("replay", str(record), "-m", "demo").code) == (2, 1)


def test_of_another_server_nothing_is_known(olc: Olc, replay: Any, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one\n")
    with CompletionsServer() as server:
        assert olc("batch", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.jsonl"), "--server", server.url).code == 0
    record = tmp_path / "out.jsonl.record.json"
    valid(json.loads(record.read_text()), "batch")
    run = replay(record)
    assert (run.code, run.text.splitlines()[-1]) == (1, "changed: it is not known where they were made")


def test_rows_run_at_a_time_as_they_did(batch: Any, replay: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record = batch("texts", "--batch-size", "2")
    assert read_batch(record, json.loads(record.read_text())).batch_size == 2
    sizes = []

    def opened(*arguments: Any, **values: Any) -> Any:
        sizes.append(values["batch_size"])
        return open_runner(*arguments, **values)

    monkeypatch.setattr("openllama_cli.batch.runner.open_runner", opened)
    for arguments in ((), ("--batch-size", "1")):
        assert replay(record, *arguments).code == 0
    assert sizes == [2, 1]


def test_an_input_that_was_stdin_has_to_be_named(batch: Any, replay: Any, tmp_path: Path) -> None:
    record = batch()
    document = json.loads(record.read_text())
    document["input"]["name"] = "stdin"
    record.write_text(json.dumps(document))
    run = replay(record)
    assert (run.code, "was stdin, which is not kept\n" in run.messages, "--input FILE\n" in run.messages) == (2, True, True)
    run = replay(record, "--input", str(record))
    assert (run.code, "--input FILE\n" in run.messages) == (1, True)
    assert replay(record, "--input", str(tmp_path / "in.jsonl"), "--rows", "0").code == 0


def test_rows_are_named_by_custom_id_else_by_number(batch: Any, replay: Any) -> None:
    record = batch()
    for names, count in {"plain,3,0": 2, "1": 1, '"wrong"': 1}.items():
        assert replay(record, "--rows", names).text.startswith(f"equal: {count} row")
    for arguments in (
        ("--rows", "7"),
        ("--rows", "nobody"),
        ("--rows", ","),
        ("--seed", "1"),
        ("--rows", "1", "--sample", "1"),
    ):
        assert replay(record, *arguments).code == 2


def test_a_sample_is_the_same_everywhere() -> None:
    assert sample(1000, 5, 0) == sample(1000, 5, 0) != sample(1000, 5, 1)
    assert sample(1000, 5, 0) == sorted(sample(1000, 5, 0))
    assert sample(3, 5, 0) == [0, 1, 2]
    # Of Python 3.11; its random numbers are the same in all versions.
    assert sample(1000, 5, 0) == [40, 186, 402, 583, 993]


@pytest.fixture
def likely(olc: Olc, tiny_model: Path) -> dict[str, Any]:
    """What follows "The sky is": its text and log-probabilities, with 20 candidates."""
    run = olc("complete", "The sky is", "-m", str(tiny_model), "-n", "6", *FLOAT32, "--logprobs", "20", "--json", "--no-server")
    choice: dict[str, Any] = json.loads(run.text)["choices"][0]
    return choice


@pytest.mark.parametrize("recorded", [5, None], ids=["tokens", "texts"])
def test_the_token_that_differs_is_named_with_its_margin(batch: Any, replay: Any, likely: Any, recorded: int | None) -> None:
    record = batch(
        (".jsonl", json_lines([{"prompt": "The sky is", "logprobs": recorded}, {"prompt": "x"}]), "out.jsonl", ("-n", "6"))
    )
    top, start = likely["logprobs"]["top_logprobs"][2], likely["logprobs"]["text_offset"][2]
    taken = likely["logprobs"]["tokens"][2]
    other = next(token for token in list(top)[1:] if not any(token.startswith(longer) for longer in top if longer != token))
    margin = top[taken] - top[other]

    def replaced(line: str) -> str:
        first, rest = line.split("\n", 1)
        row = json.loads(first)
        row["text"] = row["text"][:start] + other
        if row.get("logprobs"):
            row["logprobs"]["tokens"][2] = other
        return json.dumps(row) + "\n" + rest

    change(record, replaced)
    run = replay(record, "--json")
    [parting] = json.loads(run.text)["partings"]
    assert (run.code, parting["custom_id"], parting["unit"], parting["place"]) == (1, "row-0", "token", 2)
    assert (parting["recorded"]["text"], parting["now"]["text"]) == (other, taken)
    assert parting["margin"] == pytest.approx(margin, abs=1e-5)
    assert parting["explained"] is (margin < 2e-4)
    lines = replay(record).text.splitlines()
    assert lines[0].startswith("different: 1 of 2 rows; 8 tokens are equal")
    assert lines[1].startswith("row-0, token 2: recorded ")
    assert lines[2].startswith("  margin ")
    assert lines[3:] == ["changed: nothing that the record tells"]


def test_every_other_difference_has_its_words(batch: Any, replay: Any) -> None:
    rows = [{"custom_id": name, "prompt": name, "temperature": 1, "seed": 4} for name in ("text", "reason", "failed", "prompt")]
    record = batch((".jsonl", json_lines(rows), "out.jsonl", ("-n", "6")))

    def changed(content: str) -> str:
        one, two, three, four = map(json.loads, content.splitlines())
        one["text"] += " and more"
        two["finish_reason"] = "stop"
        three |= {"text": None, "finish_reason": None, "error": {"code": "out_of_memory", "message": "no"}}
        four["prompt"] = "promise"
        return json_lines([one, two, three, four])

    change(record, changed)
    lines = replay(record).text.splitlines()
    assert lines[0].startswith("different: 4 of 4 rows")
    assert lines[1].startswith('row text, token 6: recorded " and more')
    assert lines[1].endswith("now the end")
    assert lines[2] == "row reason: recorded finish_reason stop, now length"
    assert lines[3] == "row failed: recorded error out_of_memory, now none"
    assert lines[4] == 'row prompt, character 4 of the prompt: recorded "ise", now "pt"'
    few = replay(record, "--show", "1").text.splitlines()
    assert few[2:] == ["and 3 more rows that differ", "changed: nothing that the record tells"]


def test_chosen_and_scored_rows_are_compared_by_their_numbers(batch: Any, replay: Any) -> None:
    chosen = batch("chosen lines")

    def other(content: str) -> str:
        row, rest = content.split("\n", 1)
        answer = json.loads(row)["text"]
        return row.replace(f'"text": "{answer}"', f'"text": "{"No" if answer == "Yes" else "Yes"}"', 1) + "\n" + rest

    change(chosen, other)
    run = replay(chosen)
    assert (run.code, len(run.text.splitlines())) == (1, 4), run.text
    assert run.text.splitlines()[1].endswith(" %")
    assert " margin " in run.text.splitlines()[2]
    [parting] = json.loads(replay(chosen, "--json").text)["partings"]
    assert (parting["cause"], {parting["recorded"]["text"], parting["now"]["text"]}) == ("choice", {"Yes", "No"})
    assert parting["margin"] > 0

    table = batch("choices")
    change(table, lambda text: text.replace('""logprob"": -', '""logprob"": -1', 1))
    assert "log-probability of " in replay(table).text
    scored = batch((".txt", "The sky is blue\n", "scored.csv", ("--score",)))
    change(scored, lambda text: text.replace(",-", ",-1", 1))
    lines = replay(scored).text.splitlines()
    assert lines[1].startswith("row-0, log-probability: recorded -1")
    assert lines[2] == "  more than what rounding in float32 can explain"


def test_input_and_weights_are_compared_before_anything_is_loaded(
    olc: Olc, batch: Any, replay: Any, tiny_model: Path, tmp_path: Path
) -> None:
    record = batch()
    changed = tmp_path / "changed"
    shutil.copytree(tiny_model, changed)
    data = bytearray((changed / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (changed / "model.safetensors").write_bytes(data)
    run = replay(record, "-m", str(changed))
    assert (run.code, run.out, "model.safetensors differs" in run.messages) == (1, b"", True), run.messages
    moved = tmp_path / "moved"
    moved.mkdir()
    copy = moved / record.name
    copy.write_bytes(record.read_bytes())

    def refused(code: int, *arguments: str) -> str:
        run = replay(*arguments)
        assert (run.code, run.out, len(run.messages.splitlines())) == (code, b"", 2), run.messages
        return str(run.messages)

    assert "INPUT" in refused(2, copy)
    given = ("--input", str(tmp_path / "in.jsonl"))
    assert "OUTPUT" in refused(2, copy, *given)
    assert replay(copy, *given, "--output", str(tmp_path / "out.jsonl"), "--rows", "0").code == 0

    (tmp_path / "in.jsonl").write_text(json_lines([*LINES[:-1], {"prompt": "other"}]))
    assert "other bytes" in refused(1, record)
    (tmp_path / "in.jsonl").write_text(json_lines(LINES))
    document = json.loads(record.read_text())
    document["model"]["files"]["config.json"]["sha256"] = "0" * 64
    record.write_text(json.dumps(document))
    assert "config.json differs" in refused(1, record)
    document["settings"]["defaults"]["max_tokens"] = 7
    document["model"]["files"] = json.loads(copy.read_text())["model"]["files"]
    record.write_text(json.dumps(document))
    assert olc("replay", str(record)).code == 2, "a folder has to be named"


def test_rows_that_settings_make_otherwise_are_refused(batch: Any, replay: Any) -> None:
    record = batch("examples")
    document = json.loads(record.read_text())
    document["settings"]["template"]["template"] = "Ask: {{ question }}"
    record.write_text(json.dumps(document))
    run = replay(record)
    assert (run.code, "other rows of in.csv" in run.messages) == (1, True)


def test_many_examples_are_told_by_their_hash(batch: Any, replay: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openllama_cli.batch.input.saved.MOST_BYTES", 10)
    record = batch("examples")
    document = json.loads(record.read_text())
    valid(document, "batch")
    assert document["settings"]["examples"]["examples"] is None
    assert replay(record, "--rows", "0").code == 0
    (tmp_path / "shots.csv").write_text(EXAMPLES + "What,That\n")
    run = replay(record)
    assert (run.code, "has other examples" in run.messages) == (2, True)
    (tmp_path / "mine.csv").write_text(EXAMPLES)
    assert replay(record, "--examples", str(tmp_path / "mine.csv"), "--rows", "0").code == 0


def test_two_outputs_are_compared_without_a_model(olc: Olc, batch: Any, tmp_path: Path) -> None:
    one, two = batch(name="one.jsonl"), batch(name="two.jsonl")
    against = lambda *more: olc("replay", str(one), "--against", str(two), *more)  # noqa: E731
    assert against().text.startswith("equal: 7 rows")
    change(two, lambda text: text.replace('"finish_reason": "length"', '"finish_reason": "stop"', 1))
    document = json.loads(two.read_text())
    document["runs"][0]["places"][0]["machine"]["threads"] = 99
    two.write_text(json.dumps(document))
    run = against()
    assert (run.code, run.text.splitlines()[1:]) == (
        1,
        [
            "row plain: recorded finish_reason length, now stop",
            f"changed: threads: {torch.get_num_threads()}, then 99",
        ],
    )
    assert json.loads(against("--json").text)["different"] == 1
    assert against("--rows", "1").code == 2
    assert against("-m", "demo").code == 2
    document["settings"]["model"] = "its/name-there"
    two.write_text(json.dumps(document))
    assert against().code == 1
    document["adapters"] = [{"name": "a", "files": {}, "scale": 1, "repo_id": None, "revision": None}]
    two.write_text(json.dumps(document))
    assert "different weights" in against().messages
    document["settings"]["samples"] = 2
    two.write_text(json.dumps(document))
    assert "different options" in against().messages
    assert f"olc diff {tmp_path / 'one.jsonl'} {tmp_path / 'two.jsonl'}" in against().messages
    result = tmp_path / "result.json"
    result.write_text(json.dumps({"olc_record": 1, "command": "complete"}))
    assert "is the record of a result" in olc("replay", str(one), "--against", str(result)).messages


def test_an_output_whose_lines_are_no_rows_is_refused(olc: Olc, batch: Any, replay: Any) -> None:
    record = batch((".txt", "one\ntwo\n", "out.jsonl", ("-n", "2")))
    for line in ("[]", '{"custom_id": 1}', '{"choices": [1]}'):
        change(record, lambda text, line=line: text.splitlines()[0] + "\n" + line + "\n")  # type: ignore[misc]
        run = replay(record)
        assert (run.code, "row 1 of" in run.messages, len(run.messages.splitlines())) == (2, True, 2), run.messages
        assert olc("replay", str(record), "--against", str(record)).code == 2


def test_rounding_is_the_most_of_all_places(batch: Any) -> None:
    record = batch("texts")
    document = json.loads(record.read_text())
    assert (rounding(read_batch(record, document)), precision(read_batch(record, document))) == (1e-4, "float32")
    [place] = document["runs"][0]["places"]
    document["runs"] += [{"by": "local", "batch_size": 16, "rows": 1, "places": [place | {"dtype": "bfloat16"}]}]
    assert (rounding(read_batch(record, document)), precision(read_batch(record, document))) == (0.4, "float32 and bfloat16")
    document["runs"][1:] = [{"by": "server", "batch_size": None, "rows": 1, "places": [dict.fromkeys(place)]}]
    found = read_batch(record, document)
    assert (rounding(found), precision(found)) == (0.5, "float32 and an unknown precision")


def test_options_of_batches_are_refused_for_results(olc: Olc, tiny_model: Path, tmp_path: Path) -> None:
    run = olc("complete", "x", "-m", str(tiny_model), "-n", "1", "--json", "--no-server")
    (tmp_path / "x.json").write_bytes(run.out)
    for arguments in (("--rows", "1"), ("--sample", "2"), ("--input", "x"), ("--examples", "x")):
        assert olc("replay", str(tmp_path / "x.json"), *arguments).code == 2


DAMAGE: list[Callable[[Any], Any]] = [
    lambda record: record.pop("settings"),
    lambda record: record.update(runs=[{"rows": 2}]),
    lambda record: record["input"].update(name="../../etc/passwd"),
    lambda record: record["output"].update(sha256=None),
    lambda record: record["input"].update(rows=0),
    lambda record: record["input"].update(format="xlsx"),
    lambda record: record["model"].update(origin="mail"),
    lambda record: record.update(device="toaster"),
    lambda record: record["settings"].update(template={"name": "x", "template": "{{"}),
    lambda record: record["settings"].update(choices_normalize="most", choices=["a", "b"]),
    lambda record: record["settings"].pop("examples"),
    lambda record: record.update(settings=None),
    lambda record: record["settings"].pop("carry"),
    lambda record: record["settings"].update(examples=True),
    lambda record: record["settings"].update(samples=10**400),
    lambda record: record["settings"].update(samples=-0.5),
    lambda record: record["model"].update(name=True),
    lambda record: record["input"].pop("rows_sha256"),
    lambda record: record.update(runs=[]),
    lambda record: record["runs"][0]["places"][0].update(dtype=[]),
    lambda record: record.update(adapters="xx"),
]


def test_a_damaged_record_of_a_batch_is_refused(batch: Any, replay: Any) -> None:
    record = batch("texts")
    for damage in DAMAGE:
        document = json.loads(record.read_text())
        damage(document)
        with pytest.raises(UsageError) as problem:
            read_batch(record, document).settings(model=None, examples=None)
        assert problem.value.code == "record"
    record.write_text(json.dumps(document))
    run = replay(record)
    assert (run.code, run.out, len(run.messages.splitlines())) == (2, b"", 2), run.messages
