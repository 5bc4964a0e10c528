"""What a constraint accepts, what it refuses and in which words; against Python's `re` and `json`."""

import hashlib
import json
import re
import subprocess
import sys
from typing import Any

import pytest

from openllama_cli.errors import UsageError
from openllama_cli.generation.constraints import library
from openllama_cli.generation.constraints.config import Constraint, Kind, as_source

NODE: dict[str, Any] = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}


PATTERNS = (r" \d{4}", r"a/b", r"[\w.]+@\w+\.(com|org)", "(?i)yes|no", r"", r"\\d", "a\nb?", r"(a|b)*abb", r"^x{2,3}$")
TEXTS = (
    "",
    " 1234",
    " 12345",
    "1234",
    "a/b",
    "m.2@x.org",
    "m@@x.org",
    "YES",
    "no",
    "\\d",
    "a\n",
    "a\nb",
    "abb",
    "babb",
    "xx",
    "xxxx",
)


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_a_regular_expression_matches_what_pythons_does(pattern: str) -> None:
    constraint = Constraint("regex", pattern)
    for text in TEXTS:
        assert constraint.matches(text) == bool(re.fullmatch(pattern, text)), text
        if constraint.matches(text):
            assert all(constraint.begins(text[:end]) for end in range(len(text) + 1))


def test_a_digit_is_one_of_ten() -> None:
    assert not Constraint("regex", r"\d").matches("٣")
    assert Constraint("regex", r"\D").matches("٣")


def test_a_document_may_be_written_on_one_line_or_on_several() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}, "required": ["a"]}
    constraint = Constraint("json_schema", json.dumps(schema))
    document = {"a": [1, 2]}
    for text in (json.dumps(document), json.dumps(document, separators=(",", ":")), json.dumps(document, indent=4)):
        assert all(constraint.matches(before + text) for before in ("", " ", "\n"))
    assert not constraint.matches('{"a": "b"}')
    assert not constraint.begins('{"a":  ')
    assert not constraint.begins("  {")
    assert constraint.begins('{"a": [')
    assert not constraint.matches('{"a": [')


def test_equal_constraints_are_equal_and_hashed_by_their_source() -> None:
    one, other = Constraint("regex", "a+"), Constraint("regex", "a+")
    assert {one: 1}[other] == 1
    assert one.sha256 == hashlib.sha256(b"a+").hexdigest()
    assert one != Constraint("grammar", "start: /a+/")


def test_a_schema_is_a_text_or_an_object() -> None:
    assert as_source("json_schema", {"b": 1, "a": "é"}) == '{"b": 1, "a": "é"}'
    assert as_source("json_schema", True) == "true"
    assert as_source("regex", "a") == "a"
    assert as_source("regex", {"a": 1}) is None
    assert as_source("json_schema", 3) is None
    assert as_source("json_schema", {"enum": {1, 2}}) is None
    itself: dict[str, Any] = {}
    itself["not"] = itself
    assert as_source("json_schema", itself) is None
    deep: dict[str, Any] = {}
    for _ in range(3000):
        deep = {"not": deep}
    with pytest.raises(UsageError, match="it is nested too deeply"):
        as_source("json_schema", deep)


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        ("regex", "(?=x)y", "look-around, including look-ahead and look-behind, is not supported, at character 1: (?="),
        ("regex", r"ab(c", "unclosed group, at character 3: ("),
        ("regex", r"\bfoo", r"look-arounds are not supported, and \b is one"),
        ("regex", r"(a)\1", r"backreferences are not supported, at character 4: \1"),
        ("regex", r"\d{2,1}", "invalid repetition count range, the start must be <= the end, at character 3: {2,1}"),
        ("regex", "a\\", "it ends in a backslash, which escapes nothing"),
        ("regex", "\ud800", "it is not valid Unicode"),
        ("regex", "x" * 1_000_001, "1,000,001 characters"),
        ("json_schema", '{"type"', "it is not JSON: Expecting ':' delimiter: line 1 column 8"),
        ("json_schema", "[]", "a schema is an object, true or false"),
        ("json_schema", "[" * 100_000, "it is nested too deeply"),
        ("json_schema", '{"properties": {"a": {"not": {}}}}', '"not" is not supported, at #/properties/a'),
        ("json_schema", '{"type": "objct"}', "Invalid type: objct"),
        ("json_schema", '{"type": "string", "pattern": "a(?=b)"}', "at character 2 of the pattern a(?=b): (?="),
        ("json_schema", '{"$ref": "http://localhost/a"}', "Resource 'http://localhost/a' is not present"),
        ("json_schema", json.dumps({"items": [{"$ref": "#"}] * 501}), "more than 500 references"),
        ("json_schema", '{"const": NaN}', "it has a number that JSON does not have"),
        ("json_schema", '{"const": [1e999]}', "it has a number that JSON does not have"),
        *(("json_schema", '{"anyOf":[' * depth + "{}" + "]}" * depth, "it is nested too deeply") for depth in (120, 480)),
        ("json_schema", '{"type": "string", "pattern": "%s"}' % ("(" * 999), "of the pattern " + "(" * 80 + "…: "),
        ("grammar", 'start: "a" b', 'unknown name: "b", in line 1'),
        ("grammar", 'start: a\na: "x" ]', "in line 2"),
        ("grammar", 'root ::= "a"', "line 1 has ::= and is GBNF or EBNF"),
        ("grammar", 'start: "a"\n  | <|end|>', "line 2 names a token"),
        ("grammar", "start[max_tokens=3]: /a/", "line 1 has max_tokens"),
        ("grammar", "\n".join(f'r{place}: "a"' for place in range(1001)), "more than 1,000 rules"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_place(kind: Kind, source: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Constraint(kind, source)
    assert caught.value.code == "constraint_invalid"
    assert words in caught.value.cause
    assert caught.value.cause.startswith("--" + kind.replace("_", "-"))


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("regex", "[a&&b]"),
        ("regex", "x[a&&b]"),
        ("json_schema", "false"),
        ("json_schema", '{"type": "string", "minLength": 5, "maxLength": 2}'),
        ("json_schema", '{"type": "object", "properties": {"a": false}, "required": ["a"]}'),
        ("json_schema", json.dumps({"$defs": {"node": NODE}, "$ref": "#/$defs/node"})),
        ("grammar", "start: /[a&&b]/"),
    ],
)
def test_what_no_text_matches_is_refused(kind: Kind, source: str) -> None:
    with pytest.raises(UsageError) as caught:
        Constraint(kind, source)
    assert caught.value.code == "constraint_unsatisfiable"


def test_documents_that_never_end_are_found_whatever_leads_to_them() -> None:
    itself = {"$ref": "#"}
    # Each of these opens the next twice: 2 ** 40 ways.
    ladder = {f"d{place}": {"anyOf": [{"$ref": f"#/$defs/d{place + 1}"}] * 2} for place in range(40)}
    schemas: list[dict[str, Any]] = [
        {"type": ["object"], "properties": {"a": itself}, "required": ["a"]},
        {"type": "object", "additionalProperties": itself, "required": ["a"]},
        {"type": ["object", "array"], "properties": {"a": itself}, "required": ["a"], "items": itself, "minItems": 1},
        {"$defs": ladder | {"d40": {"$ref": "#/$defs/d40"}}, "$ref": "#/$defs/d0"},
    ]
    for schema in schemas:
        with pytest.raises(UsageError) as caught:
            Constraint("json_schema", json.dumps(schema))
        assert caught.value.code == "constraint_unsatisfiable"
    for changes in ({"type": ["object", "null"]}, {"required": []}, {"patternProperties": {"^a$": {}}}):
        Constraint("json_schema", json.dumps(schemas[1] | changes))
    Constraint("json_schema", json.dumps({"$defs": ladder | {"d40": {"type": "null"}}, "$ref": "#/$defs/d0"}))


def test_a_list_that_ends_somewhere_is_met() -> None:
    last = {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}
    node = NODE | {"properties": {"next": last}}
    assert Constraint("json_schema", json.dumps({"$defs": {"node": node}, "$ref": "#/$defs/node"})).matches(
        '{"next": {"next": null}}'
    )


def test_a_hostile_pattern_takes_no_time() -> None:
    """These take seconds to minutes with llguidance's own limits, or with a matcher that goes back."""
    for pattern in ("(a{1000}){1000}", "(a*)*b", "(.*a.{20})", "a?" * 500 + "a" * 500):
        Constraint("regex", pattern)


def test_long_sources_do_not_pile_up_in_memory() -> None:
    made = []

    @library.remembered(count=64)
    def compiled(source: str) -> int:
        made.append(source[:1])
        return len(made)

    for turn in range(2):
        for place in range(30):
            compiled(chr(65 + place) * (30_000 if place % 3 == 0 else 300))
        assert len(made) == 30 + turn * 10, "the long ones are made anew"
    assert compiled("B" * 300) == 2


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UsageError) as caught:
        library.library()
    assert caught.value.code == "constraint_package"
    assert caught.value.remedy.startswith("pip install 'llguidance>=1.9,<2'")


def test_nothing_is_imported_before_a_constraint_is_made() -> None:
    code = "import sys, openllama_cli.generation.constraints.config; print('llguidance' in sys.modules, 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False False\n"
