"""`olc score`: its numbers against full passes in float64 and `olc generate`, and what it shows where."""

import copy
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.cells import cell_len

from openllama_cli.generation.decode.windows import windows
from openllama_cli.models.tokenizer.open import open_tokenizer
from openllama_cli.terminal.views.saved.surprisal_curve import svg
from tests.conftest import Olc
from tests.support.models.sentencepiece_models import train
from tests.support.models.tiny_models import load_llama
from tests.support.terminals import on_a_terminal, without_color

CONTEXT = 256
TEXT = "Q: What is the largest animal?\nThe blue  whale 🐋, é①."


@pytest.fixture(scope="module")
def exact(tiny_model: Path) -> Any:
    return copy.deepcopy(load_llama(tiny_model)).double()


def full_pass(exact: Any, tokens: list[int]) -> torch.Tensor:
    """[n, vocab] log-probabilities; row i predicts token i + 1."""
    with torch.no_grad():
        logprobs: torch.Tensor = exact(torch.tensor([tokens])).logits[0].log_softmax(-1)
    return logprobs


@pytest.fixture
def scored(olc: Olc, tiny_model: Path) -> Any:
    """The JSON of a run."""

    def run(*arguments: str, stdin: bytes | None = None) -> Any:
        ended = olc("score", *arguments, "--json", "--dtype", "float32", "-m", str(tiny_model), stdin=stdin)
        assert (ended.code, ended.messages) == (0, "")
        return json.loads(ended.text)

    return run


def test_it_is_a_full_pass_in_float64_and_what_generate_says(scored: Any, olc: Olc, exact: Any, tiny_model: Path) -> None:
    document = scored(TEXT)
    tokens = open_tokenizer(tiny_model).encode(TEXT)
    wanted = full_pass(exact, tokens)
    entries = document["entries"]
    assert [entry["id"] for entry in entries] == tokens[1:]
    assert "".join(entry["text"] for entry in entries) == TEXT
    for place, entry in enumerate(entries):
        own = wanted[place, entry["id"]]
        assert entry["logprob"] == pytest.approx(float(own), abs=1e-4)
        assert entry["bits"] == pytest.approx(-float(own) / math.log(2), abs=1e-3)
        assert entry["rank"] == int((wanted[place] > own).sum()) + 1
        assert (entry["expected"] is None) == (entry["rank"] == 1)
        if entry["expected"] is not None:
            assert entry["expected"]["logprob"] == pytest.approx(float(wanted[place].max()), abs=1e-4)
    options = ("--echo", "--logprobs", "--json", "-n", "0", "--dtype", "float32", "-m", str(tiny_model))
    generated = json.loads(olc("generate", TEXT, *options).text)["completions"][0]
    assert generated["logprobs"] == [None, *(entry["logprob"] for entry in entries)]
    totals = document["totals"]
    assert totals["logprob"] == pytest.approx(sum(generated["logprobs"][1:]))
    assert totals["perplexity"] == pytest.approx(math.exp(-totals["logprob"] / len(entries)))
    assert totals["bits_per_byte"] == pytest.approx(-totals["logprob"] / math.log(2) / len(TEXT.encode()))
    assert (totals["tokens"], totals["words"], totals["bytes"]) == (len(entries), len(TEXT.split()), len(TEXT.encode()))
    assert (document["olc"]["windows"], document["olc"]["stride"]) == (1, None)


@pytest.mark.parametrize("stride", [None, 100])
def test_a_text_beyond_the_context_is_scored_in_windows(scored: Any, exact: Any, tiny_model: Path, stride: int | None) -> None:
    text, context = TEXT * 12, "Whales: " * 3
    document = scored("-", "--context", context, *([] if stride is None else ["--stride", str(stride)]), stdin=text.encode())
    tokens = open_tokenizer(tiny_model).encode(context + text)
    wanted = {}
    for begin, end, first in windows(len(tokens), CONTEXT, stride or CONTEXT // 2, 1):
        part = tokens[:end] if begin == 0 else tokens[:1] + tokens[begin:end]
        logprobs = full_pass(exact, part)
        wanted |= {place: float(logprobs[place - end + len(part) - 1, tokens[place]]) for place in range(max(first, 1), end)}
    entries = document["entries"]
    assert len(tokens) - len(entries) == len(open_tokenizer(tiny_model).encode(context.rstrip()))
    found = [entry["logprob"] for entry in entries]
    assert found == pytest.approx([wanted[place] for place in range(len(tokens) - len(entries), len(tokens))], abs=1e-4)
    assert document["olc"]["stride"] == stride or CONTEXT // 2
    assert document["olc"]["windows"] == math.ceil((len(tokens) - CONTEXT) / document["olc"]["stride"]) + 1
    assert (document["text"], document["context"]) == (text, context)


def test_words_and_lines_are_sums_of_tokens(scored: Any) -> None:
    total = scored(TEXT)["totals"]
    for unit in ("word", "line"):
        document = scored(TEXT, "--by", unit)
        assert document["totals"] == total
        assert "".join(entry["text"] for entry in document["entries"]) == TEXT
        assert sum(entry["bits"] for entry in document["entries"]) == pytest.approx(total["bits"])
        assert sum(entry["tokens"] for entry in document["entries"]) == total["tokens"]
    assert [entry["text"] for entry in scored(TEXT, "--by", "line")["entries"]] == TEXT.splitlines(keepends=True)


def test_top_has_the_alternatives(scored: Any) -> None:
    for entry in scored("the blue whale", "--top", "3")["entries"]:
        assert 3 <= len(entry["top_logprobs"]) <= 4
        assert sorted(entry["top_logprobs"].values(), reverse=True) == list(entry["top_logprobs"].values())


def test_without_bos_the_first_token_has_no_score(olc: Olc, tmp_model: Path) -> None:
    (tmp_model / "tokenizer.model").write_bytes(train(bos_id=-1, vocab_size=380))
    document = json.loads(olc("score", "the quick", "--json", "-m", str(tmp_model)).text)
    first, *others = document["entries"]
    assert (first["logprob"], first["bits"], first["rank"], first["expected"]) == (None,) * 4
    assert document["totals"]["tokens"] == len(others) == sum(entry["logprob"] is not None for entry in others)
    assert document["totals"]["bytes"] == len("the quick") - len(first["text"])
    table = olc("score", "the quick", "-m", str(tmp_model)).text
    assert table.splitlines()[1].split("\t")[:3] == ["0", "", ""]
    one = olc("score", "the", "--by", "line", "-m", str(tmp_model), "--context", "x ")
    assert one.code == 0


def test_a_pipe_gets_one_line_for_each_part(olc: Olc, tiny_model: Path) -> None:
    run = olc("score", "-e", r"the\tblue\n\nwhale \\", "--context", r"x\n", "--by", "word", "-m", str(tiny_model))
    header, *lines = run.text.splitlines()
    assert header == "start\tbits\ttokens\ttext"
    assert [line.split("\t")[3] for line in lines] == ["the", r"\tblue", r"\n\nwhale", " \\"]
    assert [line.split("\t")[0] for line in lines] == ["0", "3", "8", "15"]
    assert re.search(r"^olc: \d+ tokens, 4 words, 17 bytes: .* bits per byte$", run.messages)
    run = olc("score", "the\x1b[31m", "-m", str(tiny_model), "--stats")
    assert run.text.splitlines()[0] == "start\tbits\trank\ttext\texpected"
    assert "\x1b" not in run.text
    assert "tokens/s" in run.messages


@pytest.mark.parametrize(("columns", "unit"), [(60, "token"), (120, "line")])
def test_a_terminal_shows_the_shaded_text_its_legend_and_the_figures(tiny_model: Path, columns: int, unit: str) -> None:
    text = "The blue  whale\x1b]0;x\x07 🐋 reads 日本語 and follows a long sentence, longer than a line.\nyes\n"
    arguments = ("score", text, "--by", unit, "--context", "So: ", "-m", str(tiny_model))
    shown = on_a_terminal(*arguments, columns=columns, stderr=False)
    assert "\x1b[30;48" in shown
    assert "\x1b]0" not in shown
    plain = without_color(shown)
    assert r"\x1b]0;x\x07" in plain
    assert "bits per token: " in plain if unit == "line" else "bits: " in plain
    assert re.search(r"^perplexity +[\d.,e+]+ +[\d.,e+]+", plain, re.MULTILINE)
    assert plain.startswith("So: ")
    assert max(map(cell_len, plain.splitlines())) <= columns


@pytest.mark.parametrize("columns", [60, 100])
def test_a_line_with_emoji_of_several_characters_loses_nothing(tiny_model: Path, columns: int) -> None:
    """They are narrower than their tokens together."""
    text = "🏳\ufe0f\u200d🌈 one two three " * 9 + "👩\u200d👩\u200d👧\u200d👦 four five six " * 6
    shown = without_color(on_a_terminal("score", text, "-m", str(tiny_model), columns=columns, stderr=False))
    assert shown.partition("bits:")[0].split() == text.split()


def test_without_colors_the_parts_are_a_table(tiny_model: Path) -> None:
    arguments = ("score", "the whale", "--by", "word", "-m", str(tiny_model))
    shown = on_a_terminal(*arguments, columns=60, stderr=False, NO_COLOR="1")
    assert re.search(r"^ *0 +[\d.]+ +\d+ +the *$", shown, re.MULTILINE)


def test_a_picture_of_the_text(olc: Olc, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "curve.svg"
    run = olc("score", "a <b> & \x07 🐋", "--by", "word", "--svg", str(file), "-m", str(tiny_model))
    assert run.code == 0
    names = [element.text for element in ElementTree.fromstring(file.read_text()).iter() if element.tag.endswith("text")]
    assert names[-5:] == ["a", "<b>", "&", r"\x07", "🐋"]
    for parts in ([], [("x", None)], [("\ufffe\n", 3.0)] * 5000, [("a", 1.0), ("b", None), ("c", 0.0)]):
        root = ElementTree.fromstring(svg(parts, "token", "title \x01"))
        assert sum(element.tag.endswith("circle") for element in root.iter()) <= 600
        assert not re.search(r"nan|inf", ElementTree.tostring(root, encoding="unicode"))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["x", "--by", "letter"], "--by letter"),
        (["x", "--top", "3"], "--top requires --json"),
        (["x", "--json", "--top", "3", "--by", "word"], "--top requires --json"),
        (["x", "--json", "--svg", "x.svg"], "--json and --svg"),
        (["x", "--svg", "no/such/folder.svg"], "cannot write"),
        ([], "no text was given"),
        ([""], "empty"),
        (["x", "--stride", "0"], "--stride 0 is out of range"),
        (["x", "--stride", "255"], "--stride 255 is out of range"),
    ],
)
def test_wrong_usage_is_told_before_the_weights_are_loaded(
    olc: Olc, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: str
) -> None:
    monkeypatch.setattr("openllama_cli.commands.score.load_model", None)
    run = olc("score", *arguments, "-m", str(tiny_model))
    assert run.code == 2
    assert code in run.messages
