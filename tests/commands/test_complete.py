"""`olc complete`: where the prompt comes from, what is written where, exit codes. On a random model: no text is judged."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.models.tokenizer.open import open_tokenizer
from openllama_cli.terminal.streams import visible
from tests.conftest import Olc
from tests.support.forked import Forked
from tests.support.models.sentencepiece_models import train
from tests.support.models.tiny_models import write_tiny_llama
from tests.support.terminals import on_a_terminal

PROMPT = "Q: What is the largest animal?"


def document(olc: Olc, model: str, *arguments: str) -> dict[str, Any]:
    result = olc("complete", *arguments, "--json", "-m", model, "--dtype", "float32")
    assert result.code == 0, result.messages
    loaded: dict[str, Any] = json.loads(result.text)
    return loaded


def text_of(olc: Olc, model: str, *arguments: str) -> str:
    text: str = document(olc, model, *arguments)["choices"][0]["text"]
    return text


def test_a_pipe_gets_the_completion_one_newline_and_nothing_else(olc: Olc, model: str) -> None:
    expected = text_of(olc, model, PROMPT, "-n", "12")
    result = olc("complete", PROMPT, "-n", "12", "-m", model, "--dtype", "float32")
    assert result.out == expected.encode() + b"\n"
    assert result.err == b""
    assert olc("complete", PROMPT, "-n", "12", "-m", model, "--dtype", "float32", "--no-stream").out == result.out
    assert olc("complete", PROMPT, "-n", "12", "-m", model, "--dtype", "float32", "--echo").text == PROMPT + result.text


def test_the_json_is_an_openai_text_completion_and_says_what_made_it(olc: Olc, model: str, tiny_model: Path) -> None:
    made = document(olc, model, PROMPT, "-n", "6")
    prompt_tokens = len(open_tokenizer(tiny_model).encode(PROMPT))
    assert made["object"] == "text_completion"
    assert made["model"] == model
    assert made["usage"] == {"prompt_tokens": prompt_tokens, "completion_tokens": 6, "total_tokens": prompt_tokens + 6}
    assert made["choices"][0]["finish_reason"] == "length"
    assert made["choices"][0]["logprobs"] is None
    assert made["olc"]["dtype"] == "float32"
    assert made["olc"]["device"] == "cpu"
    assert made["olc"]["seed"] is None
    assert made["olc"]["forward"] == "lean forward pass"
    assert len(made["olc"]["tokenizer_sha256"]) == 64
    timings = {"load_s", "time_to_first_token_s", "prefill_tokens_per_s", "decode_tokens_per_s", "total_s"}
    assert set(made["olc"]["timings"]) == timings
    assert all(value > 0 for value in made["olc"]["timings"].values())


def test_logprobs_name_each_token_and_where_it_begins(olc: Olc, model: str) -> None:
    choice = document(olc, model, PROMPT, "-n", "8", "--logprobs", "2", "--echo")["choices"][0]
    logprobs = choice["logprobs"]
    assert logprobs["tokens"][:2] == ["<s>", " Q"]
    assert logprobs["token_logprobs"][0] is None
    assert all(value < 0 for value in logprobs["token_logprobs"][1:])
    tops = list(zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True))[1:]
    assert all(token in top and len(top) in (2, 3) for token, top in tops), "the token taken is always among them"
    assert {len(value) for value in logprobs.values()} == {len(logprobs["tokens"])}
    for token, offset in zip(logprobs["tokens"][2:], logprobs["text_offset"][2:], strict=True):
        if not token.startswith("bytes:"):
            assert choice["text"].startswith(token, offset)


def test_the_same_seed_gives_the_same_text_and_is_reported(olc: Olc, model: str) -> None:
    arguments = (PROMPT, "-n", "12", "--temperature", "1")
    first = document(olc, model, *arguments)
    again, other = (document(olc, model, *arguments, "--seed", str(first["olc"]["seed"] + more)) for more in (0, 1))
    assert again["choices"] == first["choices"]
    assert other["choices"] != first["choices"]


def test_a_sampling_option_without_a_temperature_samples_at_one(olc: Olc, model: str) -> None:
    arguments = (PROMPT, "-n", "12", "--seed", "3")
    sampled, greedy = text_of(olc, model, *arguments), text_of(olc, model, PROMPT, "-n", "12")
    assert text_of(olc, model, *arguments, "--temp", "1") == sampled != greedy
    assert text_of(olc, model, *arguments, "--top-p", "0.9", "--temp", "0") == greedy


def test_samples_share_the_prefill_of_their_prompt_and_differ(olc: Olc, model: str) -> None:
    long = "The quick brown fox jumps over the lazy dog. " * 8
    arguments = ("-n", "10", "--seed", "1", "--num-samples")
    three, one = (document(olc, model, long, *arguments, count) for count in ("3", "1"))
    assert one["usage"]["prompt_tokens"] > 64, "or nothing is shared"
    assert [choice["index"] for choice in three["choices"]] == [0, 1, 2]
    assert len({choice["text"] for choice in three["choices"]}) == 3
    # The first does not depend on the others.
    assert three["choices"][0]["text"] == one["choices"][0]["text"] == text_of(olc, model, long, "-n", "10", "--seed", "1")
    written = olc("complete", long, *arguments, "3", "-m", model, "--dtype", "float32")
    assert written.text == "".join(choice["text"] + "\n" for choice in three["choices"])


def test_the_transformers_engine_prepares_none_of_the_forward_passes(
    olc: Olc, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a GPU that would take long: graphs are captured.
    monkeypatch.setattr("openllama_cli.generation.session.choose_forward", None)
    result = olc("complete", PROMPT, "-n", "2", "--engine", "transformers", "-m", model, "--stats")
    assert result.code == 0, result.messages
    assert "model.generate" in result.messages


@pytest.mark.parametrize("engine", ["loop", "transformers"])
def test_a_stop_string_ends_the_text_and_is_not_shown(olc: Olc, model: str, engine: str) -> None:
    whole = text_of(olc, model, PROMPT, "-n", "30")
    stop = whole[10:13]
    cut = document(olc, model, PROMPT, "-n", "30", "--stop", stop, "--stop", "never", "--engine", engine, "--logprobs", "1")
    choice = cut["choices"][0]
    assert choice["text"] == whole[: whole.index(stop)]
    assert choice["finish_reason"] == "stop"
    assert all(offset < len(choice["text"]) for offset in choice["logprobs"]["text_offset"])


@pytest.mark.parametrize("options", [("--speculate", "6"), ("--stop", "largest")], ids=" ".join)
def test_speculation_and_a_stop_string_in_the_prompt_change_nothing(olc: Olc, model: str, options: tuple[str, str]) -> None:
    prompt = "the largest fox jumps over the lazy dog, the largest fox"
    assert text_of(olc, model, prompt, "-n", "40", *options) == text_of(olc, model, prompt, "-n", "40")


def test_escapes_become_characters_on_request_and_a_literal_one_earns_a_hint(olc: Olc, model: str) -> None:
    assert text_of(olc, model, "-e", r"a\tb\\n\nQ:", "--echo", "-n", "1").startswith("a\tb\\n\nQ:")
    assert "--escape" in olc("complete", r"Q:\nA:", "-n", "1", "-m", model).messages
    assert olc("complete", "Q: A:", "-n", "1", "-m", model).messages == ""


def test_a_prompt_that_names_a_file_earns_a_hint(olc: Olc, model: str, tmp_path: Path) -> None:
    (tmp_path / "my prompt.txt").write_text("Q:")
    name = str(tmp_path / "my prompt.txt")
    for command in ("complete", "generate", "tokenize"):
        ran = olc(command, name, "-m", model, *(() if command == "tokenize" else ("-n", "1")))
        assert f"-f '{name}' takes what is in it" in ran.messages.replace("\n", " ")
        assert ran.code == 0


def test_an_empty_prompt_needs_a_bos(olc: Olc, refused: Olc, tmp_model: Path) -> None:
    (tmp_model / "tokenizer.model").write_bytes(train(bos_id=-1, vocab_size=380))
    for command in ("complete", "generate"):
        assert "no BOS" in refused(command, "", "-m", str(tmp_model)).messages
    assert olc("complete", "x", "-n", "1", "-m", str(tmp_model)).code == 0


def test_the_empty_prompt_generates_from_bos_alone_and_zero_tokens_give_no_text(olc: Olc, model: str) -> None:
    assert document(olc, model, "", "-n", "4")["usage"] == {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}
    choice = document(olc, model, PROMPT, "-n", "0")["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("", "length")


def test_prompt_and_tokens_up_to_the_context_and_not_one_more(olc: Olc, refused: Olc, model: str, tiny_model: Path) -> None:
    room = 256 - len(open_tokenizer(tiny_model).encode(PROMPT))
    assert document(olc, model, PROMPT, "-n", str(room))["usage"]["total_tokens"] <= 256
    messages = refused("complete", PROMPT, "-n", str(room + 1), "-m", model).messages
    assert all(word in messages for word in ("257", "256", f"--max-tokens {room}"))


def test_a_template_brings_its_stops_and_its_length(olc: Olc, model: str, tmp_path: Path) -> None:
    whole = text_of(olc, model, "Say A now", "-n", "20")
    template = tmp_path / "say.toml"
    stop = whole[6:8]
    template.write_text(
        'description = "Says."\ntemplate = "Say {{ word }}{{ rest }}"\nmax_tokens = 20\n'
        f"stop = [{json.dumps(stop)}]\n[defaults]\nrest = ' now'\n"
    )
    for arguments in (["-p", "word", "A"], ["A"]):
        assert text_of(olc, model, "-t", str(template), *arguments) == whole[: whole.index(stop)]
    assert (
        olc("complete", "-t", str(template), "-p", "word", "-", "--echo", "-n", "0", "-m", model, stdin=b"B").text
        == "Say B now\n"
    )


def test_a_template_with_a_default_for_everything_runs_without_a_prompt(
    olc: Olc, refused: Olc, model: str, tmp_path: Path
) -> None:
    template = tmp_path / "say.toml"
    template.write_text('template = "Say {{ word }} {{ rest }}"\n[defaults]\nword = "A"\nrest = "now"\n')
    run = ("-t", str(template), "--echo", "-n", "0", "-m", model)
    assert olc("complete", *run).text == "Say A now\n"
    assert olc("complete", "-p", "rest", "later", *run).text == "Say A later\n"
    cause, fix = refused("complete", "wet", *run).messages.splitlines()
    assert "(word, rest)" in cause
    assert '-p word "…"' in fix
    assert '-p rest "…"' in olc("complete", "wet", "-p", "word", "B", *run).messages
    template.write_text('template = "Say so"\n')
    assert "no variables" in olc("complete", "wet", *run).messages


# -- streams and signals ---------------------------------------------------------------------------------------------


def test_the_prompt_comes_from_stdin_or_a_file_byte_for_byte(olc: Olc, refused: Olc, model: str, tmp_path: Path) -> None:
    arguments = ("complete", "--echo", "-n", "0", "-m", model)
    assert olc(*arguments, stdin="  ñ 🐋\n".encode()).out == "  ñ 🐋\n\n".encode()
    assert olc(*arguments, "-", stdin=b"x").out == b"x\n"
    file = tmp_path / "in.txt"
    file.write_bytes(b"  two\r\nlines \n\n")
    assert olc(*arguments, "-f", str(file)).out == b"  two\r\nlines \n\n\n"
    with file.open("rb") as stream:
        assert olc(*arguments, stdin=stream.fileno()).out == b"  two\r\nlines \n\n\n"
    assert "0xe9 at offset 3" in refused("complete", "-m", model, stdin=b"caf\xe9").messages


def test_with_a_prompt_stdin_is_left_alone(model: str) -> None:
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, b"the loop's next line\n")
        # The pipe stays open: reading it to the end would hang.
        run = Forked("complete", "x", "--echo", "-n", "0", "-m", model, stdin=read_end)
        assert (run.wait(), run.out) == (0, b"x\n")
        assert os.read(read_end, 100) == b"the loop's next line\n"
    finally:
        os.close(read_end)
        os.close(write_end)


def test_a_reader_that_leaves_amid_the_text_ends_it_quietly(model: str) -> None:
    read_end, write_end = os.pipe()
    run = Forked("complete", PROMPT, "-n", "200", "-m", model, stdout=write_end)
    os.close(write_end)
    os.read(read_end, 1)
    os.close(read_end)
    assert (run.wait(), run.err) == (0, b"")


def test_a_terminal_shows_the_prompt_dim_and_the_completion_after_it(olc: Olc, model: str) -> None:
    arguments = ("complete", PROMPT, "-n", "5", "-m", model, "--dtype", "float32")
    expected = olc(*arguments).text
    assert f"\x1b[2m{PROMPT}\x1b[0m" in on_a_terminal(*arguments, columns=60)
    assert on_a_terminal(*arguments, columns=60, NO_COLOR="1", TERM="dumb") == f"{PROMPT}{visible(expected)}"


def test_control_characters_of_a_prompt_are_shown_escaped_on_a_terminal(model: str) -> None:
    shown = on_a_terminal("complete", "a\x1b]0;owned\x07b [bold]c[/bold]", "-n", "0", "-m", model, columns=60)
    assert r"a\x1b]0;owned\x07b [bold]c[/bold]" in shown
    assert "\x1b]0;" not in shown


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_amid_the_text_ends_with_its_code_and_no_traceback(tmp_path: Path, number: signal.Signals, code: int) -> None:
    # Large enough to be still at work when the signal comes.
    model = write_tiny_llama(tmp_path / "slow", context=20000, layers=6)
    read_end, write_end = os.pipe()
    with (
        Forked("complete", PROMPT, "-n", "15000", "-m", str(model), stdout=write_end) as run,
        os.fdopen(read_end, "rb") as text,
    ):
        os.close(write_end)
        assert text.read(1)
        run.send_signal(number)
        text.read()
        assert run.wait(30) == code
        assert b"Traceback" not in run.err
