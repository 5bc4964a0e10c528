"""`--examples` and `--show-prompt` of `complete`, `generate` and `batch`: what the model is given. No text is judged."""

import json
from pathlib import Path

import pytest

from openllama_cli.models.tokenizer.open import open_tokenizer
from tests.conftest import Olc
from tests.support.batches import GREEDY, read

TEMPLATE = """
heading = "Numbers.\\n\\n"
template = "{{ text }} is"
separator = "\\n"
max_tokens = 4
"""
EXAMPLES = "text,answer\none,odd\ntwo,even\nthree,odd\nfour,even\n"
PROMPT = "Numbers.\n\none is odd\ntwo is even\nsix is"


@pytest.fixture
def few_shot(tmp_path: Path) -> list[str]:
    """A template and two examples for it, as options."""
    (tmp_path / "parity.toml").write_text(TEMPLATE)
    (tmp_path / "examples.csv").write_text(EXAMPLES)
    return ["-t", str(tmp_path / "parity.toml"), "--examples", str(tmp_path / "examples.csv"), "--shots", "2"]


def test_a_prompt_is_shown_byte_for_byte_and_nothing_runs(olc: Olc, model: str, few_shot: list[str]) -> None:
    shown = olc("complete", "six", *few_shot, "--show-prompt", "-m", model)
    assert (shown.code, shown.text, shown.messages) == (0, PROMPT, "")
    assert json.loads(olc("complete", "six", *few_shot, "--show-prompt", "--json", "-m", model).text) == {"prompts": [PROMPT]}
    assert olc("complete", "-e", r"six\n", "--show-prompt").text == "six\n", "without a template, and without a model"
    balanced = olc("complete", "one", *few_shot, "--balance", "--examples-seed", "1", "--show-prompt", "-m", model).text
    assert balanced.count(" odd") == balanced.count(" even") == 1
    assert balanced.count("one") == 1, "it is no example of itself"


def test_the_prompt_that_is_shown_is_the_one_that_is_completed(olc: Olc, model: str, few_shot: list[str]) -> None:
    examples = olc("complete", "six", *few_shot, "-m", model, "--dtype", "float32", "--echo")
    plain = olc("complete", PROMPT, "-n", "4", "-m", model, "--dtype", "float32", "--echo")
    assert (examples.code, examples.text) == (0, plain.text), examples.messages
    assert examples.text.startswith(PROMPT)


def test_examples_have_before_their_answers_what_stands_before_the_choices(
    olc: Olc, model: str, few_shot: list[str], tmp_path: Path
) -> None:
    options = (*few_shot, "--choices", "odd,even", "-e", "--choices-prefix", r"\n-", "--show-prompt", "-m", model)
    assert olc("complete", "six", *options).text == PROMPT.replace("is ", "is\n-")
    (tmp_path / "in.csv").write_text("text\nsix\n")
    assert olc("batch", str(tmp_path / "in.csv"), *options).text == PROMPT.replace("is ", "is\n-")


def test_a_choice_is_calibrated_after_the_same_examples(olc: Olc, model: str, few_shot: list[str]) -> None:
    """The prompt with the examples and no input is what stands in --calibrate-with without a template."""
    options = ("--choices", "odd,even", "--json", "-m", model, "--dtype", "float32")
    for examples in (few_shot, [*few_shot, "--shots", "0"]):
        shown = olc("complete", "six", *examples, "--show-prompt", *options[3:]).text
        own = json.loads(olc("complete", "six", *examples, "--calibrate", *options).text)["olc"]["choices"]
        plain = olc("complete", shown, "--calibrate-with", shown.replace("six", ""), *options).text
        assert own == json.loads(plain)["olc"]["choices"]


def test_a_batch_chooses_as_complete_does(olc: Olc, model: str, few_shot: list[str], tmp_path: Path) -> None:
    """A row that is one of the examples has another one in its place, in its neutral prompt too."""
    source, output = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("text\nsix\none\n")
    options = ("--choices", "odd,even", "--calibrate", "-m", model, "--dtype", "float32")
    assert olc("batch", str(source), *few_shot, "-o", str(output), *options).code == 0
    for row, text in zip(read(output), ("six", "one"), strict=True):
        alone = json.loads(olc("complete", text, *few_shot, "--json", *options).text)
        assert row["text"] == alone["choices"][0]["text"]
        assert row["choices"] == alone["olc"]["choices"]


def test_examples_leave_room_for_the_longest_choice(olc: Olc, model: str, few_shot: list[str], tmp_path: Path) -> None:
    (tmp_path / "examples.csv").write_text(LONG)
    choices = ("--choices", "x," + "long " * 40, "--shots", "8", "-m", model)
    shown, free = (
        olc("complete", "six", *few_shot, *choices, "--show-prompt"),
        olc("complete", "six", *few_shot, *choices[2:], "--show-prompt"),
    )
    assert 0 < shown.text.count(" is odd") < free.text.count(" is odd")
    assert "has no room for more beside the longest choice" in shown.messages
    assert olc("complete", "six", *few_shot, *choices).code == 0


def test_several_prompts_have_the_same_examples(olc: Olc, model: str, few_shot: list[str], tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("seven\none\n")
    arguments = ("generate", "six", "-f", str(tmp_path / "more.txt"), *few_shot)
    prompts = [PROMPT, PROMPT.replace("six", "seven"), "Numbers.\n\nthree is odd\ntwo is even\none is"]
    shown = olc(*arguments, "--show-prompt", "-m", model)
    assert shown.text == "".join(prompt + "\n" for prompt in prompts)
    assert "prompt 2 of 3" in shown.messages
    made = json.loads(olc(*arguments, *GREEDY[2:], "--temperature", "0", "--json", "-m", model).text)["completions"]
    assert [one["prompt"] for one in made] == prompts
    assert all(len(one["tokens"]) <= 4 for one in made), "the template's max_tokens"
    single = olc("complete", PROMPT, "-n", "4", *GREEDY[2:], "-m", model).text
    assert made[0]["text"] + "\n" == single


def test_generate_fills_templates_as_complete_does(olc: Olc, model: str) -> None:
    for arguments in (
        ["-t", "qa", "Why?"],
        ["-t", "qa", "-p", "question", "Why?"],
        ["-t", "translate", "Hi.", "-p", "target", "X"],
    ):
        one, other = (olc(command, *arguments, "--show-prompt", "-m", model) for command in ("complete", "generate"))
        assert (one.code, one.text) == (other.code, other.text) == (0, one.text)
        assert one.text


def test_a_batch_has_the_examples_in_front_of_every_row(olc: Olc, model: str, few_shot: list[str], tmp_path: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("text,answer\nsix,even\none,odd\n")
    shown = olc("batch", str(source), *few_shot, "--show-prompt", "-m", model)
    assert (shown.code, shown.text) == (0, PROMPT)
    piped = olc("batch", "-", "--format", "csv", *few_shot, "--show-prompt", "-m", model, stdin=source.read_bytes())
    assert piped.text == PROMPT
    result = olc("batch", str(source), *few_shot, "-o", str(output), *GREEDY, "-m", model)
    assert result.code == 0, result.messages
    rows = read(output)
    assert [row["prompt"] for row in rows] == [PROMPT, "Numbers.\n\nthree is odd\ntwo is even\none is"]
    assert [row["answer"] for row in rows] == ["even", "odd"]
    assert rows[0]["text"] == olc("complete", PROMPT, *GREEDY, "-m", model).text.removesuffix("\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda options, folder: (folder / "examples.csv").write_text(EXAMPLES.replace("four", "ten")), "--examples was"),
        (lambda options, folder: options.append("--balance"), "--balance was not given, now on"),
        (lambda options, folder: options.extend(["--shots", "3"]), "--shots was 2, now 3"),
        (lambda options, folder: options.extend(["--examples-seed", "1"]), "--examples-seed was not given, now 1"),
        (lambda options, folder: options.__delitem__(slice(2, None)), "--examples was"),
    ],
    ids=["file", "balance", "shots", "seed", "none"],
)
def test_a_batch_with_other_examples_is_not_resumed(
    olc: Olc, refused: Olc, model: str, few_shot: list[str], tmp_path: Path, change: object, said: str
) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("text\nsix\n")
    command = ("batch", str(source), "-o", str(output), "-n", "1", "-m", model)
    assert olc(*command, *few_shot).code == 0
    assert "already complete" in olc(*command, *few_shot).messages
    assert callable(change)
    change(few_shot, tmp_path)
    messages = refused(*command, *few_shot).messages
    assert said in messages
    assert "what is taken from the rows" not in messages


LONG = "text,answer\n" + "".join(f"{'word ' * 12}{number},odd\n" for number in range(8))


def test_examples_are_cut_to_what_the_context_has_room_for(
    olc: Olc, model: str, few_shot: list[str], tmp_path: Path, tiny_model: Path
) -> None:
    (tmp_path / "examples.csv").write_text(LONG)
    tokenizer, options = open_tokenizer(tiny_model), [*few_shot, "--shots", "8", "-m", model]
    shown = olc("complete", "six", *options, "--show-prompt")
    kept = shown.text.count(" is odd")
    assert 0 < kept < 8
    assert f"the prompt has {kept} of 8 shots: the context of 256 tokens has no room for more beside" in shown.messages
    assert len(tokenizer.encode(shown.text)) + 4 <= 256
    one_more = shown.text.removesuffix("six is") + f"{'word ' * 12}{kept} is odd\nsix is"
    assert len(tokenizer.encode(one_more)) + 4 > 256
    assert olc("complete", "six", *options, "--echo").text.startswith(shown.text)
    assert olc("generate", "six", "seven", *options, "--show-prompt").messages.count(" 2 of 2 prompts have at least") == 1

    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "six"}\n{"text": "six", "max_tokens": 100}\n{"text": "six", "max_tokens": 240}\n')
    result = olc("batch", str(source), "-o", str(output), *options)
    assert result.code == 0, result.messages
    assert "3 of 3 prompts have at least 0 of 8 shots" in result.messages
    counts = [row["prompt"].count(" is odd") for row in read(output)]
    assert counts[0] == kept > counts[1] > counts[2] == 0


WRONG = [
    ("--shots 2", "--shots requires --examples"),
    ("--balance", "--balance requires --examples"),
    ("--examples-seed 1", "--examples-seed requires --examples"),
    ("--examples FILE", "--examples requires --shots"),
    ("--examples FILE --shots 2", "--examples requires a template"),
    ("--examples FILE --shots -1", "--shots"),
    ("--examples FILE --shots 5 -t TEMPLATE", "--shots 5, but"),
    ("--examples absent.csv --shots 2 -t TEMPLATE", "absent.csv does not exist"),
    ("--examples FILE --shots 2 -t qa", "has no column 'question'"),
]


@pytest.mark.parametrize("command", ["complete", "generate", "batch"])
@pytest.mark.parametrize(("options", "said"), WRONG)
def test_wrong_use_ends_in_two_lines(
    refused: Olc, few_shot: list[str], tmp_path: Path, command: str, options: str, said: str
) -> None:
    (tmp_path / "in.txt").write_text("x\n")
    words = [{"FILE": few_shot[3], "TEMPLATE": few_shot[1]}.get(word, word) for word in options.split()]
    assert said in refused(command, str(tmp_path / "in.txt"), *words).messages


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no rows"),
        ('{"text": 1', "the first row is wrong"),
        ('{"body": {"prompt": [1]}, "url": "/v1/completions"}', "ids"),
    ],
)
def test_a_batch_without_a_prompt_to_show(refused: Olc, tmp_path: Path, content: str, said: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(content)
    assert said in refused("batch", str(source), "--show-prompt").messages
