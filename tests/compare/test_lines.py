"""A line is the document that `json` makes of it, or none where it makes none."""

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openllama_cli.compare.lines import Lines, document_of
from openllama_cli.errors import UsageError


def outcome(read: Any, line: bytes) -> str:
    """A text that tells types, signs of zeros and the order of keys too."""
    try:
        return repr(read(line))
    except (ValueError, RecursionError):
        return "none"


def standard(line: bytes) -> Any:
    return json.loads(line.decode().removeprefix("\ufeff"), parse_constant=lambda name: None)


VALUES = [
    *("NaN", "Infinity", "-Infinity", "[NaN, 1e400]", "nan", "-NaN", "nul", "True"),
    *("-0", "-0.0", "0e1", "-0E-0", "1e400", "-1e400", "1e-400", "5e-324", "1E5", "2.2250738585072011e-308"),
    *("01", "-", "-01", ".5", "1.", "1.e5", "1e", "+1", "0x10", "1_000", "- 1"),
    *("9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616"),
    *("-9223372036854775808", "-9223372036854775809", "1234567890123456789012", "1" * 400, "1" * 5000, "-" + "9" * 30),
    *(
        "0.1234567890123456789012",
        f"0.{'3' * 900}",
        f"{'1' * 400}.5",
        "-0.00012345678901234567",
        f"1e{'9' * 30}",
        f"1e-{'9' * 30}",
    ),
    *(
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\ud83d\\ude00"',
        '"\\ud83dx"',
        '"\\u0000"',
        '"\\u00g0"',
        '"\\x"',
        '"a\n"',
        '"\t"',
        '"\x7f"',
    ),
    *(
        '"\u2028\ufeff\uffff"',
        "\u00a01",
        "\x0c1",
        "1\x00",
        "'a'",
        '"a',
        "[1,]",
        "[1 2]",
        "{a: 1}",
        '{"a" 1}',
        '{"a": 1,}',
        "[",
        "{",
        "",
    ),
    *('{"a": 1, "b": 2, "a": 3}', '{"": {"": []}}', '{"b": 1, "a": {"\\u0062": 2, "b": NaN}}'),
    *("[" * depth + "]" * depth for depth in (10, 500, 100_000)),
    '{"a":' * 500 + "1" + "}" * 500,
    "[" * 100_000,
]


@pytest.mark.parametrize(
    "around", ["?", '{"a": ?, "b": [1.5, "x"]}', "\ufeff [0,?]\r\n", '{"a": 1e5, "b":?}', "[\t?]", "? 1", '["?"]']
)
def test_a_document_is_what_json_makes_of_it(around: str) -> None:
    for value in VALUES:
        line = around.replace("?", value).encode()
        assert outcome(document_of, line) == outcome(standard, line), line[:80]


@pytest.mark.parametrize(
    "line",
    [b'{"a": "\xff"}', b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xf4\x90\x80\x80"', b"\xef\xbb\xbf\xef\xbb\xbf1", b"\xff\xfe1\x00"],
)
def test_what_is_not_utf8_is_no_document(line: bytes) -> None:
    assert outcome(document_of, line) == outcome(standard, line) == "none"


NUMBERS = st.integers() | st.integers(-(1 << 70), 1 << 70) | st.floats()
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=10,
)


@settings(max_examples=60)
@given(DOCUMENTS, st.booleans(), st.integers(0, 200), st.binary(max_size=1))
def test_so_are_any_documents_and_damaged_ones(document: Any, ascii_only: bool, place: int, damage: bytes) -> None:
    line = json.dumps(document, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    for one in (line, line[:place], line[:place] + damage + line[place + 1 :]):
        assert outcome(document_of, one) == outcome(standard, one)


@pytest.mark.parametrize("depth", [900, 960, 990, 1020, 1030, 5000])
def test_a_custom_id_of_any_depth_is_read_or_refused(depth: int) -> None:
    line = f'{{"custom_id": {"[" * depth}{"]" * depth}, "text": "x"}}'.encode()
    try:
        found = [entry.key for entry, _, _ in Lines("a.jsonl", io.BytesIO(line)).entries()]
    except UsageError:
        assert depth > 900
    else:
        assert found == ["[" * depth + "]" * depth]
