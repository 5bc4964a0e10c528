"""OUTPUT as a table: whatever is in a field comes back."""

import csv
import io
import json
from pathlib import Path

import pytest

from openllama_cli.batch.input.carry import Carry
from openllama_cli.batch.output.formats import encode
from openllama_cli.errors import UsageError


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
@pytest.mark.parametrize("text", ["a\rb", "\r", "a\r\n", 'a"b', "a\nb", "a,b\tc"])
def test_a_field_of_a_table_comes_back(name: str, delimiter: str, text: str) -> None:
    line = json.dumps({"custom_id": "a", "index": 0, "prompt": text, "text": text}).encode()
    content = b"".join(encode(Path(name), lambda: [line])).decode()
    [row] = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter)
    assert (row["prompt"], row["text"]) == (text, text)


@pytest.mark.parametrize("text", ["a\rb", "a\nb", ""])
def test_names_to_carry_stand_on_one_line(text: str) -> None:
    with pytest.raises(UsageError):
        Carry.parse(text)
