"""Where a prompt comes from: the argument, a file, stdin, or a template filled from any of them."""

import codecs
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openllama_cli.commands.shared.few_shot import NO_EXAMPLES, ExampleOptions
from openllama_cli.errors import UsageError
from openllama_cli.generation.decode.config import TEXTS
from openllama_cli.terminal.streams import hint, stdin_has_input

if TYPE_CHECKING:
    from openllama_cli.few_shot import FewShot, FewShotPrompt
    from openllama_cli.prompt_templates import PromptTemplate

_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}


@dataclass(frozen=True)
class PromptInput:
    """The text to complete, the template that rendered it, if any, with the values that were given for it, and its examples.

    few_shot: the text in its parts, if it has examples. examples: makes such prompts.
    """

    text: str
    template: "PromptTemplate | None" = None
    values: Mapping[str, str] = field(default_factory=dict)
    few_shot: "FewShotPrompt | None" = None
    examples: "FewShot | None" = None

    @property
    def options(self) -> dict[str, Any]:
        """How it came about, for records: the template and the examples, without folders."""
        template = {} if self.template is None else {"template": Path(self.template.name).name}
        return template | ({} if self.examples is None else self.examples.options)

    def with_values(self, values: Mapping[str, object]) -> str:
        """The text with other values in its template, after the same examples. Raises UsageError."""
        assert self.template is not None
        if self.examples is None or self.few_shot is None:
            return self.template.render(values)
        return self.examples.after(self.few_shot.shots, values).text


def read_prompt(
    prompt: str | None,
    file: str | None,
    template: str | None,
    values: Sequence[tuple[str, str]],
    examples: ExampleOptions = NO_EXAMPLES,
    *,
    escape: bool,
) -> PromptInput:
    """Find the prompt.

    prompt: the argument; "-" is stdin; None is stdin if that is a pipe or a file. file: a path, or "-".
    values: template variables; a value "-" is stdin. With a template the text fills its one variable without a value.
    stdin is read only if it is needed: a shell loop keeps its input, and an open pipe does not block.

    Raises UsageError.
    """
    if prompt is not None and file is not None:
        raise UsageError("a prompt and --file cannot be combined", "leave one of them out")
    filler = Filler.of(template, values, examples)
    if filler is None:
        return PromptInput(_text(prompt, file, escape=escape, wanted="prompt"))
    if prompt is None and file is None and not (len(filler.missing) == 1 and stdin_has_input()):
        return filler.fill(None)
    filler.check_place()
    return filler.fill(_text(prompt, file, escape=escape, wanted=filler.missing[0]))


@dataclass(frozen=True)
class Filler:
    """Makes prompts of a template. given: values of variables. missing: variables without a value or default."""

    template: "PromptTemplate"
    few_shot: "FewShot | None"
    given: Mapping[str, str]
    missing: Sequence[str]

    @classmethod
    def of(cls, name: str | None, values: Sequence[tuple[str, str]], examples: ExampleOptions) -> "Filler | None":
        """name: of the template; None without one. values: as given with -p. Raises UsageError."""
        if name is None:
            if values:
                raise UsageError("-p requires a template", "name one with -t, such as -t qa; see prompts/README.md")
            examples.open(None)
            return None
        from openllama_cli.prompt_templates import load_template

        template = load_template(name)
        few_shot = examples.open(template)
        from_stdin = [name for name, value in values if value == "-"]
        if len(from_stdin) > 1:
            raise UsageError(f"stdin (-) is given for {len(from_stdin)} variables: {', '.join(from_stdin)}", "use - once")
        given = {name: read_stdin() if value == "-" else value for name, value in values}
        missing = [name for name in template.variables if name not in given and name not in template.defaults]
        return cls(template, few_shot, given, missing)

    def check_place(self) -> None:
        """Raise UsageError unless a text has one variable to fill."""
        if len(self.missing) != 1:
            raise _no_place(self.template, self.given, self.missing)

    def fill(self, text: str | None) -> PromptInput:
        """The prompt. text: of the variable without a value, if there is one. Raises UsageError."""
        values = dict(self.given) if text is None else {**self.given, self.missing[0]: text}
        if self.few_shot is None:
            return PromptInput(self.template.render(values), self.template, values)
        prompt = self.few_shot.prompt(values)
        return PromptInput(prompt.text, self.template, values, prompt, self.few_shot)


def read_prompts(
    prompts: Sequence[str],
    file: str | None,
    template: str | None,
    values: Sequence[tuple[str, str]],
    examples: ExampleOptions,
    *,
    escape: bool,
) -> list[PromptInput]:
    """Several prompts: arguments, then the lines of a file. With a template each fills its one variable without a value.

    Raises UsageError; also where there is none.
    """
    filler = Filler.of(template, values, examples)
    hint_file(prompts)
    texts = [unescape(argument(prompt)) if escape else argument(prompt) for prompt in prompts]
    texts += read_lines(file) if file is not None else []
    if filler is not None and not texts and not filler.missing:
        return [filler.fill(None)]
    if not texts:
        raise missing("prompt", 'give one or more, such as "The largest animal is", or a file of prompts with -f')
    if filler is None:
        return [PromptInput(text) for text in texts]
    filler.check_place()
    return [filler.fill(text) for text in texts]


def _no_place(template: "PromptTemplate", given: Mapping[str, str], missing: Sequence[str]) -> UsageError:
    """The error of a prompt that fits no variable, or several. missing: variables without a value or default."""
    if missing:
        cause = f"the template {template.name} has {len(missing)} variables without a value ({', '.join(missing)})"
        return UsageError(f"{cause}, but one prompt was given", "name each variable: -p NAME VALUE")
    if not template.variables:
        return UsageError(f"the template {template.name} has no variables, but a prompt was given", "leave the prompt out")
    cause = f"all variables of the template {template.name} have a value ({', '.join(template.variables)})"
    default = next((name for name in template.variables if name not in given), None)
    remedy = "leave the prompt out" if default is None else f'leave it out, or name the variable it is for: -p {default} "…"'
    return UsageError(f"{cause}, but a prompt was given", remedy)


def _text(prompt: str | None, file: str | None, *, escape: bool, wanted: str) -> str:
    if file is not None:
        return read_stdin() if file == "-" else read_file(Path(file))
    if prompt == "-" or (prompt is None and stdin_has_input()):
        return read_stdin()
    if prompt is None:
        raise missing(wanted, 'give it as an argument, such as "Q: What is the largest animal?"')
    hint_file([prompt])
    prompt = argument(prompt)
    return unescape(prompt) if escape else prompt


def missing(what: str, remedy: str) -> UsageError:
    """The error of an argument that was not given, with the command whose help says more."""
    return UsageError(f"no {what} was given", f"{remedy}; see `{click.get_current_context().command_path} --help`")


def read_stdin() -> str:
    """All of stdin, byte for byte, without a byte order mark at its start."""
    if sys.stdin is None:
        raise UsageError("stdin is closed", "give the text as an argument")
    return _decode(sys.stdin.buffer.read(), "stdin")


def read_lines(file: str) -> list[str]:
    """The prompts of a file (or of stdin, "-"), one per line, without line ends.

    Raises UsageError.
    """
    return split_lines(read_stdin() if file == "-" else read_file(Path(file)))


def split_lines(text: str) -> list[str]:
    """The lines of a text, without line ends."""
    # splitlines would also cut at characters that are part of a text, such as U+2028.
    lines = re.split("\r?\n", text)
    return lines[:-1] if lines[-1] == "" else lines


def read_file(path: Path) -> str:
    """All of a file, without a byte order mark at its start. Raises UsageError."""
    try:
        return _decode(path.read_bytes(), str(path))
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"cannot read {path}: {reason}", "check the path; a text file is expected") from error


def _decode(data: bytes, name: str) -> str:
    mark = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    try:
        return data[mark:].decode()
    except UnicodeDecodeError as error:
        from openllama_cli.system import convert  # Not at the top: only this error needs it.

        encoding = convert.wide_encoding(data)
        if name == "stdin":
            remedy = f"pipe it through iconv -f {encoding or convert.narrow_encoding(data)} -t UTF-8"
        elif encoding is not None:
            remedy = f"convert it: {convert.to_utf8(Path(name), encoding)}"
        else:
            line = convert.to_utf8(Path(name), convert.narrow_encoding(data))
            remedy = f"convert it; if it is Western European: {line}"
        cause = f"{name} is not UTF-8: byte 0x{data[mark + error.start]:02x} at offset {mark + error.start}"
        raise UsageError(cause, remedy, code="not_text") from error


def argument(text: str) -> str:
    """A text from the command line, as it was typed: Python reads UTF-8 as something else where the locale is ASCII."""
    if text.isascii() or "utf" in sys.getfilesystemencoding().lower():
        return text
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        name = next((name for name in ("LC_ALL", "LC_CTYPE", "LANG") if os.environ.get(name)), "LC_ALL")
        raise UsageError(
            f"the text is not ASCII, and the locale ({name}={os.environ.get(name, '')}) is",
            "export LC_ALL=C.UTF-8, then run the command again",
            code="locale",
        ) from None


def unescape(text: str) -> str:
    r"""Turn ``\n``, ``\t`` and ``\\`` into the characters they stand for; any other backslash stays."""
    return re.sub(r"\\([nt\\])", lambda match: _ESCAPES[match.group(1)], text)


def unescape_stops(given: dict[str, Any]) -> None:
    """Apply --escape to the texts among the sampling options that were given: --stop, --ban and the like."""
    for name in TEXTS:
        if name in given:
            given[name] = tuple(unescape(text) for text in given[name])
    if "logit_bias" in given:
        given["logit_bias"] = tuple((unescape(token), added) for token, added in given["logit_bias"])


def hint_file(prompts: Iterable[str]) -> None:
    """Mention --file if a prompt is the name of a file."""
    # Path.is_file raises for a text that no file can be called.
    name = next((prompt for prompt in prompts if os.path.isfile(prompt)), None)  # noqa: PTH113
    if name is not None:
        hint(f"the text is the name of a file; -f {shlex.quote(name)} takes what is in it")


def hint_escape(prompts: Iterable[str]) -> None:
    r"""Mention --escape if a prompt contains a literal ``\n``, which a shell passes on as two characters."""
    if any("\\n" in prompt for prompt in prompts):
        hint(r"the prompt contains a literal \n; add --escape (-e) to make it a newline")
