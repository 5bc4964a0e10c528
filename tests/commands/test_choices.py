"""`olc complete --choices`: what is written where, what is refused. On a random model: no answer is judged."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

import openllama_cli
from tests.conftest import Olc
from tests.support.terminals import on_a_terminal, without_color

PROMPT = "The sky is"
CHOICES = ("--choices", "blue, dark green,red")
TEMPLATE = """
template = '''Review: {{ text }}{{ more }}
It is:'''
choices = ["good", "bad"]
stop = ["\\n"]
max_tokens = 4

[defaults]
more = "!"
"""


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> openllama_cli.Model:
    return openllama_cli.load(str(tiny_model), dtype="float32", progress=False)


@pytest.fixture
def template(tmp_path: Path) -> str:
    path = tmp_path / "review.toml"
    path.write_text(TEMPLATE)
    return str(path)


def document(olc: Olc, model: str, *arguments: str) -> dict[str, Any]:
    result = olc("complete", *arguments, "--json", "-m", model, "--dtype", "float32")
    assert result.code == 0, result.messages
    made: dict[str, Any] = json.loads(result.text)
    return made


def test_a_pipe_gets_the_choice_and_one_newline(olc: Olc, model: str, loaded: openllama_cli.Model) -> None:
    result = olc("complete", PROMPT, *CHOICES, "-m", model, "--dtype", "float32")
    chosen = loaded.choose(PROMPT, ["blue", "dark green", "red"])
    assert (result.out, result.err) == (f"{chosen}\n".encode(), b"")


def test_the_json_has_every_choice_with_its_probability(olc: Olc, model: str, loaded: openllama_cli.Model) -> None:
    made = document(olc, model, PROMPT, *CHOICES, "--choices-normalize", "token", "--calibrate")
    chosen = loaded.choose(PROMPT, ["blue", "dark green", "red"], normalize="token", calibrate_with="")
    assert made["object"] == "text_completion"
    assert made["choices"] == [{"index": 0, "text": chosen.text, "finish_reason": "stop", "logprobs": None}]
    assert made["olc"]["choices"] == [one.document() for one in chosen.alternatives]
    assert math.fsum(one["probability"] for one in made["olc"]["choices"]) == pytest.approx(1)
    assert (made["olc"]["normalize"], made["olc"]["calibrated"]) == ("token", True)
    prompt, tokens = (
        len(loaded.tokenizer.encode(PROMPT)),
        next(one.tokens for one in chosen.alternatives if one.text == chosen.text),
    )
    assert made["usage"] == {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
    assert made["olc"]["timings"]["prefill_tokens_per_s"] > 0


def test_choices_come_from_a_file_as_they_are(olc: Olc, model: str, tmp_path: Path) -> None:
    lines, listed = tmp_path / "choices.txt", tmp_path / "choices.json"
    lines.write_bytes(" a, b\r\n東京\n[c]\n".encode())
    listed.write_text(json.dumps([" a, b", "東京", "[c]"]))
    first, second = (document(olc, model, PROMPT, "--choices-file", str(path))["olc"]["choices"] for path in (lines, listed))
    assert [one["text"] for one in first] == [" a, b", "東京", "[c]"]
    assert first == second


@pytest.mark.parametrize("content", ['["a", 1]', '{"a": 1}\n', '["a", ""]', '["a"', "a\n\nb\n"])
def test_a_file_that_has_no_choices_is_refused(refused: Olc, tmp_path: Path, content: str) -> None:
    (tmp_path / "choices.json").write_text(content)
    refused("complete", PROMPT, "--choices-file", str(tmp_path / "choices.json"))


def test_escapes_and_a_prefix_of_ones_own(olc: Olc, model: str, loaded: openllama_cli.Model) -> None:
    made = document(olc, model, "-e", r"Color:\n", r"--choices=blue\nsky,red", r"--choices-prefix=\t- ")
    assert made["olc"]["choices"] == [
        one.document() for one in loaded.choose("Color:\n", ["blue\nsky", "red"], prefix="\t- ").alternatives
    ]


def test_a_template_with_choices_chooses_unless_told_otherwise(
    olc: Olc, refused: Olc, model: str, template: str, loaded: openllama_cli.Model
) -> None:
    made = document(olc, model, "-t", template, "Nice")
    assert made["olc"]["choices"] == [
        one.document() for one in loaded.choose("Review: Nice!\nIt is:", ["good", "bad"]).alternatives
    ]
    named = document(olc, model, "-t", template, "Nice", "--choices", "so,fine")
    assert [one["text"] for one in named["olc"]["choices"]] == ["so", "fine"]
    free = document(olc, model, "-t", template, "Nice", "--no-choices")
    assert free["usage"]["completion_tokens"] == 4
    assert "choices" not in free["olc"]
    result = refused("complete", "-t", template, "Nice", "--temperature", "1")
    assert "--no-choices" in result.messages
    assert "the choices of the template" in result.messages


def test_a_template_is_calibrated_with_its_input_left_empty(
    olc: Olc, model: str, template: str, loaded: openllama_cli.Model
) -> None:
    for option, neutral in ((("--calibrate",), ""), (("--calibrate-with", "N/A"), "N/A")):
        made = document(olc, model, "-t", template, "Nice", "-p", "more", "?", *option)
        wanted = loaded.choose("Review: Nice?\nIt is:", ["good", "bad"], calibrate_with=f"Review: {neutral}?\nIt is:")
        assert made["olc"]["choices"] == [one.document() for one in wanted.alternatives]


def test_a_template_without_input_cannot_be_calibrated(refused: Olc, tmp_path: Path) -> None:
    path = tmp_path / "fixed.toml"
    path.write_text('template = "{{ a }}"\nchoices = ["x", "y"]\n[defaults]\na = "b"\n')
    assert "no variable without a default" in refused("complete", "-t", str(path), "--calibrate").messages


REFUSED = [
    (("--choices", "a,,b"), "choice 2 is empty"),
    (("--choices", "a,b, a"), "the choice 'a' is given twice"),
    (("--choices", "a"), "only the choice 'a' was given"),
    (("--choices", "a", "--choices", "b"), "separate choices by commas"),
    (("--choices", '"New York, NY",Paris'), "--choices-file FILE"),
    (("--choices", ""), "choice 1 is empty"),
    (("--choices", "a,b", "--choices-file", "x"), "--choices and --choices-file cannot be combined"),
    (("--choices", "a,b", "--no-choices"), "--choices and --no-choices cannot be combined"),
    (("--choices-prefix", ":"), "--choices-prefix requires choices"),
    (("--choices-normalize", "byte"), "--choices-normalize requires choices"),
    (("--calibrate",), "--calibrate requires choices"),
    (("--calibrate-with", "N/A", "--no-choices"), "--calibrate-with and --no-choices cannot be combined"),
    *(
        ((*CHOICES, *options), f"{options[0]} cannot be combined with --choices")
        for options in (
            ("--max-tokens", "3"),
            ("--temperature", "0"),
            ("--seed", "1"),
            ("--stop", "x"),
            ("--num-samples", "2"),
            ("--echo",),
            ("--speculate", "4"),
        )
    ),
    ((*CHOICES, "--logprobs", "1", "--json"), "--logprobs cannot be combined with --choices"),
    ((*CHOICES, "--engine", "transformers"), "--engine transformers cannot be combined with --choices"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_what_makes_no_sense_with_choices_is_refused(refused: Olc, options: tuple[str, ...], message: str) -> None:
    assert message in refused("complete", PROMPT, *options, "-m", "./nowhere").messages


def test_choices_that_the_context_has_no_room_for_are_refused(refused: Olc, model: str) -> None:
    assert (
        "the prompt and its choice '"
        in refused("complete", "x " * 250, "--choices", "a,b b b b b b b b b b", "-m", model).messages
    )


@pytest.mark.parametrize("columns", [60, 120])
def test_a_terminal_shows_the_answer_and_bars_that_fit(model: str, columns: int) -> None:
    long = "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch"
    texts = ["blue", long, "東京都新宿区西新宿二丁目八番一号東京都庁", "a\x1b[31mred"]
    shown = on_a_terminal("complete", PROMPT, "--choices", ",".join(texts), "-m", model, columns=columns, stderr=False)
    assert "\x1b[31mred" not in shown
    lines = without_color(shown).splitlines()
    assert lines[0].startswith(PROMPT + " ")
    bars = [line for line in lines if line.endswith("%")]
    assert len(bars) == 4
    assert all(cell_len(line) <= columns for line in bars)
    assert len({cell_len(line) for line in bars}) == 1
    shares = [float(line.split()[-2]) for line in bars]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert any(long in line for line in bars) == (columns == 120)


def test_many_choices_are_cut_to_the_likeliest_and_colors_are_left_out(model: str) -> None:
    texts = ",".join(map(str, range(30)))
    shown = on_a_terminal("complete", PROMPT, "--choices", texts, "-m", model, columns=60, stderr=False, NO_COLOR="1")
    assert "and 10 others, " in shown
    assert sum(line.endswith("%") for line in shown.splitlines()) == 20
    assert "\x1b[36m" not in shown
