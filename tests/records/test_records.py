"""Records of real runs: held against their schemas, without secrets, and made again."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from safetensors.torch import save_file

from openllama_cli.errors import UsageError
from openllama_cli.records.made import changed_surroundings
from openllama_cli.records.read import read_record
from openllama_cli.records.schemas import names
from tests.conftest import Olc
from tests.support.schemas import valid

COMMANDS = [
    ("complete", "The sky is", "-n", "6"),
    ("complete", "The sky is", "-n", "6", "--logprobs", "2", "--temperature", "1", "--seed", "3", "--num-samples", "3"),
    ("complete", "The sky is", "-n", "6", "--stop", "e", "--repetition-penalty", "1.3", "--speculate", "2"),
    ("complete", "The sky is", "-n", "4", "--engine", "transformers"),
    (
        *("complete", "The sky is", "-n", "12", "--heal", "--ban", "e", "--logit-bias", "40=1.5", "--dry-multiplier", "1"),
        *("--stop-at", "paragraph", "--min-tokens", "2", "--ignore-eos", "--stop-token", "9"),
    ),
    ("generate", "The sky is", "A much longer prompt than the other one", "--temperature", "0", "--max-tokens", "6"),
    ("generate", "The sky is", "b", "--temperature", "0.9", "--seed", "4", "--max-tokens", "6", "--logprobs", "--echo"),
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments[2:]))
def test_a_result_is_made_again_from_its_record(olc: Olc, made: Any, model: str, arguments: tuple[str, ...]) -> None:
    path = made(*arguments)
    document = json.loads(path.read_text())
    valid(document, arguments[0])
    run = olc("replay", str(path), "-m", model)
    assert (run.code, run.text.splitlines()[0].split(":")[0], len(run.text.splitlines())) == (0, "equal", 1), run.text


def test_other_threads_and_batch_sizes_make_the_same_in_float32(olc: Olc, made: Any, model: str) -> None:
    prompts = ["The sky is", "b", "A longer prompt that fills some more positions", "Whales sing", "x y z"]
    path = made("generate", *prompts, "--temperature", "0.8", "--seed", "1", "--max-tokens", "16", "--logprobs")
    threads = torch.get_num_threads()
    assert read_record(path).document["machine"]["threads"] == threads
    try:
        for size, others in (("1", threads + 1), ("2", threads + 2), ("3", max(threads - 1, 1))):
            torch.set_num_threads(others)
            run = olc("replay", str(path), "-m", model, "--batch-size", size)
            assert (run.code, run.text.startswith("equal: 5 completions")) == (0, True), run.text
    finally:
        torch.set_num_threads(threads)


def test_nothing_secret_is_in_a_record(olc: Olc, tiny_model: Path, tmp_path: Path) -> None:
    home = tmp_path / "home_of_somebody"
    home.mkdir()
    (home / "a_model").symlink_to(tiny_model)
    secrets = {"HOME": str(home), "HF_TOKEN": "hf_secret_token", "OLC_API_KEY": "secret_key", "OPENAI_API_KEY": "secret_key"}
    run = olc("complete", "x", "-m", str(home / "a_model"), "-n", "2", "--json", "--no-server", env=secrets)
    record = json.loads(run.text)["olc"]["record"]
    assert record["model"]["name"] == "a_model"
    text = json.dumps(record)
    for secret in ("home_of_somebody", "hf_secret", "secret_key", str(tmp_path), str(Path.home()), os.uname().nodename):
        assert secret not in text
    assert "/" not in text.replace("lean", ""), "no path"


def test_a_changed_token_is_named_with_its_margin(olc: Olc, made: Any, model: str, tmp_path: Path) -> None:
    document = json.loads(made("complete", "The sky is", "-n", "6", "--logprobs", "100").read_text())
    record = document["olc"]["record"]
    top = document["choices"][0]["logprobs"]["top_logprobs"][2]
    runner_up = list(top)[1]
    margin = document["choices"][0]["logprobs"]["token_logprobs"][2] - top[runner_up]
    record["completions"][0]["ids"][2] += 1
    record["versions"]["torch"] = "1.0"
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(record))
    run = olc("replay", str(path), "-m", model)
    lines = run.text.splitlines()
    assert run.code == 1
    assert lines[0].startswith("different: 1 of 1 completion; 2 equal tokens before that")
    assert lines[1].startswith("completion 0, token 2: recorded ")
    assert "can explain" in lines[2]
    assert margin > 0
    assert lines[3].startswith("changed: torch: 1.0, then ")
    told = json.loads(olc("replay", str(path), "-m", model, "--json").text)
    assert (told["equal"], told["partings"][0]["place"], told["changed"][0]) == (False, 2, lines[3].removeprefix("changed: "))


def test_weights_are_compared_before_they_are_loaded(olc: Olc, made: Any, model: str, tmp_path: Path) -> None:
    path = made("complete", "The sky is", "-n", "2")
    document = json.loads(path.read_text())
    files = document["olc"]["record"]["model"]["files"]
    files["config.json"]["sha256"] = "0" * 64
    files["other.safetensors"] = files["config.json"]
    path.write_text(json.dumps(document))
    run = olc("replay", str(path), "-m", model)
    assert (run.code, run.out) == (1, b"")
    assert "config.json differs, other.safetensors is missing" in run.messages
    assert f"-m path/to/{Path(model).name}" in run.messages
    document["olc"]["record"]["model"].update(origin="demo", name="demo")
    path.write_text(json.dumps(document))
    assert "install olc again" in olc("replay", str(path)).messages
    assert "-m demo\n" in olc("replay", str(path), "-m", model).messages
    document["olc"]["record"]["versions"]["olc"] = "0.1.9"
    path.write_text(json.dumps(document))
    assert "install the one that made it, olc 0.1.9\n" in olc("replay", str(path)).messages


def test_one_token_is_told_as_one(olc: Olc, made: Any, model: str) -> None:
    path = made("complete", "The sky is", "-n", "1")
    assert olc("replay", str(path), "--against", str(path)).text == "equal: 1 completion, 1 token\n"


def test_a_folder_has_to_be_named(olc: Olc, made: Any) -> None:
    path = made("complete", "The sky is", "-n", "2")
    run = olc("replay", str(path))
    assert (run.code, "records tell no paths" in run.messages) == (2, True)


def test_adapters_are_part_of_the_weights(olc: Olc, made: Any, model: str, tmp_path: Path) -> None:
    hidden = json.loads((Path(model) / "config.json").read_text())["hidden_size"]
    adapter = tmp_path / "an_adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"})
    )
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    save_file(
        {name.format("A"): torch.ones(1, hidden), name.format("B"): torch.ones(hidden, 1)},
        adapter / "adapter_model.safetensors",
    )
    path = made("complete", "The sky is", "-n", "4", "--adapter", f"{adapter}:0.5")
    document = json.loads(path.read_text())
    valid(document, "complete")
    told = document["olc"]["record"]["adapters"]
    assert [(one["name"], one["scale"]) for one in told] == [("an_adapter", 0.5)]
    assert str(tmp_path) not in json.dumps(document["olc"]["record"])
    assert olc("replay", str(path), "-m", model, "--adapter", f"{adapter}:0.5").code == 0
    other = olc("replay", str(path), "-m", model, "--adapter", str(adapter))
    assert (other.code, "an_adapter:0.5" in other.messages) == (1, True)
    missing = olc("replay", str(path), "-m", model)
    assert (missing.code, "name it: --adapter path/to/an_adapter:0.5\n" in missing.messages) == (2, True)
    both = f"name it: -m path/to/{Path(model).name} --adapter path/to/an_adapter:0.5\n"
    assert both in olc("replay", str(path)).messages


def test_two_records_are_compared_without_a_model(olc: Olc, made: Any, tmp_path: Path) -> None:
    one = made("complete", "The sky is", "-n", "4")
    other = tmp_path / "other.json"
    document = json.loads(one.read_text())
    assert olc("replay", str(one), "--against", str(one)).code == 0
    document["olc"]["record"]["completions"][0]["ids"][3] += 1
    document["olc"]["record"]["machine"]["threads"] = 99
    other.write_text(json.dumps(document))
    run = olc("replay", str(one), "--against", str(other))
    assert run.code == 1
    assert run.text.splitlines()[-1].endswith("then 99")
    assert olc("replay", str(one), "--against", str(made("complete", "x", "-n", "4", name="x.json"))).code == 2
    assert olc("replay", str(one), "--against", str(one), "-m", "demo").code == 2
    assert olc("replay", "-", "--against", str(one), stdin=one.read_bytes()).text == "equal: 1 completion, 4 tokens\n"
    assert olc("replay", "-", "--against", "-", stdin=one.read_bytes()).code == 2
    document = json.loads(one.read_text())
    document["olc"]["record"]["adapters"] = [{"name": "a", "files": {}, "scale": 1, "repo_id": "a/b", "revision": None}]
    other.write_text(json.dumps(document))
    assert "different weights" in olc("replay", str(one), "--against", str(other)).messages


def test_two_records_of_other_work_are_told_apart(olc: Olc, made: Any) -> None:
    one = made("complete", "The sky is", "-n", "2")
    more = made("complete", "The sky is", "-n", "2", "--temperature", "1", "--num-samples", "2", name="more.json")
    score = made("score", "The sky is", name="score.json")
    longer = made("score", "The sky is blue", name="longer.json")
    run = olc("replay", str(one), "--against", str(more))
    assert (run.code, "have different options\n" in run.messages, f"olc diff {one} {more}" in run.messages) == (2, True, True)
    diff = olc("diff", str(one), str(more)).messages
    assert "--num-samples was 1, now 2" in diff
    run = olc("replay", str(one), "--against", str(score))
    assert (run.code, "the record of completions, and" in run.messages, "olc diff" in run.messages) == (2, True, False)
    run = olc("replay", str(score), "--against", str(longer))
    assert (run.code, "have different prompts\n" in run.messages, "olc diff" in run.messages) == (2, True, False)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("options"),
        lambda record: record.update(olc_record=99),
        lambda record: record["options"].update(top_p=7),
        lambda record: record["options"].update(samples="2"),
        lambda record: record["options"].update(samples=0),
        lambda record: record["prompts"][0].update(ids=["a"]),
        lambda record: record["prompts"][0].update(ids=[]),
        lambda record: record["completions"].append(record["completions"][0]),
        lambda record: record["completions"][0].update(logprobs=[]),
        lambda record: record.update(model=3),
        lambda record: record["model"].update(files=3),
        lambda record: record["model"].update(name=True),
        lambda record: record["model"].pop("revision"),
        lambda record: record["tokenizer"].pop("sha256"),
        lambda record: record["completions"][0].update(logprobs=[10**400]),
        lambda record: record.update(olc_record=True),
        lambda record: record.update(adapters=[{"name": "a", "files": {}, "scale": float("nan"), "repo_id": "a/b"}]),
        lambda record: record.update(adapters=[{"name": "a", "files": {}, "scale": 1}]),
        lambda record: record.update(device="toaster"),
        lambda record: record.update(engine="steam"),
        lambda record: record.update(command="serve_tea"),
        lambda record: record.update(prompts=3),
    ],
)
def test_a_damaged_record_is_refused(made: Any, change: Any) -> None:
    path = made("complete", "x", "-n", "1")
    record = json.loads(path.read_text())["olc"]["record"]
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(UsageError) as problem:
        read_record(path)
    assert problem.value.code == "record"


DATA = [b"", b"not json", b"[]", b"{}", b'{"olc": 3}', b'{"olc": {"record": []}}', b"[" * 100_000]


def test_a_damaged_record_is_told_in_a_line_of_some_length(made: Any) -> None:
    path = made("complete", "x", "-n", "1")
    record = json.loads(path.read_text())["olc"]["record"]
    for changes in ({"olc_record": "9" * 10_000}, {"options": {**record["options"], "samples": "9" * 10_000}}):
        path.write_text(json.dumps(record | changes))
        with pytest.raises(UsageError) as problem:
            read_record(path)
        assert (problem.value.code, len(problem.value.cause) < 500) == ("record", True)
    record["options"].pop("samples")
    path.write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"options\.samples is missing"):
        read_record(path)


@pytest.mark.parametrize("data", DATA)
def test_what_has_no_record_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(data)
    with pytest.raises(UsageError) as problem:
        read_record(path)
    assert problem.value.code == "record"


def test_files_in_other_forms(olc: Olc, refused: Olc, made: Any, model: str, tmp_path: Path) -> None:
    """What editors, shells and jq make of a result; what is not one result is told with what is to be typed."""
    text = made("complete", "größer 🐋", "-n", "1").read_text()
    path = tmp_path / "other.json"

    def written(data: bytes) -> str:
        path.write_bytes(data)
        return str(path)

    indented = json.dumps(json.loads(text), indent=2)
    for data in (
        text.encode("utf-8-sig"),
        text.encode("utf-16"),
        indented.replace("\n", "\r\n").encode(),
        b"\n\n" + text.encode(),
    ):
        assert olc("replay", written(data), "--against", str(path)).text == "equal: 1 completion, 1 token\n"
        assert olc("replay", "-", "--against", str(path), stdin=data).code == 0
    for data in ((text + text).encode(), (text.strip() + text).encode("utf-8-sig")):
        said = refused("replay", written(data)).messages
        assert f"{path} is more than one JSON document" in said
    command = said.splitlines()[1].partition("lines: ")[2]
    assert command == f"sed -n 1p {path} | olc replay -"
    assert "stdin is more than one" in refused("replay", "-", stdin=(text + text).encode()).messages
    assert "put each into a file of its own" in refused("replay", written((indented + indented).encode())).messages
    for empty in (b"", b" \n"):
        assert f"{path} is empty\n" in refused("replay", written(empty)).messages
    assert "stdin is empty\n" in refused("replay", "-", stdin=b"").messages
    assert "stdin has no record\n" in refused("replay", "-", stdin=b"[]").messages
    said = refused("replay", written(f"[{text}, {text}]".encode())).messages
    assert f"{path} is a list of JSON documents" in said
    subprocess.run(said.splitlines()[1].partition("own: ")[2], shell=True, check=True, cwd=tmp_path)
    lines = tmp_path / "other.lines.jsonl"
    line = subprocess.run(
        refused("replay", str(lines)).messages.splitlines()[1].partition("lines: ")[2].partition(" |")[0],
        shell=True,
        check=True,
        capture_output=True,
    )
    assert olc("replay", "-", "-m", model, stdin=line.stdout).text == "equal: 1 completion, 1 token\n"


def test_surroundings_are_compared_in_words() -> None:
    before = {"dtype": "float32", "versions": {"torch": "2.13"}, "machine": {"threads": 2, "tier": None, "gpus": []}}
    now = {"dtype": "float32", "versions": {"torch": "2.14"}, "machine": {"threads": 1, "tier": "amx", "gpus": []}}
    assert changed_surroundings(before, now) == ["torch: 2.13, then 2.14", "threads: 2, then 1", "tier: none, then amx"]


def test_schemas_are_schemas(olc: Olc) -> None:
    listed = olc("schema").text.split()
    assert listed == names()
    for name in listed:
        printed = json.loads(olc("schema", name).text)
        jsonschema.Draft202012Validator.check_schema(printed)
    assert olc("schema", "nonsense").code == 2


def test_a_batch_has_its_record_beside_it(olc: Olc, model: str, tmp_path: Path) -> None:
    lines = [{"prompt": "x", "logprobs": 2, "country": "y"}, {"prompt": "x", "max_tokens": -1}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    output = tmp_path / "out.jsonl"
    run = olc("batch", str(tmp_path / "in.jsonl"), "-o", str(output), "-m", model, "-n", "3", "--dtype", "float32")
    assert run.code == 3
    for line in output.read_text().splitlines():
        valid(json.loads(line), "row")
    record = json.loads((tmp_path / "out.jsonl.record.json").read_text())
    valid(record, "batch")
    assert (record["dtype"], record["output"]["failed"], record["input"]["name"]) == ("float32", 1, "in.jsonl")
    assert record["output"]["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert str(tmp_path) not in json.dumps(record)
    run = olc("replay", str(output))
    assert (run.code, f"olc replay {output}.record.json\n" in run.messages) == (2, True)
