"""A template: what it needs, and the prompts that it makes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from openllama_cli.errors import UsageError
from openllama_cli.prompt_templates import sandbox

# Between examples, unless a template says something else.
SEPARATOR = "\n\n"
# What a heading knows besides the variables.
OF_HEADINGS = ("shots", "answers")


@dataclass(frozen=True)
class PromptTemplate:
    """A template, checked when it is loaded.

    name: a built-in's name, or the path that was given. variables: names in the order in which the template uses them, its
    heading first. defaults: values of those that may be left out. stop: texts that end a completion. max_tokens: None if it
    does not say.
    heading: stands once in front. heading_only: variables that nothing else uses. separator: between the examples of a few-shot
    prompt. choices: the answers that there are, if it names them. choices_prefix: between a prompt and its answer; None is a
    space, unless the prompt ends in whitespace.
    """

    name: str
    template: str
    description: str = ""
    defaults: Mapping[str, object] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    variables: tuple[str, ...] = ()
    heading: str = ""
    heading_only: frozenset[str] = frozenset()
    separator: str = SEPARATOR
    choices: tuple[str, ...] = ()
    choices_prefix: str | None = None

    @property
    def required(self) -> tuple[str, ...]:
        """The variables without a default."""
        return tuple(name for name in self.variables if name not in self.defaults)

    def render(self, values: Mapping[str, object]) -> str:
        """The prompt. values: variable → text, number, or list for templates that loop; None counts as not given.

        Raises UsageError for a variable without a value, an unknown variable, or a template that fails.
        """
        return self.render_heading(values) + self.render_body(values)

    def render_heading(self, values: Mapping[str, object], *, shots: int | None = None, answers: Sequence[str] = ()) -> str:
        """What stands once in front. Raises UsageError as `render`.

        shots: how many examples a few-shot prompt is to have, None for another prompt. answers: the different ones of its file.
        """
        if not self.heading:
            return ""
        known = dict(zip(OF_HEADINGS, (shots, list(answers)), strict=True))
        return self._render(self.heading, values, known, f"the heading of template {self.name}")

    def render_body(self, values: Mapping[str, object]) -> str:
        """The prompt without its heading. Raises UsageError as `render`."""
        return self._render(self.template, values, {}, f"template {self.name}")

    def answered(self, prompt: str, answer: str) -> str:
        """A prompt with its answer."""
        prefix = self.choices_prefix
        if prefix is None:
            prefix = "" if prompt[-1:].isspace() else " "
        return f"{prompt}{prefix}{answer}"

    def _render(self, source: str, values: Mapping[str, object], known: Mapping[str, object], what: str) -> str:
        """known: values over those that were given. what: is rendered, for messages."""
        for name in values:
            if name not in self.variables:
                there = f"it has {', '.join(self.variables)}" if self.variables else "it has no variables"
                raise UsageError(f"template {self.name} has no variable {name}", there + closest(name, self.variables))
        given = {name: value for name, value in values.items() if value is not None}
        try:
            return sandbox.render(source, dict(self.defaults) | given | dict(known))
        except Exception as error:  # an expression in a template can raise anything, and none of it is a bug of olc
            undefined = sandbox.is_undefined(error)
            if undefined and (missing := re.match(r"'(\w+)' is undefined", str(error))):
                cause, remedy = f"template {self.name} needs a value for {missing[1]}", f'add -p {missing[1]} "…"'
                raise UsageError(cause, remedy, code="template_variable") from error
            reason = str(error) if undefined else sandbox.reason(error)
            remedy = "give a value that has it, or change the template" if undefined else "change the template or the value"
            raise UsageError(f"{what}{sandbox.where(error)}: {reason}", remedy) from error


def closest(name: str, known: Iterable[str]) -> str:
    """What was probably meant by a name that does not exist, as the end of a remedy: "; did you mean qa?", or nothing."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
