"""The records of `olc generate --trace --json` and `--check --json`: as the schemas say, made again, compared."""

import json
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.records.read import read_record
from tests.conftest import Olc
from tests.support.schemas import valid

PROMPTS = ("The sky is", "größer 🐋")
SAMPLED = ("-s", "5", "--temperature", "0.9", "--top-k", "9", "--ban", "e", "-n", "6")
EXAMPLES = str(Path(__file__).parents[2] / "prompts" / "examples" / "sentiment.csv")
FEW_SHOT = ("-t", "sentiment", "--examples", EXAMPLES, "--shots", "2")
KINDS = [
    ("trace", ("generate", *PROMPTS, "--trace", *SAMPLED)),
    ("trace", ("generate", "The soup was cold.", *FEW_SHOT, "--trace", "--temperature", "0", "-n", "3")),
    ("check", ("generate", *PROMPTS, "--check", "-n", "6")),
    ("check", ("generate", "The soup was cold.", *FEW_SHOT, "--check", "-n", "3", "--temperature", "0.7", "--seed", "3")),
]


@pytest.mark.parametrize(("name", "arguments"), KINDS)
def test_they_are_made_again_from_their_record(
    olc: Olc, made: Any, model: str, tmp_path: Path, name: str, arguments: tuple[str, ...]
) -> None:
    path = made(*arguments)
    document = json.loads(path.read_text())
    valid(document, name)
    record = document["olc"]["record"]
    assert str(tmp_path) not in json.dumps(record)
    assert record["options"].get("template") == ("sentiment" if "-t" in arguments else None)
    shown = [[step["token"] for step in one["steps"]] if name == "trace" else one["tokens"] for one in document[f"{name}s"]]
    assert [one["ids"] for one in record["completions"]] == shown
    count = sum(map(len, shown))
    equal = f"equal: {len(shown)} completion{'s' * (len(shown) > 1)}, {count} tokens, log-probabilities within 0\n"
    run = olc("replay", str(path), "-m", model)
    assert (run.code, run.text) == (0, equal), run.messages
    assert olc("replay", str(path), "--against", str(path)).text == equal
    assert olc("diff", str(path), str(path)).code == 0


def test_rows_run_at_a_time_as_they_did(made: Any) -> None:
    sizes = [read_record(made(*arguments)).batch_size for _, arguments in (KINDS[0], KINDS[2])]
    assert sizes == [1, 16]
    options = read_record(made(*KINDS[0][1])).document["options"]
    assert (options["trace"], options["temperature"], options["seed"], options["echo"]) == (5, 0.9, 5, False)
    options = read_record(made(*KINDS[3][1])).document["options"]
    assert (options["check"], options["temperature"], options["seed"], options["shots"]) == (True, 0.0, None, 2)


def test_a_trace_is_that_of_the_completion(olc: Olc, made: Any, tmp_path: Path) -> None:
    trace = made("generate", *PROMPTS, "--trace", *SAMPLED, name="trace.json")
    plain = made("generate", *PROMPTS, *SAMPLED, name="plain.json")
    assert olc("replay", str(trace), "--against", str(plain)).code == 0
    assert olc("diff", str(trace), str(plain)).code == 0
    other = tmp_path / "other.json"
    for path in (trace, plain):
        document = json.loads(path.read_text())
        entry = (document.get("traces") or document["completions"])[1]
        entry["finish_reason"] = "eos"
        other.write_text(json.dumps(document))
        run = olc("diff", str(path), str(other), "--json")
        row, last = map(json.loads, run.text.splitlines())
        assert (run.code, row["custom_id"], last["summary"]["different"]) == (1, "row-1", 1)


def test_other_work_is_told_with_what_compares_it(olc: Olc, made: Any) -> None:
    one = made("generate", *PROMPTS, "--trace", *SAMPLED)
    two = made("generate", PROMPTS[0], "x", "--trace", *SAMPLED, name="two.json")
    run = olc("replay", str(one), "--against", str(two))
    assert (run.code, run.messages.splitlines()[1]) == (2, f"  fix: compare the results: olc diff {one} {two}")
    assert (olc("diff", str(one), str(two)).code, olc("diff", str(one), str(one)).code) == (1, 0)


def test_a_changed_token_is_named(olc: Olc, made: Any, model: str) -> None:
    for _, arguments in (KINDS[0], KINDS[2]):
        path = made(*arguments)
        document = json.loads(path.read_text())
        document["olc"]["record"]["completions"][1]["ids"][2] += 1
        path.write_text(json.dumps(document))
        run = olc("replay", str(path), "-m", model)
        assert (run.code, run.text.splitlines()[1][:33]) == (1, 'completion 1, token 2: recorded "'[:33])


def test_log_probabilities_make_no_other_tokens(olc: Olc, made: Any) -> None:
    one = made("generate", *PROMPTS, "-s", "5", "-n", "4")
    two = made("generate", *PROMPTS, "-s", "5", "-n", "4", "--logprobs", name="two.json")
    assert [read_record(path).document["options"]["logprobs"] for path in (one, two)] == [None, 0]
    assert olc("replay", str(one), "--against", str(two)).code == 0
    document = json.loads(two.read_text())
    document["completions"][0]["text"] += "!"
    two.write_text(json.dumps(document))
    run = olc("diff", str(one), str(two), "--json")
    assert [json.loads(line).get("cause") for line in run.text.splitlines()] == ["text", None]


def test_a_completion_a_trace_and_a_check_of_the_same_tokens_are_equal(olc: Olc, made: Any) -> None:
    arguments = ("generate", *PROMPTS, "Q: What is the largest animal?\nA:", "-n", "6", "--temperature", "0")
    completion, *others = (
        made(*arguments, *mode, name=f"{mode}.json", model="demo") for mode in ((), ("--trace",), ("--check",))
    )
    reasons = {one["finish_reason"] for one in json.loads(completion.read_text())["completions"]}
    assert reasons == {"eos", "length"}
    for other in others:
        run = olc("diff", str(completion), str(other))
        assert (run.code, run.text) == (0, ""), run.messages
        assert "all 3 rows are equal" in run.messages
