"""Files of examples: what is read of them, and what is refused by name."""

from pathlib import Path

import pytest

from openllama_cli.errors import UsageError
from openllama_cli.few_shot import Examples, read_examples
from openllama_cli.prompt_templates import PromptTemplate, load_template, prompts_folder

REVIEW = PromptTemplate(
    "review", "Review: {{ text }}\nIs it {{ kind }}?", defaults={"kind": "good"}, variables=("text", "kind")
)


def read(folder: Path, name: str, content: str | bytes, template: PromptTemplate = REVIEW) -> Examples:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_examples(path, template)


SAME = [
    ("a.csv", '\ufefftext,unused,answer\r\nGood,1,yes\r\n\r\n"Bad, ""very""\nbad",2, no \r\n'),
    ("a.csv", 'answer;text;unused\nyes;Good;\nno;"Bad, ""very""\nbad";\n'),
    ("A.TSV", 'text\tanswer\nGood\tyes\n"Bad, ""very""\nbad"\tno\n'),
    ("a.jsonl", '{"text": "Good", "answer": "yes", "x": [1]}\n\n{"answer": "no\\n", "text": "Bad, \\"very\\"\\nbad"}'),
]


@pytest.mark.parametrize(("name", "content"), SAME)
def test_every_format_gives_the_same_examples(tmp_path: Path, name: str, content: str) -> None:
    found = read(tmp_path, name, content)
    pairs = [(example.values, example.answer) for example in found.examples]
    assert pairs == [({"text": "Good"}, "yes"), ({"text": 'Bad, "very"\nbad'}, "no")]
    assert found.answers == ["yes", "no"]
    assert found.given == {"text"}
    assert found.sha256 == read(tmp_path, "same.jsonl", SAME[3][1]).sha256


def test_the_digest_is_of_what_prompts_depend_on(tmp_path: Path) -> None:
    one = read(tmp_path, "a.csv", "text,answer,note\nGood,yes,x\nBad,no,y\n").sha256
    assert read(tmp_path, "b.csv", "note,text,answer\nz,Good,yes\nz,Bad,no\n").sha256 == one
    for other in ("Good,no\nBad,no\n", "Bad,no\nGood,yes\n", "Good,yes\n"):
        assert read(tmp_path, "c.csv", "text,answer\n" + other).sha256 != one


def test_numbers_are_answers_and_values_of_any_type_go_to_the_template(tmp_path: Path) -> None:
    listed = PromptTemplate("sum", "{{ numbers | join('+') }}=", variables=("numbers",))
    [example] = read(tmp_path, "a.jsonl", '{"numbers": [1, 2], "answer": 3}', listed).examples
    assert (example.values, example.answer, example.line) == ({"numbers": [1, 2]}, "3", 1)


def test_the_indentation_of_an_answer_stays_after_a_line_break(tmp_path: Path) -> None:
    content = '{"task": "x", "answer": "    return 1\\n"}'
    assert read(tmp_path, "a.jsonl", content, load_template("code")).examples[0].answer == "    return 1"


def test_variables_of_the_heading_are_the_rows(tmp_path: Path) -> None:
    found = read(tmp_path, "a.csv", "question,context,answer\nWhy?,Because.,So.\n", load_template("qa"))
    assert found.examples[0].values == {"question": "Why?"}


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("a.csv", "", "has no examples"),
        ("a.csv", "text,answer\n\n", "has no examples"),
        ("a.jsonl", "\n", "has no examples"),
        ("a.csv", "text,label\nGood,yes\n", "has no column 'answer'"),
        ("a.csv", "review,answer\nGood,yes\n", "has no column 'text'"),
        ("a.csv", "text,text,answer\nGood,x,yes\n", "two columns"),
        ("a.csv", 'text,answer\nGood,yes\n"two\nlines", \n', "line 3 of"),
        ("a.csv", "text,answer\nGood,yes\nBad\n", "line 3 of"),
        ("a.csv", 'text,answer\n"Good,yes\n', "is not valid CSV from line 2 on"),
        ("a.jsonl", '{"text": "Good", "answer": "yes"}\n{"text": "Bad"}', "line 2 of"),
        ("a.jsonl", '{"text": null, "answer": "yes"}', "has no 'text'"),
        ("a.jsonl", '{"text": "Good", "answer": ""}', "has an empty answer"),
        ("a.jsonl", '{"text": "Good", "answer": ["yes"]}', "answer is not a text"),
        ("a.jsonl", '{"text": "Good", "answer": true}', "answer is not a text"),
        ("a.jsonl", '{"text": "Good", "answer": "yes"}\n{', "line 2 of"),
        ("a.jsonl", "[1]", "is not a JSON object"),
        ("a.jsonl", "[" * 100_000, "is not JSON"),
        ("a.csv", b"text,answer\ncaf\xe9,yes\n", "is not UTF-8: byte 0xe9 at offset 15"),
        ("a.csv", "text,answer\nGood,yes\n".encode("utf-16"), "is not UTF-8"),
        ("a.txt", "Good", "are not .csv, .tsv or .jsonl"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, content: str | bytes, cause: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, name, content)
    assert str(tmp_path / name) in caught.value.cause
    assert cause in caught.value.cause
    assert caught.value.remedy
    assert "\n" not in caught.value.cause


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for path in (tmp_path / "absent.csv", tmp_path / "folder.csv", Path("a\0b.csv"), Path("x" * 5000 + ".csv")):
        with pytest.raises(UsageError):
            read_examples(path, REVIEW)


def test_a_template_with_a_variable_answer_has_no_examples(tmp_path: Path) -> None:
    template = PromptTemplate("t", "{{ answer }}", variables=("answer",))
    with pytest.raises(UsageError, match="has a variable answer"):
        read(tmp_path, "a.csv", "answer\nyes\n", template)


@pytest.mark.parametrize(("name", "answers"), [("sentiment", 2), ("topic", 4)])
def test_the_data_sets_that_ship_are_balanced_and_fit_their_templates(name: str, answers: int) -> None:
    template = load_template(name)
    found = read_examples(prompts_folder() / "examples" / f"{name}.csv", template)
    given = [example.answer for example in found.examples]
    assert sorted(found.answers) == sorted(template.choices)
    assert {given.count(answer) for answer in found.answers} == {40 // answers}
    assert len({example.values["text"] for example in found.examples}) == 40
    # The same class does not stand in a row so often that the first shots are all of it.
    assert all(len(set(given[start : start + 4])) > 1 for start in range(37))
