"""Sampling options of a single row: over the command's, checked as the command line's are, and typos told."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllama_cli.batch.input.carry import Carry
from openllama_cli.batch.input.field_names import meaning
from openllama_cli.batch.input.row_options import RowOptions, cell_value, read_options
from openllama_cli.batch.input.rows import RowError, RowSettings
from openllama_cli.generation.decode.config import SamplingConfig
from tests.support.reading import code_of, read_object

SETTINGS = RowSettings(defaults={"max_tokens": 5, "stop": ("\n",), "temperature": 0.5})
NOTHING = RowOptions(SETTINGS.sampling)


def test_a_row_replaces_the_commands_options_one_by_one() -> None:
    own = read_options({"prompt": "x", "max_tokens": 9, "top_p": 1}, SETTINGS)
    assert own[:4] == (SamplingConfig(max_tokens=9, stop=("\n",), temperature=0.5, top_p=1.0), False, True, False)


def test_a_row_without_options_has_the_commands() -> None:
    assert read_options({"prompt": "x", "label": 3}, SETTINGS) == NOTHING
    assert read_options({"seed": None, "stop": None, "temperature": None}, SETTINGS) == NOTHING


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_tokens", 0, 0),
        ("max_tokens", 8.0, 8),
        ("seed", 3.0, 3),
        ("logprobs", 0.0, 0),
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
    own = read_options({name: value}, SETTINGS)
    assert getattr(own.sampling, name) == expected
    assert (own.own_seed, own.own_length) == (name == "seed", name == "max_tokens")


def test_a_sampling_option_alone_samples_as_on_the_command_line() -> None:
    assert read_options({"top_p": 0.5}, RowSettings()).sampling.temperature == 1.0


def test_every_name_of_an_option_on_the_command_line_is_its_name_in_a_row() -> None:
    from openllama_cli.commands.batch.command import command

    names = {
        name for parameter in command.params if parameter.name in SamplingConfig.__dataclass_fields__ for name in parameter.opts
    }
    long = {name.removeprefix("--"): None for name in names if name.startswith("--")}
    assert {"temp", "max-gen-len", "top-p"} <= set(long)
    for name in long:
        for spelled in (name, name.replace("-", "_")):
            found = meaning(spelled)
            assert found is not None, spelled
            assert found.kind == "option", spelled


@pytest.mark.parametrize("name", ["max_new_tokens", "max_gen_len", "max-tokens"])
def test_other_names_of_max_tokens_are_known(name: str) -> None:
    assert read_options({name: 3}, SETTINGS).sampling.max_tokens == 3
    assert read_options({name: 3, "max_tokens": None}, SETTINGS).sampling.max_tokens == 3
    with pytest.raises(RowError, match="twice"):
        read_options({name: 3, "max_tokens": 4}, SETTINGS)


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("max_tokens", " 8 ", 8),
        ("temperature", "0.7", 0.7),
        ("temperature", "1e-2", 0.01),
        ("temperature", "", None),
        ("max_tokens", "NaN", None),
        ("stop", "nan", None),
        ("max_tokens", "8.0", 8.0),
        ("max_tokens", "8x", "8x"),
        ("max_tokens", "1_000", "1_000"),
        ("max_tokens", "9" * 5000, "9" * 5000),
        ("echo", "TRUE", True),
        ("stop", "\n", "\n"),
        ("stop", "7", "7"),
        ("stop", '["Q:", "\\n"]', ["Q:", "\n"]),
        ("stop", "[end]", "[end]"),
        ("stop", "", None),
    ],
)
def test_a_cell_is_read_as_its_option_wants_it(option: str, text: str, value: Any) -> None:
    assert cell_value(option, text) == value


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("stop", ["a", "\ud800"], "surrogate"),
        ("stop", "\ud800", "surrogate"),
        ("temperature", "hot", 'temperature is "hot"; give a number'),
        ("temperature", "0.5", 'temperature is "0.5"; write it without quotes: 0.5'),
        ("temperature", " 0,5 ", 'temperature is " 0,5 "; write it with a point: 0.5'),
        ("max_tokens", "1,000", 'max_tokens is "1,000"; give an integer'),
        ("echo", "TRUE", 'echo is "TRUE"; write it without quotes: true'),
        ("echo", 1, "echo is 1; give true or false"),
        ("temperature", -1, "temperature -1.0 is out of range"),
        ("temperature", True, "temperature is true"),
        ("temperature", 10**400, "is too large"),
        ("temperature", 1e999, "Infinity"),
        ("top_p", 0, "top_p 0.0 is out of range"),
        ("top_p", [0.5], "top_p is [0.5]"),
        ("top_k", 1.5, "top_k is 1.5; give an integer"),
        ("top_k", -1, "out of range"),
        ("max_tokens", True, "max_tokens is true"),
        ("max_tokens", "8", 'max_tokens is "8"; write it without quotes: 8'),
        ("max_tokens", "true", 'max_tokens is "true"; give an integer'),
        ("max_tokens", -1, "out of range"),
        ("max_tokens", 8.5, "an integer"),
        ("stop", 5, "stop is 5"),
        ("stop", ["a", None], 'stop is ["a", null]; give a string or a list of strings, such as ["Q:", "END"]'),
        ("stop", "", 'stop is empty; give a text to stop at, such as "stop": "Q:"'),
        ("ban", "", """ban is empty; give a text to ban, such as "ban": "as an AI\""""),
        ("stop", {"a": 1}, "stop is"),
        ("seed", "1", 'seed is "1"'),
        ("logprobs", True, "logprobs is true"),
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
        ("Temperature", "temperature"),
        ("temprature", "temperature"),
        ("sotp", "stop"),
        ("stops", "stop"),
        ("seeds", "seed"),
        ("n_predict", "max_tokens"),
        ("repeat_penalty", "repetition_penalty"),
        ("response_format", "json_schema"),
        ("presence_penality", "presence_penalty"),
        ("log_prob", "logprobs"),
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
    ["text", "label", "top", "step", "term", "need", "customer_id", "prompts", "max", "id", "user", "models", "x" * 10_000],
)
def test_data_of_another_name_is_let_through(name: str) -> None:
    assert read_options({"prompt": "x", name: 1}, SETTINGS) == NOTHING


def test_a_field_that_is_carried_by_name_is_data_whatever_it_is_called() -> None:
    settings = RowSettings(carry=Carry.parse("all,seeds,n,temperature"))
    assert read_options({"seeds": 3, "n": 5, "temperature": "hot"}, settings) == RowOptions(settings.sampling)


def test_a_row_may_name_the_model_of_the_run() -> None:
    assert read_options({"model": "3b"}, RowSettings(model="3b")) == RowOptions(SamplingConfig())
    assert read_options({"model": "x"}, RowSettings(), openai=True) == RowOptions(SamplingConfig())
    with pytest.raises(RowError, match="--carry all,model") as refused:
        read_options({"model": "x"}, RowSettings(model="3b"))
    assert refused.value.code == "unsupported_option"


def test_options_that_do_not_exist_here_are_refused_unless_they_ask_for_nothing() -> None:
    for name, value in {
        "stream": 1,
        "suffix": "x",
        "length_penalty": 0.5,
        "no_repeat_ngram_size": 3,
    }.items():
        with pytest.raises(RowError, match=name) as refused:
            read_options({name: value}, SETTINGS)
        assert refused.value.code == "unsupported_option"
    nothing = {"best_of": 1, "n": 1.0, "num-samples": None, "length_penalty": 1, "no_repeat_ngram_size": 0}
    assert read_options(nothing, SETTINGS) == NOTHING


def test_several_completions_of_a_row_are_sampled() -> None:
    found = read_options({"n": 2.0, "best_of": 3}, RowSettings())
    assert (found.samples, found.best_of, found.sampling.temperature) == (2, 3, 1.0)
    assert read_options({"num_samples": 2, "temperature": 0.5}, SETTINGS).sampling.temperature == 0.5
    assert read_options({"n": 2, "temperature": 0}, SETTINGS, openai=True).samples == 2
    several = RowSettings(defaults={"temperature": 0.7}, samples=4)
    assert read_options({}, several).best_of == 4
    assert read_options({"n": 1}, several).best_of == 1
    for wrong in ({"n": 0}, {"n": "2"}, {"n": 2, "temperature": 0}, {"n": 2, "best_of": 1}, {"best_of": 5000}):
        with pytest.raises(RowError, match=r"(n|best_of) is") as refused:
            read_options(wrong, SETTINGS)
        assert refused.value.code == "bad_option"


def test_penalties_bans_and_ends_of_a_row() -> None:
    given = {
        "frequency_penalty": 0.5,
        "presence_penalty": 1,
        "logit_bias": {"13": -100, " Paris": 2.5},
        "dry-multiplier": 0.8,
        "min_tokens": 2.0,
        "ignore_eos": True,
        "stop_token_ids": [13],
        "ban": ["x", "y"],
        "stop_at": "sentence",
        "loop_guard": False,
    }
    found = read_options(given, RowSettings(guarded=True)).sampling
    assert found == SamplingConfig(
        frequency_penalty=0.5,
        presence_penalty=1.0,
        logit_bias=((13, -100.0), (" Paris", 2.5)),
        dry_multiplier=0.8,
        min_tokens=2,
        ignore_eos=True,
        stop_token_ids=(13,),
        ban=("x", "y"),
        stop_at="sentence",
    )
    assert read_options({"max_tokens": 5}, RowSettings(guarded=True)).sampling.loop_guard
    assert not read_options({"temperature": 1}, RowSettings(guarded=True)).sampling.loop_guard
    for name, value in {"stop_at": "word", "ignore_eos": "true", "min_tokens": "3", "stop_token_ids": "13"}.items():
        with pytest.raises(RowError, match=name) as refused:
            read_options({name: value}, SETTINGS)
        assert refused.value.code == "bad_option"


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
        sampling = read_options(fields, SETTINGS, openai=openai).sampling
    except RowError as error:
        code = error.code
    assert isinstance(sampling, SamplingConfig) or code in ("bad_option", "unsupported_option", "invalid_unicode")


def test_thousands_of_different_field_names_are_read_as_well() -> None:
    for number in range(200):
        sampling = read_options({f"field {number}": 1, "x" * 2000: 2, "max_tokens": number}, SETTINGS).sampling
        assert sampling.max_tokens == number
