"""Sampling options of a single row: over the command's, checked as the command line's are, and typos told."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllama_cli.batch.input.row_options import read_options
from openllama_cli.batch.input.rows import RowError, RowSettings
from openllama_cli.generation.decode.config import SamplingConfig
from tests.support.reading import code_of, read_object

SETTINGS = RowSettings(defaults={"max_tokens": 5, "stop": ("\n",), "temperature": 0.5})


def test_a_row_replaces_the_commands_options_one_by_one() -> None:
    sampling, own_seed = read_options({"prompt": "x", "max_tokens": 9, "top_p": 1}, SETTINGS)
    assert sampling == SamplingConfig(max_tokens=9, stop=("\n",), temperature=0.5, top_p=1.0)
    assert not own_seed


def test_a_row_without_options_has_the_commands() -> None:
    assert read_options({"prompt": "x", "label": 3}, SETTINGS) == (SETTINGS.sampling, False)
    assert read_options({"seed": None, "stop": None, "temperature": None}, SETTINGS) == (SETTINGS.sampling, False)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_tokens", 0, 0),
        ("top_k", 3, 3),
        ("min_p", 0.1, 0.1),
        ("repetition_penalty", 1.5, 1.5),
        ("seed", -(10**30), -(10**30)),
        ("stop", "END", ("END",)),
        ("stop", ["a", "b"], ("a", "b")),
        ("stop", [], ()),
        ("logprobs", 2, 2),
        ("temperature", 0, 0.0),
    ],
)
def test_every_option_can_be_given_by_a_row(name: str, value: Any, expected: Any) -> None:
    sampling, own_seed = read_options({name: value}, SETTINGS)
    assert getattr(sampling, name) == expected
    assert own_seed == (name == "seed")


def test_a_sampling_option_alone_samples_as_on_the_command_line() -> None:
    assert read_options({"top_p": 0.5}, RowSettings())[0].temperature == 1.0


@pytest.mark.parametrize("name", ["max_new_tokens", "max_gen_len"])
def test_other_names_of_max_tokens_are_known(name: str) -> None:
    assert read_options({name: 3}, SETTINGS)[0].max_tokens == 3
    assert read_options({name: 3, "max_tokens": None}, SETTINGS)[0].max_tokens == 3
    with pytest.raises(RowError, match="twice"):
        read_options({name: 3, "max_tokens": 4}, SETTINGS)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("stop", ["a", "\ud800"], "surrogate"),
        ("stop", "\ud800", "surrogate"),
        ("temperature", "hot", "temperature is 'hot'; give a number"),
        ("temperature", -1, "temperature -1.0 is out of range"),
        ("temperature", True, "temperature is True"),
        ("temperature", 10**400, "is too large"),
        ("temperature", 1e999, "Infinity"),
        ("top_p", 0, "top_p 0.0 is out of range"),
        ("top_p", [0.5], "top_p is [0.5]"),
        ("top_k", 1.5, "give an integer"),
        ("top_k", -1, "out of range"),
        ("max_tokens", True, "max_tokens is True"),
        ("max_tokens", "8", "max_tokens is '8'"),
        ("max_tokens", -1, "out of range"),
        ("max_tokens", 8.0, "an integer"),
        ("stop", 5, "stop is 5"),
        ("stop", ["a", 5], "stop is"),
        ("stop", "", "stop is empty"),
        ("stop", {"a": 1}, "stop is"),
        ("seed", "1", "seed is '1'"),
        ("logprobs", True, "logprobs is True"),
        ("logprobs", 101, "out of range"),
        ("repetition_penalty", 0, "out of range"),
    ],
)
def test_a_wrong_value_is_an_error_row(tmp_path: Path, name: str, value: Any, said: str) -> None:
    row = read_object(tmp_path, {"custom_id": "a", "prompt": "x", name: value})
    # json.dumps writes Infinity.
    assert code_of(row) == {"Infinity": "invalid_json", "surrogate": "invalid_unicode"}.get(said, "bad_option")
    assert row.error is not None
    assert "--" not in row.error.message
    assert said in row.error.message


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_token", "max_tokens"),
        ("maxTokens", "max_tokens"),
        ("max-tokens", "max_tokens"),
        ("Temperature", "temperature"),
        ("temprature", "temperature"),
        ("top-p", "top_p"),
        ("topK", "top_k"),
        ("logprob", "logprobs"),
        ("repetition_penality", "repetition_penalty"),
        ("max_new_token", "max_new_tokens"),
        ("customId", "custom_id"),
        ("PROMPT", "prompt"),
    ],
)
def test_a_typo_is_reported(name: str, meant: str) -> None:
    with pytest.raises(RowError, match=f"did you mean {meant}") as refused:
        read_options({"prompt": "x", name: 1}, SETTINGS)
    assert refused.value.code == "bad_option"


@pytest.mark.parametrize(
    "name",
    ["text", "label", "stops", "seeds", "top", "step", "n", "stream", "customer_id", "prompts", "max", "id", "x" * 10_000],
)
def test_data_of_another_name_is_let_through(name: str) -> None:
    assert read_options({"prompt": "x", name: 1}, SETTINGS) == (SETTINGS.sampling, False)


def test_options_that_do_not_exist_here_are_refused_unless_they_ask_for_nothing() -> None:
    for name, value in {"best_of": 3, "presence_penalty": 0.5, "frequency_penalty": "0", "logit_bias": {"5": 1}}.items():
        with pytest.raises(RowError, match=name) as refused:
            read_options({name: value}, SETTINGS)
        assert refused.value.code == "unsupported_option"
    nothing = {"best_of": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}}
    assert read_options(nothing, SETTINGS) == (SETTINGS.sampling, False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["max_tokens", "temperature", "top_p", "top_k", "stop", "seed", "logprobs", "n", "best_of"]) | st.text()


@given(fields=st.dictionaries(NAMES, JSON, max_size=4), openai=st.booleans())
def test_no_value_is_a_bug(fields: dict[str, Any], openai: bool) -> None:
    code, sampling = None, None
    try:
        sampling, _ = read_options(fields, SETTINGS, openai=openai)
    except RowError as error:
        code = error.code
    assert isinstance(sampling, SamplingConfig) or code in ("bad_option", "unsupported_option", "invalid_unicode")


def test_thousands_of_different_field_names_are_read_as_well() -> None:
    for number in range(200):
        sampling, _ = read_options({f"field {number}": 1, "x" * 2000: 2, "max_tokens": number}, SETTINGS)
        assert sampling.max_tokens == number
