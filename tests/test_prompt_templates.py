"""Prompt templates: the ready ones, the form of a file, and what a hostile one cannot do."""

import csv
import json
from pathlib import Path

import pytest

from openllama_cli.errors import UsageError
from openllama_cli.prompt_templates import PromptTemplate, load_template, prompts_folder, template_names
from openllama_cli.prompt_templates.sandbox import MAX_PROMPT


def template(folder: Path, source: str, rest: str = "") -> PromptTemplate:
    path = folder / "t.toml"
    path.write_text(f"template = '''{source}'''\n{rest}")
    return load_template(str(path))


def test_the_built_in_templates_are_found_and_described() -> None:
    built_in = {found.name: found for found in map(load_template, template_names())}
    assert set(built_in) == {"qa", "classify", "summarize", "translate", "code", "sentiment", "topic"}
    for found in built_in.values():
        assert found.description
        assert found.stop
        assert found.max_tokens
        # `olc complete -t NAME "text"` puts the text into the one variable without a default.
        assert len(found.required) == 1
    assert load_template("summarise") == built_in["summarize"], "its old name"


@pytest.mark.parametrize("name", template_names())
def test_built_in_templates_end_where_the_answer_begins(name: str) -> None:
    found = load_template(name)
    [variable] = found.required
    prompt = found.render({variable: "  <the text>\n"})
    assert "<the text>" in prompt
    # No space at the end: it belongs to the first token of the answer.
    assert prompt == prompt.rstrip(" ")
    assert prompt == prompt.lstrip()
    for stop in found.stop:
        assert not prompt.endswith(stop)


def test_qa_shows_examples_or_the_context() -> None:
    qa = load_template("qa")
    assert qa.render({"question": "Why?"}).endswith("eight legs.\n\nQ: Why?\nA:")
    assert qa.render({"question": "Why?", "context": "Because."}) == "Because.\n\nQ: Why?\nA:"


def test_translate_shows_pairs_of_the_language() -> None:
    translate = load_template("translate")
    assert "駅はどこですか。" in translate.render({"text": "Good morning.", "target": "Japanese"})
    assert translate.render({"text": "Tere.", "source": "Estonian", "target": "English"}) == (
        "Sentences in Estonian and their translations into English.\n\nEstonian: Tere.\nEnglish:"
    )


def test_classify_takes_other_labels_and_examples() -> None:
    examples = [{"text": "goal!", "label": "sport"}]
    prompt = load_template("classify").render({"text": "vote", "labels": ["sport", "politics"], "examples": examples})
    task = "Each text belongs to one of these classes: sport, politics.\n\n"
    assert prompt == f"{task}Text: goal!\nClass: sport\n\nText: vote\nClass:"
    # Its own examples are of other classes, so they are left out.
    without = load_template("classify").render({"text": "vote", "labels": "sport, politics"})
    assert without == f"{task}Text: vote\nClass:"


def test_code_takes_a_signature_with_or_without_its_colon() -> None:
    code = load_template("code")
    for signature in ("def add(a, b)", "def add(a, b):"):
        prompt = code.render({"task": "Add.", "signature": signature})
        assert prompt.endswith('\n\n\ndef add(a, b):\n    """Add."""\n')
    assert code.render({"task": "Add."}).endswith("\n\n\n# Add.\ndef")


def test_example_prompts_fit_their_commands() -> None:
    examples = prompts_folder() / "examples"
    for language in ("en", "de", "es", "hi", "ja"):
        lines = (examples / f"{language}.txt").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 6
        assert all(line == line.strip() != "" for line in lines)
    with (examples / "countries.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    qa = load_template("qa")
    assert all(row["question"] in qa.render({"question": row["question"]}) for row in rows)
    lines = (examples / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    objects = [json.loads(line) for line in lines]
    for found in (rows, objects):
        assert len({row["custom_id"] for row in found}) == len(found) > 5


def test_a_path_is_read_with_or_without_its_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_bytes("\ufefftemplate = 'Grüße {{ name }}'\r\nstop = '.'\r\n".encode())
    (tmp_path / "plain").write_text("template = 'x'")
    monkeypatch.chdir(tmp_path)
    mine = load_template("mine.toml")
    assert mine.render({"name": "Ada"}) == "Grüße Ada"
    assert mine.stop == (".",)
    assert load_template("plain").render({}) == "x"


def test_variables_are_in_the_order_of_the_template(tmp_path: Path) -> None:
    found = template(tmp_path, "{{ b }}{% for x in a %}{{ x }}{{ loop.index }}{{ range(2) }}{% endfor %}{{ b }}")
    assert found.variables == ("b", "a")


ODD = "<b> & {{ a }} {% \r\n\t\0 é 日"
LONG = "x" * (MAX_PROMPT - 1)


@pytest.mark.parametrize(
    ("source", "values", "rendered"),
    [
        ("{{ a }}\n", {"a": ODD}, ODD + "\n"),
        ("{{ a }}", {"a": LONG}, LONG),  # Which is not mistaken for a runaway template.
        ("{{ a }}", {"a": None}, "default"),
        ("{{ a }}", {"a": 3}, "3"),
        # Variables called like globals of Jinja.
        ("{{ a }}{{ dict }}{{ cycler }}{{ range(2) | list }}", {"dict": "b", "cycler": 1}, "defaultb1[0, 1]"),
    ],
    ids=["odd characters", "long", "null", "number", "globals"],
)
def test_values_are_put_in_as_they_are(tmp_path: Path, source: str, values: dict[str, object], rendered: str) -> None:
    assert template(tmp_path, source, '[defaults]\na = "default"\n').render(values) == rendered


@pytest.mark.parametrize(
    ("values", "cause", "remedy"),
    [
        ({}, "needs a value for question", '-p question "…"'),
        ({"question": None}, "needs a value for question", '-p question "…"'),
        ({"question": "x", "contxt": "y"}, "has no variable contxt", "did you mean context?"),
    ],
)
def test_missing_and_unknown_variables_are_named(values: dict[str, object], cause: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_template("qa").render(values)
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("template = = 'x'", "line 1"),
        ("template = 'x'\nstop = [\n", "end of document"),
        (f"template = {'[' * 5000}", "is not valid TOML"),
        ("description = 'x'", "template is missing"),
        ("template = ''", "template is ''"),
        ("template = 3", "template is 3"),
        ("template = 'x'\nstops = ['a']", "unexpected key stops"),
        ("template = 'x'\nstop = [1]", "stop is [1]"),
        ("template = 'x'\nstop = ['']", "stop is ['']"),
        ("template = 'x'\nmax_tokens = 0", "max_tokens is 0"),
        ("template = 'x'\nmax_tokens = true", "max_tokens is True"),
        ("template = 'x'\nmax_tokens = " + "9" * 5000, "is not valid TOML"),
        ("template = 'x'\nmax_tokens = " + "9" * 4000, "max_tokens is 99999"),
        ("template = 'x'\nmax_tokens = 2.5", "max_tokens is 2.5"),
        ("template = 'x'\ndefaults = 'y'", "defaults is 'y'"),
        ("template = 'x'\nheading = 1", "heading is 1"),
        ("template = 'x'\nseparator = ['a']", "separator is ['a']"),
        ("template = 'x'\nchoices = []", "choices is []"),
        ("template = 'x'\nchoices = 'yes'", "choices is 'yes'"),
        ("template = 'x'\nchoices = ['yes']", "choices is ['yes']"),
        ("template = 'x'\nchoices = ['yes', '']", "choices is ['yes', '']"),
        ("template = 'x'\nchoices = ['yes', 'yes']", "choices is ['yes', 'yes']"),
        ("template = 'x'\nchoices_prefix = 1", "choices_prefix is 1"),
        ("template = 'x'\nheading = '{% if %}'", "line 1 of the heading"),
        ("template = '{{ x }}'\n[defaults]\ny = 1", "[defaults] sets y"),
        ("template = '''\n{{ x }}\n{% if %}'''", "line 2 of the template"),
        ("template = '{{ x | shout }}'", "No filter named 'shout'"),
        ("template = '{% include \"other\" %}'", "includes another template"),
        (f"template = '{{{{ {'(' * 5000}x{')' * 5000} }}}}'", "nested too deeply"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, content: str, cause: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(content)
    with pytest.raises(UsageError) as caught:
        load_template(str(path))
    assert str(path) in caught.value.cause
    assert cause in caught.value.cause
    assert caught.value.remedy


def test_unknown_names_and_paths(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown template sumarize") as caught:
        load_template("sumarize")
    assert "did you mean summarize?" in caught.value.remedy
    for path in (tmp_path, tmp_path / "absent.toml", "no/such/place", "x" * 5000, "a\0b"):
        with pytest.raises(UsageError):
            load_template(str(path))
    (tmp_path / "latin.toml").write_bytes(b"template = 'caf\xe9'")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_template(str(tmp_path / "latin.toml"))


@pytest.mark.parametrize(
    "source",
    [
        "{{ x.__init__.__globals__ }}",
        "{{ range.__self__ }}",
        "{{ self.__init__ }}",
        "{{ ('{0.__class__}').format(x) }}",
        "{{ x | attr('__class__') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ x * 10 ** 7 }}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ 10 ** 9 * 'a' }}",
        "{{ [0] * 10 ** 9 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ 10 ** 5000 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ 'x' | center(10 ** 8) }}",
        "{{ 'x' | center(100000000) }}",
        "{{ '{:9999999}'.format(1) }}",
        "{% for i in range(10 ** 8) %}{% endfor %}",
        "{% for i in range(90000) %}{% for i in range(90000) %}a{% endfor %}{% endfor %}",
        "{% for i in range(2) recursive %}{{ loop(range(2)) }}{% endfor %}",
        # Memory in between, of which nothing is written.
        "{% set ns = x * 3000000 %}{{ ns | replace('t', ns) | length }}",
        "{% set a = x * 900000 %}{% set b = a ~ a ~ a ~ a ~ a ~ a ~ a ~ a %}{% set c = b ~ b ~ b ~ b ~ b ~ b ~ b ~ b %}"
        "{% set d = c ~ c ~ c ~ c %}{% set e = d ~ d ~ d ~ d %}{{ e | length }}",
        "{{ ([1] | batch(10 ** 9, 'x') | list) | length }}",
        "{{ 1 / 0 }}",
        "{{ x.nothing }}",
        "{{ 1 + 'a' }}",
        "{% set _ = l.append(1) %}",
    ],
)
def test_hostile_and_failing_templates_end_in_a_usage_error(tmp_path: Path, source: str) -> None:
    def run() -> None:
        found = template(tmp_path, source)
        found.render({name: {"x": "text", "l": [1]}[name] for name in found.variables})

    with pytest.raises(UsageError) as caught:
        run()
    assert "t.toml" in caught.value.cause


HEADED = """
heading = "{{ task }}{% if shots is none %} (alone){% else %} ({{ shots }}: {{ answers | join('/') }}){% endif %}\\n\\n"
choices = ["yes", "no"]
separator = "\\n--\\n"
[defaults]
task = "Say."
"""


def test_a_heading_stands_once_in_front(tmp_path: Path) -> None:
    found = template(tmp_path, "Is {{ text }}?", HEADED)
    assert found.variables == ("task", "text")
    assert found.required == ("text",)
    assert found.heading_only == {"task"}
    assert found.render({"text": "it"}) == "Say. (alone)\nIs it?", "Jinja takes the line break after a block"
    assert found.render_body({"text": "it", "task": "unused"}) == "Is it?"
    assert found.render_heading({"task": "Do!"}, shots=2, answers=["yes", "no"]) == "Do! (2: yes/no)\n"
    assert (found.choices, found.choices_prefix, found.separator) == (("yes", "no"), None, "\n--\n")
    with pytest.raises(UsageError, match=r"the heading of template .*t\.toml, line 2: division by zero"):
        template(tmp_path, "x", 'heading = "\\n{{ 1 / 0 }}"').render({})


@pytest.mark.parametrize(
    ("prefix", "prompt", "answered"),
    [
        ("", "Is it?", "Is it? yes"),
        ("", "Is it?\n", "Is it?\nyes"),
        ("", "", " yes"),
        ('choices_prefix = ""', "Is it? ", "Is it? yes"),
        ('choices_prefix = "\\n> "', "Is it?", "Is it?\n> yes"),
    ],
)
def test_an_answer_is_set_off_from_its_prompt(tmp_path: Path, prefix: str, prompt: str, answered: str) -> None:
    assert template(tmp_path, "x", prefix).answered(prompt, "yes") == answered


@pytest.mark.parametrize(
    ("name", "variable"),
    [("qa", "question"), ("classify", "text"), ("summarize", "text"), ("translate", "text"), ("code", "task")],
)
def test_built_in_examples_give_way_to_those_of_a_file(name: str, variable: str) -> None:
    found = load_template(name)
    values = {variable: "x"}
    own, alone = found.render_heading(values, shots=0), found.render_heading(values)
    assert len(own) < len(alone)
    assert "\n" not in own.rstrip(), "an instruction at the most"
    assert found.render(values) == alone + found.render_body(values)


def test_a_failing_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"t\.toml, line 3: division by zero"):
        template(tmp_path, "a\nb\n{{ 1 / n }}\n").render({"n": 0})


def test_a_long_value_is_not_mistaken_for_a_runaway_template(tmp_path: Path) -> None:
    assert len(template(tmp_path, "{{ a }}").render({"a": "x" * (MAX_PROMPT - 1)})) == MAX_PROMPT - 1


def test_a_template_that_never_ends_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openllama_cli.prompt_templates.sandbox._SECONDS", 0.1)
    loops = "{% for i in range(90000) %}" * 3 + "{% endfor %}" * 3
    with pytest.raises(UsageError, match="processor time"):
        template(tmp_path, loops + "{{ x }}").render({"x": 1})
