"""JSON Lines: prompts, ids, templates, and every way in which a line can be wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.batch.input.carry import Carry
from openllama_cli.batch.input.rows import RowSettings
from openllama_cli.errors import UsageError
from openllama_cli.prompt_templates import PromptTemplate, load_template
from tests.support.reading import code_of, read_object, read_text

GREETING = PromptTemplate(
    "greeting",
    "{{ word }} {{ name }}{{ mark }}",
    defaults={"mark": "!", "name": "you"},
    variables=("word", "name", "mark"),
)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("hello", "invalid_json", "column 1"),
        ('{"prompt": "a"', "invalid_json", "column 15"),
        ('{"prompt": "a"} {"prompt": "b"}', "invalid_json", "column 17"),
        ("{'prompt': 'a'}", "invalid_json", "column 2"),
        pytest.param(json.dumps(dict.fromkeys(map(str, range(1001)))), "invalid_json", "1000 are the most", id="fields"),
        ('{"prompt": "a", "temperature": NaN}', "invalid_json", "NaN"),
        ('{"prompt": "a", "temperature": -Infinity}', "invalid_json", "Infinity"),
        ('{"prompt": "a", "seed": ' + "9" * 5000 + "}", "invalid_json", "4300"),
        ("[" * 100_000, "invalid_json", "deeply"),
        ('"prompt"', "invalid_type", "a string"),
        ("7", "invalid_type", "a number"),
        ("null", "invalid_type", "null"),
        ('["prompt"]', "invalid_type", "a list"),
        ("{}", "missing_prompt", "no other fields"),
        ('{"text": "a", "idea": 1}', "missing_prompt", "'text', 'idea'"),
        ('{"prompt": null}', "missing_prompt", "prompt is null; give a string"),
        ('{"prompt": "a", "x": 1e999}', "invalid_json", "too large"),
        ('{"prompt": "a", "x": ' + "[" * 200 + "]" * 200 + "}", "invalid_json", "deeply"),
        ('{"prompt": 7}', "invalid_type", "a number"),
        ('{"prompt": true}', "invalid_type", "true or false"),
        ('{"prompt": ["a"]}', "invalid_type", "a list"),
        ('{"prompt": {"a": 1}}', "invalid_type", "an object"),
        ('{"prompt": "ab\\ud800"}', "invalid_unicode", "character 3"),
        ('{"prompt": "a", "custom_id": "\\udc00"}', "invalid_unicode", "custom_id"),
        ('{"prompt": "a", "custom_id": 1.5}', "invalid_type", "custom_id"),
        ('{"prompt": "a", "custom_id": true}', "invalid_type", "custom_id"),
        ('{"prompt": "a", "custom_id": ["x"]}', "invalid_type", "custom_id"),
    ],
)
def test_a_wrong_line_is_an_error_row_that_says_what_is_wrong(tmp_path: Path, line: str, code: str, said: str) -> None:
    before, row, after = read_text(tmp_path, ".jsonl", f'{{"prompt": "x"}}\n{line}\n{{"prompt": "y"}}\n')
    assert (before.prompt, after.prompt) == ("x", "y")
    assert code_of(row) == code
    assert row.error is not None
    assert said in row.error.message
    assert len(row.error.message) <= 300
    assert (row.index, row.custom_id, row.line) == (1, "row-1", 2)


@pytest.mark.parametrize(
    ("given", "custom_id"),
    [("a b", "a b"), ("🦙", "🦙"), (7, "7"), (-1, "-1"), (None, "row-0"), ("", "row-0"), ("row-9", "row-9")],
)
def test_an_id_is_a_text_or_a_whole_number(tmp_path: Path, given: Any, custom_id: str) -> None:
    assert read_object(tmp_path, {"custom_id": given, "prompt": "x"}).custom_id == custom_id


def test_an_error_row_keeps_its_id(tmp_path: Path) -> None:
    assert read_object(tmp_path, {"custom_id": "mine", "prompt": 7}).custom_id == "mine"


def test_an_error_row_keeps_its_prompt_and_its_other_fields(tmp_path: Path) -> None:
    row = read_object(tmp_path, {"id": 5, "prompt": "The largest animal is", "max_tokens": "5", "label": 1})
    assert (code_of(row), row.prompt, row.custom_id) == ("bad_option", "The largest animal is", "5")
    assert row.carried == {"label": 1}
    row = read_object(tmp_path, {"word": "Hi", "seed": "x"}, RowSettings(GREETING))
    assert (code_of(row), row.prompt) == ("bad_option", "Hi you!")
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    row = read_object(tmp_path, {"id": "a", "prompt": "x", "label": 1, "deep": deep})
    assert (code_of(row), row.prompt, row.custom_id, row.carried) == ("invalid_json", "x", "a", {"label": 1})


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path: Path) -> None:
    rows = read_text(tmp_path, ".jsonl", '\n{"prompt": "a"}\r\n \t\r\n\n{"prompt": "b"}\n\n')
    assert [(row.index, row.prompt, row.line) for row in rows] == [(0, "a", 2), (1, "b", 5)]


def test_spaces_around_an_object_and_fields_of_other_programs_do_no_harm(tmp_path: Path) -> None:
    [row] = read_text(tmp_path, ".jsonl", '  {"prompt": " a ", "label": 1, "top": [1], "step": "x", "need": null} \n')
    assert code_of(row) is None
    assert row.prompt == " a "


def test_the_fields_fill_the_variables_of_a_template(tmp_path: Path) -> None:
    settings = RowSettings(GREETING)
    assert read_object(tmp_path, {"word": "Hi", "name": "Ann"}, settings).prompt == "Hi Ann!"
    assert read_object(tmp_path, {"word": "Hi", "prompt": "not used", "other": 1}, settings).prompt == "Hi you!"
    assert read_object(tmp_path, {"word": "", "name": None, "mark": 7}, settings).prompt == " you7"


def test_lists_reach_a_template_that_loops(tmp_path: Path) -> None:
    fields = {"text": "Fine.", "labels": ["good", "bad"], "examples": [{"text": "Oh.", "label": "bad"}]}
    prompt = read_object(tmp_path, fields, RowSettings(load_template("classify"))).prompt
    assert prompt is not None
    assert "good, bad" in prompt
    assert "Text: Oh.\nClass: bad" in prompt


def test_a_missing_variable_is_an_error_row_that_names_it(tmp_path: Path) -> None:
    row = read_object(tmp_path, {"name": "Ann", "wort": "Hi"}, RowSettings(GREETING))
    assert code_of(row) == "template_error"
    assert row.error is not None
    assert "word" in row.error.message
    assert "'name', 'wort'" in row.error.message
    assert "-p" not in row.error.message


def test_a_template_that_fails_on_a_value_is_an_error_row(tmp_path: Path) -> None:
    row = read_object(tmp_path, {"question": ["a", "b"], "context": {"x": 1}}, RowSettings(load_template("qa")))
    assert code_of(row) is None  # lists and objects are written as Python writes them
    failing = PromptTemplate("t", "{{ 1 / x }}", variables=("x",))
    assert code_of(read_object(tmp_path, {"x": 0}, RowSettings(failing))) == "template_error"
    assert code_of(read_object(tmp_path, {"x": "\ud800"}, RowSettings(GREETING))) == "template_error"
    assert code_of(read_object(tmp_path, {"word": "\ud800"}, RowSettings(GREETING))) == "invalid_unicode"


def test_a_variable_called_like_an_option_is_the_templates(tmp_path: Path) -> None:
    weather = PromptTemplate("weather", "{{ temperature }} degrees", variables=("temperature",))
    row = read_object(tmp_path, {"temperature": "thirty"}, RowSettings(weather))
    assert row.prompt == "thirty degrees"
    assert row.sampling is not None
    assert row.sampling.greedy


def test_what_olc_has_no_use_for_is_carried(tmp_path: Path) -> None:
    fields = {"id": 7, "prompt": "x", "text": "reference", "label": [1, {"a": None}], "temp": 0.5, "echo": True}
    row = read_object(tmp_path, fields)
    assert row.custom_id == "7"
    assert row.carried == {"input_text": "reference", "label": [1, {"a": None}]}
    assert row.sampling is not None
    assert (row.sampling.temperature, row.echo) == (0.5, True)
    assert read_object(tmp_path, fields, RowSettings(carry=Carry.parse("none"))).carried == {}
    chosen = read_object(tmp_path, fields, RowSettings(carry=Carry.parse("id,temp")))
    assert (chosen.custom_id, chosen.carried, chosen.sampling) == ("row-0", {"id": 7, "temp": 0.5}, RowSettings().sampling)
    # A row that is wrong is told from others by what it carries, too.
    assert read_object(tmp_path, fields | {"temp": "hot"}).carried == row.carried


def test_an_id_that_cannot_be_one_is_carried(tmp_path: Path) -> None:
    row = read_object(tmp_path, {"id": {"a": 1}, "prompt": "x"})
    assert (row.custom_id, row.carried) == ("row-0", {"id": {"a": 1}})
    row = read_object(tmp_path, {"id": 1, "custom_id": "a", "prompt": "x"})
    assert (row.custom_id, row.carried) == ("a", {"id": 1})


def test_variables_of_the_template_are_not_carried_unless_they_are_named(tmp_path: Path) -> None:
    fields = {"word": "Hi", "name": "Ann", "prompt": "not used"}
    assert read_object(tmp_path, fields, RowSettings(GREETING)).carried == {"input_prompt": "not used"}
    named = read_object(tmp_path, fields, RowSettings(GREETING, carry=Carry.parse("name")))
    assert (named.prompt, named.carried) == ("Hi Ann!", {"name": "Ann"})


@pytest.mark.parametrize("text", ["", ",", "a,,b", "none,a", "a\nb"])
def test_a_choice_of_fields_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--carry"):
        Carry.parse(text)


def test_names_with_commas_can_be_chosen() -> None:
    assert Carry.parse('all,"a,b"') == Carry(True, frozenset({"a,b"}))
