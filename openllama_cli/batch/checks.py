"""What every reader asks of a row's texts, and the words in which it says what is wrong."""

from collections.abc import Iterable, Mapping
from typing import Any

from openllama_cli.batch.rows import InvalidRowError
from openllama_cli.errors import UsageError
from openllama_cli.prompt_templates import PromptTemplate

_NAMES_SHOWN = 8


def decode(data: bytes, line: int) -> str:
    """The text of a line. line: its number, for the message. Raises InvalidRowError if it is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRowError("invalid_utf8", not_utf8(data, line, error)) from None


def not_utf8(data: bytes, line: int, error: UnicodeDecodeError) -> str:
    """Says which byte of a line is at fault."""
    return f"line {line} is not UTF-8: byte 0x{data[error.start]:02x} at byte {error.start + 1}"


def check_text(text: str, name: str) -> str:
    r"""The text itself. name: of the field, for the message.

    Raises InvalidRowError if it cannot be written as UTF-8: JSON's "\ud800" is a character that cannot.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"{name} has half of a surrogate pair, {text[error.start]!r}, at character {error.start + 1}"
        raise InvalidRowError("invalid_unicode", message) from None
    return text


def render(template: PromptTemplate, fields: Mapping[str, Any]) -> str:
    """The prompt that the template makes of a row's fields; those that it does not use are passed over.

    Raises InvalidRowError.
    """
    try:
        return template.render({name: fields[name] for name in template.variables if name in fields})
    except UsageError as error:
        # The remedy of a missing variable is one for the command line.
        rest = names(fields) if error.code == "template_variable" else error.remedy
        raise InvalidRowError("template_error", f"{error.cause}; {rest}") from None


def names(fields: Iterable[str]) -> str:
    """Says which fields or columns there are."""
    found = [repr(name) for name in fields]
    more = ", …" if len(found) > _NAMES_SHOWN else ""
    return f"there is {', '.join(found[:_NAMES_SHOWN])}{more}" if found else "there is nothing else"


def kind(value: Any) -> str:
    """What JSON calls a value, with its article."""
    if value is None:
        return "null"
    words = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return words[type(value)]
