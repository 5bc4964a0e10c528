"""From a source to llguidance's grammar, and from what it says of a wrong one to an error that says what is wrong and where."""

import json
import re
from typing import Any, NoReturn

from openllama_cli.errors import UsageError, first_line
from openllama_cli.generation.constraints import library
from openllama_cli.generation.constraints.schemas import endless, subschemas

FLAGS = {"regex": "--regex", "json_schema": "--json-schema", "grammar": "--grammar"}
# Without it, where only one text can follow llguidance allows only the tokens that it would write it with: here the model
# chooses among all tokens that begin it.
_NO_FORCING = '\n%llguidance {"no_forcing": true}'
# Between the parts of a JSON document: nothing, a space, or a new line with its indent. JSON has any amount of whitespace, in
# which base models lose themselves.
_WHITESPACE = r" |\n {0,32}"
# In front of it: most vocabularies have a word with its space, and after "Answer:" a model writes one or begins a line.
_JSON = r"start: /[ \n]?/ @json" + _NO_FORCING

# llguidance follows rules, and references of schemas, by recursion: some thousands overflow the stack of its process.
_MOST_RULES, _MOST_REFERENCES = 1000, 500

# What llguidance calls the assertions that it finds in the middle of a pattern.
_ASSERTIONS = {
    "WordUnicode": r"\b",
    "WordAscii": r"\b",
    "WordUnicodeNegate": r"\B",
    "WordAsciiNegate": r"\B",
    "Start": "^ in the middle",
    "End": "$ in the middle",
    "StartLF": "^ of a line",
    "EndLF": "$ of a line",
}
_NO_PATTERN = "no text matches its pattern, format and lengths"
_LARK_LITERALS = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/|(?://|#)[^\n]*')
_SYNTAX = {
    "regex": "see `regex` in Rust, https://docs.rs/regex/latest/regex/#syntax",
    "json_schema": "see https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md for what is supported",
    "grammar": "see https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md",
}

_WANTED = {
    "regex": r"give one that some text matches, such as ' \d{4}'",
    "json_schema": "give one that some document matches",
    "grammar": "give one that some text matches",
}


@library.remembered(64)
def of(kind: str, source: str) -> str:
    """llguidance's grammar. Raises UsageError for what is none on the face of it, or would not be about text alone."""
    try:
        source.encode()
    except UnicodeEncodeError:
        _invalid(kind, "it is not valid Unicode: it has a lone surrogate")
    if kind == "regex":
        if (end := re.search(r"\\*$", source)) and len(end[0]) % 2:
            _invalid(kind, "it ends in a backslash, which escapes nothing")
        # A digit is one of ten, as in JSON schemas: nobody who writes \d{4} wants a year in Osmanya.
        escaped = library.library().regex_to_lark(source, "d")
        return json.dumps({"grammars": [{"lark_grammar": f"start: /{escaped}/{_NO_FORCING}"}]})
    if kind == "json_schema":
        schema = _schema(source)
        options = {"whitespace_pattern": _WHITESPACE} | schema.get("x-guidance", {})
        json_schema = schema | {"x-guidance": options}
        try:
            if endless(schema):
                raise unsatisfiable(kind, source, "it requires a document in itself without end")
            return json.dumps(
                {"grammars": [{"name": "start", "lark_grammar": _JSON}, {"name": "json", "json_schema": json_schema}]},
                allow_nan=False,
            )
        except RecursionError:
            too_deep()
        except ValueError:  # NaN, and numbers beyond floats.
            _invalid(kind, "it has a number that JSON does not have")
    _refuse_more_than_text(source)
    return json.dumps({"grammars": [{"lark_grammar": source + _NO_FORCING}]})


def refuse(kind: str, source: str, message: str) -> NoReturn:
    """Raise UsageError for what llguidance says."""
    if kind == "regex":  # As it was given: what is said of places is about that.
        plain = library.parser(library.byte_trie(), library.library().LLMatcher.grammar_from_regex(source))
        message = library.failure(plain) or message
    if "recursion limit" in message:
        too_deep(kind)
    if kind == "json_schema":  # Places in what olc makes of it say nothing.
        message = re.sub(r" at line \d+ column \d+", "", message)
    found = re.match(r"Unsatisfiable schema: (.*)", message)
    if found is not None:
        raise unsatisfiable(kind, source, _NO_PATTERN if found[1].startswith("Regex is empty") else _short(found[1]))
    place, reason = _place(kind, message), _reason(message)
    unknown = re.match(r"Unimplemented keys: (\[.*\])", message)
    if unknown is not None:
        keys = json.loads(unknown[1])
        at = next((f", at {path or '#'}" for path, one in subschemas(_schema(source)) if all(key in one for key in keys)), "")
        names = " and ".join(f'"{key}"' for key in keys)
        _invalid(kind, f"{names} {'is' if len(keys) == 1 else 'are'} not supported{at}")
    _invalid(kind, f"{reason}{place}")


def unsatisfiable(kind: str, source: str, reason: str) -> UsageError:
    """The error of a source that no text matches."""
    return UsageError(f"{FLAGS[kind]} cannot be met: {reason}", _WANTED[kind], code="constraint_unsatisfiable")


def _invalid(kind: str, reason: str) -> NoReturn:
    raise UsageError(f"{FLAGS[kind]} cannot be used: {reason}", _SYNTAX[kind], code="constraint_invalid")


def too_deep(kind: str = "json_schema") -> NoReturn:
    """Raise UsageError for what is nested too deeply to be looked into."""
    _invalid(kind, "it is nested too deeply")


def _schema(source: str) -> dict[str, Any]:
    try:
        found = json.loads(source)
    except RecursionError:
        too_deep()
    except ValueError as error:
        _invalid("json_schema", f"it is not JSON: {first_line(error)}")
    if found is False:
        raise unsatisfiable("json_schema", source, "it is false")
    if found is True:
        return {}
    if not isinstance(found, dict) or not isinstance(found.get("x-guidance", {}), dict):
        _invalid("json_schema", "a schema is an object, true or false")
    if source.count("$ref") > _MOST_REFERENCES:
        _invalid("json_schema", f"it has more than {_MOST_REFERENCES:,} references")
    return found


def _refuse_more_than_text(source: str) -> None:
    """llguidance's grammars may also name tokens and count them: what matches then depends on the vocabulary."""
    rules = 0
    for number, line in enumerate(source.splitlines(), start=1):
        bare = _LARK_LITERALS.sub('""', line)
        rules += bare.count(":")
        if rules > _MOST_RULES:
            _invalid("grammar", f"it has more than {_MOST_RULES:,} rules")
        if re.search(r"<[^<>\s]+>", bare):
            _invalid("grammar", f"line {number} names a token, and a completion's text has none")
        if re.search(r"\bmax_tokens\s*=", bare):
            _invalid("grammar", f"line {number} has max_tokens: the grammar is about text; give --max-tokens")
        if "::=" in bare:
            _invalid(
                "grammar", f"line {number} has ::= and is GBNF or EBNF; `python -m llguidance.gbnf_to_lark FILE` converts it"
            )


def _reason(message: str) -> str:
    """What is wrong, in one line."""
    found = re.search(r"lookarounds not supported yet; (\w+)", message)
    if found is not None:
        return f"look-arounds are not supported, and {_ASSERTIONS.get(found[1], found[1])} is one"
    parse = re.search(r"^error: (.*)$", message, re.MULTILINE)
    if parse is not None:
        return parse[1]
    return first_line(re.sub(r"^(at )?\d+\(\d+\): ", "", message))


def _short(text: str) -> str:
    """A source may have a million characters."""
    return text if len(text) <= 80 else f"{text[:80]}…"


def _place(kind: str, message: str) -> str:
    """Where it is wrong."""
    lines = message.splitlines()
    pattern = next((place for place, line in enumerate(lines) if re.fullmatch(r"    +\^+", line)), 0)
    if pattern and lines[0].endswith("regex parse error:"):
        column, width = lines[pattern].index("^"), lines[pattern].count("^")
        at, what = column - 3, lines[pattern - 1][column : column + width]
        inside = "" if kind == "regex" else f" of the pattern {_short(lines[pattern - 1].strip())}"
        return f", at character {at}{inside}: {_short(what)}" if what else f", at its end{inside}"
    found = re.match(r"(?:at )?(\d+)\(\d+\): ", message)
    return f", in line {found[1]}" if found is not None and kind == "grammar" else ""
