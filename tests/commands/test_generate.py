"""`olc generate`: several prompts, tokens and log-probabilities, the check, the trace and the picture."""

import json
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.models.tokenizer.open import open_tokenizer
from openllama_cli.terminal.streams import one_line
from tests.conftest import Olc
from tests.support.terminals import on_a_terminal, without_color

PROMPTS = ["Q: What is the largest animal?", "The quick", ""]
GREEDY = ("--temperature", "0", "--dtype", "float32")


def completions(olc: Olc, model: str, *arguments: str) -> list[dict[str, Any]]:
    result = olc("generate", *arguments, "--json", "-m", model)
    assert result.code == 0, result.messages
    document = json.loads(result.text)
    assert document["model"] == model
    rows: list[dict[str, Any]] = document["completions"]
    return rows


def test_prompts_side_by_side_give_what_each_gives_alone(olc: Olc, model: str) -> None:
    together = completions(olc, model, *PROMPTS, "--max-gen-len", "9", *GREEDY)
    assert [row["prompt"] for row in together] == PROMPTS
    assert [set(row) for row in together] == [{"prompt", "text", "tokens", "logprobs", "finish_reason"}] * 3
    in_a_pipe = olc("generate", *PROMPTS, "-n", "9", *GREEDY, "-m", model)
    assert (in_a_pipe.text, in_a_pipe.messages) == ("".join(row["text"] + "\n" for row in together), "")
    for row in together:
        assert completions(olc, model, row["prompt"], "-n", "9", *GREEDY) == [row]
        assert (len(row["tokens"]), row["logprobs"], row["finish_reason"]) == (9, None, "length")
    (echoed,) = completions(olc, model, PROMPTS[0], "-n", "9", *GREEDY, "--echo", "--logprobs")
    assert echoed["text"] == PROMPTS[0] + together[0]["text"]
    assert len(echoed["logprobs"]) == len(echoed["tokens"]) > 9


def test_it_samples_as_published_unless_told_otherwise(olc: Olc, model: str) -> None:
    default = completions(olc, model, PROMPTS[0], "-s", "5")
    assert default == completions(olc, model, PROMPTS[0], "-s", "5", "--temperature", "0.6", "--top-p", "0.9", "-n", "64")
    assert default != completions(olc, model, PROMPTS[0], *GREEDY)


def test_escapes_become_characters_on_request(olc: Olc, model: str, tmp_path: Path) -> None:
    result = olc("generate", "-e", r"Q: What is the capital of France?\nA:", "--stop", r"\n", *GREEDY, "-m", "demo")
    assert (result.text, result.messages) == (" Paris.\n", "")
    file = tmp_path / "prompts.txt"
    file.write_text(r"a\tb" + "\n")
    from_file = completions(olc, model, "-e", "-f", str(file), "-n", "0")
    assert [row["prompt"] for row in from_file] == [r"a\tb"], "a file can hold the characters themselves"
    assert "--escape" in olc("generate", "x", r"Q:\nA:", "-n", "0", "-m", model).messages
    assert olc("generate", "x", "Q: A:", "-n", "0", "-m", model).messages == ""


def test_a_file_has_a_prompt_per_line(olc: Olc, model: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("one\r\n\nthree\u2028still three".encode())
    rows = completions(olc, model, "zero", "-f", str(file), "-n", "1", *GREEDY)
    assert [row["prompt"] for row in rows] == ["zero", "one", "", "three\u2028still three"]
    assert completions(olc, model, "zero", "--prompts-file", str(file), "-n", "1", *GREEDY) == rows


def test_nothing_is_shown_of_a_stop_string_and_its_tokens(olc: Olc, model: str) -> None:
    text = completions(olc, model, PROMPTS[0], "-n", "24", *GREEDY)[0]["text"]
    middle = len(text) // 2
    stop = text[middle : middle + 2]
    shown = text[: text.index(stop)]
    result = olc("generate", PROMPTS[0], "-n", "24", "--stop", stop, "--logprobs", *GREEDY, "-m", model)
    table = result.text.removeprefix(shown + "\n").splitlines()[1:]
    assert "".join(line.split("\t")[1] for line in table) == one_line(shown)


def test_the_check_passes_in_float32(olc: Olc, model: str) -> None:
    arguments = ("generate", *PROMPTS, "--check", "-n", "10", "--dtype", "float32", "-m", model)
    result = olc(*arguments)
    assert (result.code, result.text.count("equal")) == (0, 3)
    checks = json.loads(olc(*arguments, "--json").text)["checks"]
    assert all(check["same"] and check["tokens"] == check["generate_tokens"] for check in checks)


@pytest.mark.parametrize("option", [("--regex", " a+"), ("--ban", "a"), ("--repetition-penalty", "2"), ("--ignore-eos",)])
def test_the_check_refuses_what_it_would_leave_aside(olc: Olc, option: tuple[str, ...]) -> None:
    result = olc("generate", "a", "--check", *option, "--seed", "3", "--json")
    assert result.code == 2
    assert f"--check compares greedy decoding as it is, without {option[0]}" in result.messages


def test_a_failed_check_is_exit_1_and_shows_where(olc: Olc, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from openllama_cli.generation.forward.lean import LeanForward

    # A loop that is wrong: every decode step takes the least likely token.
    right = LeanForward.decode
    monkeypatch.setattr(LeanForward, "decode", lambda *arguments: -right(*arguments))
    result = olc("generate", PROMPTS[0], "--check", "-n", "10", "--dtype", "float32", "-m", model)
    assert result.code == 1
    assert "differ" in result.messages


def test_the_trace_shows_each_step(olc: Olc, model: str, tiny_model: Path) -> None:
    row = completions(olc, model, PROMPTS[1], "-n", "4", "--logprobs", *GREEDY)[0]
    result = olc("generate", PROMPTS[1], "-n", "4", "--trace", *GREEDY, "-m", model)
    lines = [line.split("\t") for line in result.text.splitlines()]
    head = ["position", "token", "piece", "probability", "entropy_bits", "penalized", "tempered", "drawn", "candidates"]
    assert lines[0] == head
    start = len(open_tokenizer(tiny_model).encode(PROMPTS[1]))
    assert [int(line[0]) for line in lines[1:]] == list(range(start, start + 4))
    assert [int(line[1]) for line in lines[1:]] == row["tokens"]
    for line in lines[1:]:
        shares = [float(candidate.rpartition("=")[2].split("/")[0]) for candidate in line[8].split(" ")]
        assert shares == sorted(shares, reverse=True)
        assert shares[0] == float(line[3]), "greedy takes the most likely token"
        assert 0 < float(line[4]) < 9
        assert line[5:8] == [line[3], "-", "1.0000"], "nothing but the choice happens"
    assert "--max-tokens" in result.messages


def test_the_trace_of_several_prompts_has_the_tokens_of_the_batch(olc: Olc, model: str) -> None:
    sampled = ("-n", "4", "--seed", "3", "--dtype", "float32")
    rows = completions(olc, model, *PROMPTS, *sampled)
    lines = olc("generate", *PROMPTS, "--trace", *sampled, "-m", model).text.splitlines()
    heads = [place for place, line in enumerate(lines) if line.startswith("position")]
    traced = [[int(line.split("\t")[1]) for line in lines[head + 1 : head + 5]] for head in heads]
    assert traced == [row["tokens"] for row in rows]


def test_the_trace_as_json_says_what_each_filter_did(olc: Olc, model: str) -> None:
    sampled = ("-n", "4", "--seed", "3", "--temperature", "0.7", "--top-k", "2", "--top-p", "0.9", "--dtype", "float32")
    document = json.loads(olc("generate", *PROMPTS, "--trace", "--json", *sampled, "-m", model).text)
    rows = completions(olc, model, *PROMPTS, *sampled)
    assert [trace["text"] for trace in document["traces"]] == [row["text"] for row in rows]
    for trace, row in zip(document["traces"], rows, strict=True):
        assert [step["token"] for step in trace["steps"]] == row["tokens"]
        for step in trace["steps"]:
            assert step["stages"][:3] == ["allowed", "temperature", "top-k"]
            (taken,) = [one for one in step["candidates"] if one["taken"]]
            assert (taken["token"], taken["cut"]) == (step["token"], None)
            assert sum(one["cut"] != "top-k" for one in step["candidates"]) == 2
            assert all(one["tempered"] > one["model"] for one in step["candidates"][:1])


def test_the_trace_fits_on_a_narrow_terminal(model: str) -> None:
    options = ("-n", "3", "--seed", "3", "--top-k", "2", "--no-server", "-m", model)
    shown = on_a_terminal("generate", PROMPTS[0], "--trace", *options, columns=60, stderr=False)
    lines = without_color(shown).splitlines()
    assert max(map(len, lines)) <= 60
    assert sum("→" in line for line in lines) == 3
    assert any("cut: top-k" in line for line in lines)
    assert any("entropy" in line and line.endswith("bits") for line in lines)


def test_the_picture_is_svg_and_refers_to_nothing_elsewhere(olc: Olc, model: str, tmp_path: Path) -> None:
    file = tmp_path / "shades.svg"
    assert olc("generate", "a [bold] <b>", "-n", "6", "--svg", str(file), *GREEDY, "-m", model).code == 0
    drawn = file.read_text()
    xml.etree.ElementTree.fromstring(drawn)
    assert "[bold]" in drawn.replace("&#160;", " ")
    assert "@font-face" not in drawn
    assert "url(http" not in drawn


def test_a_picture_for_which_the_disk_is_full_is_two_lines(olc: Olc, model: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    result = olc("generate", "a", "-n", "1", "--svg", "/dev/full", "-m", model)
    assert result.code == 1
    assert result.messages.splitlines()[0] == "error: cannot write /dev/full: No space left on device"


def test_prompts_come_from_stdin_on_request(olc: Olc, model: str) -> None:
    result = olc("generate", "-f", "-", "-n", "0", "--echo", "-m", model, stdin="ñ\n🐋\n".encode())
    assert result.out == "ñ\n🐋\n".encode()
