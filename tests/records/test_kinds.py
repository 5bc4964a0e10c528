"""Records of scores, of chosen answers and of completions under every kind of option: as the schemas say, and made again."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.errors import UsageError
from openllama_cli.records.read import read_record
from openllama_cli.records.record import machine
from tests.conftest import Olc
from tests.support.models.tiny_models import VOCAB, WRITERS, write_tiny_llama
from tests.support.schemas import valid

TEXT = "the quick brown fox 🐋 "
SCHEMA = '{"type": "object", "properties": {"legs": {"enum": [2, 4]}}, "required": ["legs"], "additionalProperties": false}'
GRAMMAR = 'start: "yes" | "no"\n'
EXAMPLES = Path(__file__).parents[2] / "prompts" / "examples" / "sentiment.csv"
FEW_SHOT = ("-t", "sentiment", "--examples", str(EXAMPLES), "--shots", "2")

SCORES = [
    ("score", "The sky is blue"),
    ("score", " blue", "--context", "The sky is", "--by", "word"),
    ("score", "größer 🐋 \t  x\n", "--by", "line"),
    ("score", "The sky is", "--top", "3"),
    ("score", TEXT * 40, "--context", "word " * 100, "--stride", "77"),  # Longer than the context.
]
CHOICES = [
    ("complete", "The sky is", "--choices", "blue,green,red"),
    ("complete", "The sky is ", "--choices", "größer,🐋,1,10", "--choices-normalize", "byte", "--calibrate"),
    ("complete", "The sky", "--choices", "is,was", "--choices-prefix", "-", "--choices-normalize", "token"),
    ("complete", "The soup was cold.", *FEW_SHOT, "--balance", "--examples-seed", "3", "--calibrate-with", "N/A"),
]
COMPLETIONS = [
    ("complete", "The soup was cold.", *FEW_SHOT, "--no-choices", "-n", "3"),
    ("complete", "Born in", "--regex", " [0-9]{4}", "-n", "9"),
    ("complete", "It has", "--json-schema", "schema.json", "-n", "20", "--temperature", "1", "-s", "2", "--num-samples", "2"),
    ("complete", "Is it?", "--grammar", "grammar.lark"),
    ("complete", "The sky is", "--echo", "--logprobs", "3", "-n", "2"),
    ("complete", "The sky is blu", "--echo", "--logprobs", "0", "-n", "3", "--heal"),
    ("complete", "The sky is", "--echo", "--logprobs", "3", "-n", "0"),
    ("generate", "The sky is", "größer 🐋", "--echo", "-s", "5", "--min-p", "0.01", "--top-k", "9", "--max-tokens", "5"),
]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Files that options name, by their names."""
    texts = {"schema.json": SCHEMA, "grammar.lark": GRAMMAR}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return {name: str(tmp_path / name) for name in texts}


@pytest.mark.parametrize("arguments", [*SCORES, *CHOICES, *COMPLETIONS], ids=lambda one: " ".join(one)[:60])
def test_every_kind_is_made_again(
    olc: Olc, made: Any, model: str, files: dict[str, str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    path = made(*(files.get(word, word) for word in arguments))
    document = json.loads(path.read_text())
    valid(document, arguments[0])
    record = document["olc"]["record"]
    told = json.dumps({**record, "prompts": [], "forward": None})
    assert str(tmp_path) not in told
    assert "/" not in told.replace("N/A", "")
    run = olc("replay", str(path), "-m", model)
    assert (run.code, run.text[:7], run.text.count("\n")) == (0, "equal: ", 1), run.text
    assert "within 0\n" in run.text or arguments[0] != "score"
    assert olc("replay", str(path), "--against", str(path)).text == run.text


def test_options_are_those_of_the_command(made: Any) -> None:
    found = read_record(made(*CHOICES[3])).document["options"]
    assert found["choices"] == ["positive", "negative"]
    assert "Review: N/A" in found["calibrate_with"]
    given = {name: found[name] for name in ("template", "shots", "examples_seed", "balance")}
    assert given == {"template": "sentiment", "shots": 2, "examples_seed": 3, "balance": True}
    assert re.fullmatch(r"[0-9a-f]{12}:sentiment\.csv", found["examples"])
    scored = read_record(made(*SCORES[4]))
    options = dict(scored.document["options"])
    first = options.pop("first")
    assert options == {"context": "word " * 100, "by": "token", "top": None, "stride": 77}
    assert [value is None for value in scored.logprobs[0][first - 1 : first + 1]] == [True, False]


def test_a_gguf_file_is_a_model_as_any(olc: Olc, made: Any, tmp_path: Path) -> None:
    file = str(WRITERS["gguf"](tmp_path))
    for arguments in (("complete", "x", "-n", "3"), ("score", "x y")):
        path = made(*arguments, model=file)
        document = json.loads(path.read_text())
        valid(document, arguments[0])
        told = document["olc"]["record"]["model"]
        assert (told["name"], list(told["files"])) == ("model.gguf", ["model.gguf"])
        assert olc("replay", str(path), "-m", file).code == 0
        refused = olc("replay", str(path))
        assert (refused.code, "-m path/to/model.gguf" in refused.messages) == (2, True)


@pytest.fixture
def score(made: Any) -> Any:
    """The file of a score, and its record."""
    path = made("score", "The sky is blue")
    return path, json.loads(path.read_text())


def test_a_changed_score_is_named(olc: Olc, model: str, score: Any) -> None:
    path, document = score
    values = document["olc"]["record"]["prompts"][0]["logprobs"]
    values[2] += 0.5
    values[3] -= 0.00001
    path.write_text(json.dumps(document))
    run = olc("replay", str(path), "-m", model)
    lines = run.text.splitlines()
    count = len(values) - 1
    assert run.code == 1
    assert (
        lines[0] == f"different: 1 of {count} scored tokens by more than 0.0001, the most that rounding in float32 can explain"
    )
    assert re.fullmatch(rf'largest difference, token 2, ".+" \(id \d+\): recorded {values[2]:.6g}, now -[\d.]+', lines[1])
    assert lines[2] == "changed: nothing that the record tells"


def test_a_small_difference_is_told_and_is_none(olc: Olc, model: str, score: Any) -> None:
    path, document = score
    document["olc"]["record"]["prompts"][0]["logprobs"][3] -= 0.00001
    path.write_text(json.dumps(document))
    run = olc("replay", str(path), "-m", model)
    assert run.code == 0
    assert re.fullmatch(
        r'equal: \d+ scored tokens, log-probabilities within 1e-05, most at token 3, ".+" \(id \d+\)\n', run.text
    )


def test_another_best_choice_is_told_with_its_margin(olc: Olc, made: Any, model: str) -> None:
    path = made("complete", "The sky is", "--choices", "blue,green,red")
    document = json.loads(path.read_text())
    chosen = document["choices"][0]["text"]
    scored = {one["text"]: one for one in document["olc"]["choices"]}
    second = sorted(scored, key=lambda text: -scored[text]["score"])[1]
    gap = scored[chosen]["score"] - scored[second]["score"]
    record = document["olc"]["record"]
    branches = record["prompts"][0]["branches"]
    branches[record["options"]["choices"].index(second)]["logprobs"][0] += gap + 0.25
    path.write_text(json.dumps(document))
    run = olc("replay", str(path), "-m", model)
    lines = run.text.splitlines()
    assert run.code == 1
    assert lines[0].startswith("different: 1 of 1 answer from 3 choices; 1 of ")
    assert re.fullmatch(rf'prompt 0: recorded "{second}" [\d.]+ %, now "{chosen}" [\d.]+ %', lines[1])
    assert lines[2].startswith(f"  margin {gap:.3g}, recorded 0.25 the other way: more than 0.000")
    assert lines[3].startswith(f'largest difference, choice "{second}", token 0, ')


def test_scores_and_choices_are_held_against_others(olc: Olc, made: Any, tmp_path: Path) -> None:
    for arguments in (SCORES[0], CHOICES[1]):
        path = made(*arguments)
        document = json.loads(path.read_text())
        prompt = document["olc"]["record"]["prompts"][-1]
        (prompt["branches"][0] if "branches" in prompt else prompt)["logprobs"][-1] -= 1
        other = tmp_path / "other.json"
        other.write_text(json.dumps(document))
        run = olc("replay", str(path), "--against", str(other))
        assert (run.code, "largest difference, " in run.text) == (1, True)
    mixed = made(*CHOICES[0], name="mixed.json")
    assert olc("replay", str(path), "--against", str(mixed)).code == 2


def test_the_coarser_of_two_precisions_judges(olc: Olc, made: Any, tmp_path: Path) -> None:
    """A difference of 0.3 is more than float32 and float16 explain, and no more than bfloat16 does, whichever comes first."""
    path = made(*SCORES[0])
    document = json.loads(path.read_text())
    record = document["olc"]["record"]
    record["prompts"][0]["logprobs"][-1] -= 0.3
    other = tmp_path / "other.json"
    for dtype, code in (("float16", 1), ("bfloat16", 0)):
        record["dtype"] = dtype
        other.write_text(json.dumps(document))
        for pair in ((path, other), (other, path)):
            run = olc("replay", str(pair[0]), "--against", str(pair[1]))
            assert run.code == code
            assert code == 0 or "rounding in float" in run.text


DAMAGE: list[tuple[tuple[str, ...], list[Any]]] = [
    (
        SCORES[0],
        [
            lambda record: record["options"].update(first=99),
            lambda record: record["options"].update(stride="2"),
            lambda record: record["prompts"].append(record["prompts"][0]),
            lambda record: record["prompts"][0].pop("logprobs"),
            lambda record: record["prompts"][0]["logprobs"].pop(),
            lambda record: record["prompts"][0]["logprobs"].__setitem__(1, "a"),
            lambda record: record["prompts"][0]["ids"].__setitem__(0, -1),
        ],
    ),
    (
        CHOICES[0],
        [
            lambda record: record["options"].update(choices=["a"]),
            lambda record: record["options"].update(choices_normalize="x"),
            lambda record: record["options"].update(calibrate_with="x"),
            lambda record: record["prompts"][0].update(branches=[]),
            lambda record: record["prompts"][0]["branches"][0].update(ids=[], logprobs=[]),
            lambda record: record["prompts"][0]["branches"][0]["logprobs"].pop(),
        ],
    ),
]


@pytest.mark.parametrize(("arguments", "changes"), DAMAGE, ids=["score", "choices"])
def test_a_damaged_record_is_refused(made: Any, arguments: tuple[str, ...], changes: list[Any]) -> None:
    path = made(*arguments)
    record = json.loads(path.read_text())["olc"]["record"]
    for number, change in enumerate(changes):
        damaged = copy.deepcopy(record)
        change(damaged)
        path.write_text(json.dumps(damaged))
        with pytest.raises(UsageError) as problem:
            read_record(path)
        assert problem.value.code == "record", number


def test_ids_that_the_model_does_not_have_are_refused(olc: Olc, made: Any, model: str) -> None:
    for arguments in (SCORES[0], CHOICES[0], COMPLETIONS[1]):
        path = made(*arguments)
        record = json.loads(path.read_text())["olc"]["record"]
        prompt = record["prompts"][0]
        places = [prompt["branches"][0] if "branches" in prompt else prompt, *record["completions"]]
        for one in places:
            token, one["ids"][-1] = one["ids"][-1], 10**400
            path.write_text(json.dumps(record))
            run = olc("replay", str(path), "-m", model)
            assert (run.code, "does not have all of its token ids" in run.messages) == (2, True)
            one["ids"][-1] = token


def test_a_token_without_a_piece_has_a_number(olc: Olc, made: Any, tmp_path: Path) -> None:
    padded = write_tiny_llama(tmp_path / "padded", vocab=VOCAB + 8)
    path = made("complete", "x", "-n", "2", model=str(padded))
    document = json.loads(path.read_text())
    document["olc"]["record"]["completions"][0]["ids"][1] = VOCAB + 3
    path.write_text(json.dumps(document))
    run = olc("replay", str(path), "-m", str(padded))
    assert (run.code, f"recorded token {VOCAB + 3}, now " in run.text) == (1, True), run.messages


def test_the_folder_that_one_is_in_has_a_name(made: Any, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model)
    assert read_record(made("complete", "x", "-n", "1", model=".")).document["model"]["name"] == Path(model).name


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda place: f"GPU {int(place)}")
    assert machine()["gpus"] == ["GPU 0", "GPU 1"]
