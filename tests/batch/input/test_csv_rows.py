"""CSV and TSV: quoting by RFC 4180, headers, and records that are wrong."""

from pathlib import Path

import pytest

from openllama_cli.batch.input.carry import Carry
from openllama_cli.batch.input.rows import Row, RowSettings
from openllama_cli.errors import UsageError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.prompt_templates import PromptTemplate, load_template
from tests.support.reading import code_of, read_text


def prompts(rows: list[Row]) -> list[str | None]:
    return [row.prompt for row in rows]


def test_quoted_fields_hold_separators_quotes_and_line_breaks(tmp_path: Path) -> None:
    rows = read_text(tmp_path, ".csv", 'custom_id,prompt\na,"one, ""two""\nthree\r\nfour"\nb,5" disk\nc,""\n')
    assert prompts(rows) == ['one, "two"\nthree\r\nfour', '5" disk', ""]
    assert [(row.custom_id, row.line) for row in rows] == [("a", 2), ("b", 5), ("c", 6)]


def test_columns_are_found_by_name_and_the_rest_is_carried(tmp_path: Path) -> None:
    rows = read_text(tmp_path, ".tsv", "country\t prompt \tcustom_id\t\ttext\nFR\tone\tx\t9\ta\n\ttwo\t\t\t\n")
    assert prompts(rows) == ["one", "two"]
    assert [row.custom_id for row in rows] == ["x", "row-1"]
    assert [row.carried for row in rows] == [{"country": "FR", "input_text": "a"}, {"country": "", "input_text": ""}]
    assert all(row.sampling is not None and row.sampling.greedy for row in rows)


def test_columns_that_are_options_are_used_as_in_json_lines(tmp_path: Path) -> None:
    rows = ['a,one,8,0.5,"[""Q:"", ""\\n""]",true,1', "b,two,,,,,", "c,three,x,,,,", "d,four,,,,,0"]
    table = "\n".join(["id,prompt,max-tokens,temp,stop,echo,n", *rows])
    first, second, third, fourth = read_text(tmp_path, ".csv", table)
    assert first.sampling == SamplingConfig(8, 0.5, stop=("Q:", "\n"))
    assert (first.custom_id, first.echo, first.carried) == ("a", True, {})
    assert (second.sampling, second.echo) == (SamplingConfig(), False)
    assert (code_of(third), code_of(fourth)) == ("bad_option", "bad_option")
    assert third.error is not None
    assert 'max_tokens is "x"; give an integer' in third.error.message
    assert [row.prompt for row in (first, second, third, fourth)] == ["one", "two", "three", "four"]


def test_a_table_of_pandas_with_missing_values_is_read_as_it_was_meant(tmp_path: Path) -> None:
    table = "prompt,max_tokens,seed,stop,n\na,5.0,,nan,1.0\nb,NaN,7.0,END,\n"
    first, second = read_text(tmp_path, ".csv", table)
    assert (first.sampling, first.own_seed) == (SamplingConfig(5), False)
    assert (second.sampling, second.own_seed) == (SamplingConfig(seed=7, temperature=1.0, stop=("END",)), True)


def test_a_column_that_looks_like_an_option_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean temperature") as refused:
        read_text(tmp_path, ".csv", "prompt,temprature\nx,1\n")
    assert "'temprature'" in refused.value.cause
    assert "--carry all,temprature" in refused.value.remedy
    kept = RowSettings(carry=Carry.parse("all,temprature"))
    assert read_text(tmp_path, ".csv", "prompt,temprature\nx,1\n", kept)[0].carried == {"temprature": "1"}
    with pytest.raises(UsageError, match="no column 'contry' to carry"):
        read_text(tmp_path, ".csv", "prompt,country\nx,1\n", RowSettings(carry=Carry.parse("contry")))


def test_counts_of_tokens_are_data(tmp_path: Path) -> None:
    names = ("prompt_tokens", "completion_tokens", "total_tokens", "n_tokens", "num_tokens")
    [row] = read_text(tmp_path, ".csv", f"prompt,{','.join(names)}\nx,1,1,1,1,1\n")
    assert row.carried == dict.fromkeys(names, "1")


def test_a_table_has_limits(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1001 columns; 1000 are the most"):
        read_text(tmp_path, ".csv", ",".join(["prompt", *(f"c{number}" for number in range(1000))]) + "\n")


def test_a_column_that_the_template_uses_is_its_variable_first(tmp_path: Path) -> None:
    weather = PromptTemplate("weather", "{{ temperature }} {{ id }}", variables=("temperature", "id"))
    [row] = read_text(tmp_path, ".csv", "id,temperature,seed\n7,hot,3\n", RowSettings(weather))
    assert (row.prompt, row.custom_id, row.carried, row.own_seed) == ("hot 7", "row-0", {}, True)


def test_columns_fill_the_variables_of_a_template(tmp_path: Path) -> None:
    settings = RowSettings(load_template("translate"))
    rows = read_text(tmp_path, ".csv", "text,target,note\nGood morning.,French,x\n,,\n", settings)
    assert rows[0].prompt == load_template("translate").render({"text": "Good morning.", "target": "French"})
    # An empty cell is an empty text, not a value left out.
    assert rows[1].prompt == load_template("translate").render({"text": "", "target": ""})


def test_semicolons_separate_columns_where_the_header_has_no_comma(tmp_path: Path) -> None:
    rows = read_text(tmp_path, ".csv", '\ufeff\ncustom_id;prompt;max_tokens\r\na;one, two;5\r\n"b";"three; four";\r\n')
    assert [(row.custom_id, row.prompt) for row in rows] == [("a", "one, two"), ("b", "three; four")]
    assert rows[0].sampling == SamplingConfig(5)
    assert prompts(read_text(tmp_path, ".csv", "prompt,a;b\none;two,3\n")) == ["one;two"]


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    rows = read_text(tmp_path, ".csv", "\nprompt\n\none\r\n\r\ntwo\n\n")
    assert [(row.index, row.prompt, row.line) for row in rows] == [(0, "one", 4), (1, "two", 6)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x", "1 field,"),
        ("x,y,z", "3 fields"),
        ('x,"y" z', "closing quote"),
        ('x,"y', "never closed"),
        ("x,y\rz", "carriage return"),
    ],
)
def test_a_wrong_record_is_an_error_row_and_costs_no_neighbor(tmp_path: Path, line: str, said: str) -> None:
    rows = read_text(tmp_path, ".csv", f'custom_id,prompt\na,one\n{line}\nb,"two, three"\nc,four\n')
    assert prompts(rows) == ["one", None, "two, three", "four"]
    assert code_of(rows[1]) == "invalid_csv"
    assert rows[1].error is not None
    assert said in rows[1].error.message
    assert "line 3" in rows[1].error.message


def test_a_quote_that_is_never_closed_costs_one_line_however_long_the_file_is(tmp_path: Path) -> None:
    many = "".join(f"{number},row {number}\n" for number in range(3000))
    rows = read_text(tmp_path, ".csv", f'custom_id,prompt\nx,"open\n{many}', RowSettings(max_line_bytes=1000))
    assert code_of(rows[0]) == "invalid_csv"
    assert rows[0].error is not None
    assert "is not closed within" in rows[0].error.message
    assert prompts(rows[1:]) == [f"row {number}" for number in range(3000)]


def test_blank_lines_after_an_open_quote_do_not_fill_the_memory(tmp_path: Path) -> None:
    rows = read_text(tmp_path, ".csv", 'custom_id,prompt\nx,"open\n' + "\n" * 250_000 + "a,b\n")
    assert [code_of(row) for row in rows] == ["invalid_csv", None]


def test_the_id_of_a_row_with_a_field_too_many_is_kept_only_where_it_is_certain(tmp_path: Path) -> None:
    assert read_text(tmp_path, ".csv", "custom_id,prompt\na,b,c\n")[0].custom_id == "a"
    assert read_text(tmp_path, ".csv", "prompt,custom_id\na,b,c\n")[0].custom_id == "row-0"


def test_invalid_utf8_inside_a_quoted_field_costs_its_record_only(tmp_path: Path) -> None:
    rows = read_text(tmp_path, ".csv", b'prompt,custom_id\n"one\n\xff\n",a\n"tw\xc3\xb6",b\n')
    assert [(code_of(row), row.prompt) for row in rows] == [("invalid_utf8", None), (None, "twö")]
    assert rows[0].error is not None
    assert "line 3" in rows[0].error.message


def test_a_field_may_be_as_long_as_the_limit_allows(tmp_path: Path) -> None:
    text = "x" * 1_000_000  # the csv module's own limit is 131,072
    assert prompts(read_text(tmp_path, ".csv", f"prompt\n{text}\n")) == [text]


@pytest.mark.parametrize(
    ("suffix", "header", "said", "remedy"),
    [
        (".csv", "custom_id,text", "no column 'prompt'; it has 'custom_id', 'text'", "-t NAME"),
        (".tsv", "custom_id;prompt", "no column 'prompt'", "';': use --format csv"),
        (".csv", "id,Prompt", "no column 'prompt'; did you mean 'Prompt'?", "rename the column Prompt to prompt"),
        (".csv", '"custom_id;prompt"', "no column 'prompt'", "rename"),
        (".csv", "custom_id\tprompt", "no column 'prompt'", "--format tsv"),
        (".tsv", "custom_id,prompt", "no column 'prompt'", "--format csv"),
        (".csv", '{"prompt": "x"}', "no column 'prompt'", "--format jsonl"),
        (".csv", "prompt,prompt", "two columns 'prompt'", "rename"),
        (".csv", '"prompt', "header", "column names"),
        (".csv", "prompt\rx", "header", "column names"),
        (".csv", b"prompt,\xe9", "not UTF-8", "column names"),
    ],
)
def test_a_header_that_does_not_serve_is_refused(
    tmp_path: Path, suffix: str, header: str | bytes, said: str, remedy: str
) -> None:
    with pytest.raises(UsageError) as refused:
        read_text(tmp_path, suffix, (header if isinstance(header, bytes) else header.encode()) + b"\nx,y\n")
    assert said in refused.value.cause
    assert remedy in refused.value.remedy


def test_a_column_that_the_template_needs_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        read_text(tmp_path, ".csv", "prompt,id\nx,y\n", RowSettings(load_template("qa")))
    assert "'question', which template qa needs; it has 'prompt', 'id'" in refused.value.cause
    # One with a default may be missing.
    assert code_of(read_text(tmp_path, ".csv", "question\nWhy?\n", RowSettings(load_template("qa")))[0]) is None
