"""Prompts with examples: a heading, the examples with their answers, and what is to be answered."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from openllama_cli.errors import UsageError
from openllama_cli.few_shot.examples import Examples
from openllama_cli.few_shot.order import order
from openllama_cli.prompt_templates import PromptTemplate
from openllama_cli.prompt_templates.sandbox import MAX_PROMPT


@dataclass(frozen=True)
class FewShotPrompt:
    """A prompt in its parts. heading: stands in front as it is. shots: with their answers. own: what is to be answered."""

    heading: str
    shots: tuple[str, ...]
    own: str
    separator: str

    @property
    def text(self) -> str:
        """The prompt."""
        return self.heading + self.separator.join((*self.shots, self.own))

    def first(self, count: int) -> "FewShotPrompt":
        """The same prompt with only its first examples."""
        return FewShotPrompt(self.heading, self.shots[:count], self.own, self.separator)


@dataclass(frozen=True)
class FewShot:
    """Makes prompts with the same examples in front, so that what they share runs once.

    shots: how many examples, 0 or more. seed, balance: see `order`. An example that is rendered as a row is, but for the
    heading, is that row itself, and another one stands in its place in that row's prompt: with balance the next one with the
    same answer, else the next one. Where all are used up it has one less.

    Raises UsageError for more shots than there are examples.
    """

    template: PromptTemplate
    examples: Examples
    shots: int
    seed: int | None = None
    balance: bool = False

    def __post_init__(self) -> None:
        there = len(self.examples.examples)
        if self.shots > there:
            have = "example" if there == 1 else "examples"
            raise UsageError(
                f"--shots {self.shots}, but {self.examples.path} has {there} {have}", f"use --shots {there} or fewer"
            )

    def prompt(self, values: Mapping[str, Any]) -> FewShotPrompt:
        """The prompt for a row. values: as for `PromptTemplate.render`.

        Raises UsageError as that does, and for a variable that the row sets and that no example has.
        """
        self._check(values)
        own = self.template.render_body(values)
        chosen = self._order[: self.shots]
        if own in self._bodies:
            chosen = self._others(own)
        return self._prompt(tuple(self._answered(place) for place in chosen), own, values)

    def after(self, shots: tuple[str, ...], values: Mapping[str, Any]) -> FewShotPrompt:
        """The prompt with these examples of another one, whatever the row is. Raises UsageError as `PromptTemplate.render`."""
        return self._prompt(shots, self.template.render_body(values), values)

    def _prompt(self, shots: tuple[str, ...], own: str, values: Mapping[str, Any]) -> FewShotPrompt:
        heading = self.template.render_heading(values, shots=self.shots, answers=self._answers)
        if sum(map(len, shots)) + len(own) + len(heading) > MAX_PROMPT:
            raise UsageError(f"the prompt with {len(shots)} shots has more than {MAX_PROMPT:,} characters", "use fewer --shots")
        return FewShotPrompt(heading, shots, own, self.template.separator)

    @property
    def options(self) -> dict[str, Any]:
        """All that results depend on beside the template, in types that JSON has, by the names of their options."""
        rules = repr((self.examples.sha256, self.template.separator, self.template.choices_prefix))
        digest = hashlib.sha256(rules.encode()).hexdigest()
        return {
            "examples": f"{digest[:12]}:{self.examples.path.name}",
            "shots": self.shots,
            "examples_seed": self.seed,
            "balance": self.balance or None,
        }

    def _check(self, values: Mapping[str, Any]) -> None:
        """An example without a variable has the template's default: of a row that says something else it is no example."""
        for name, value in values.items():
            absent = name in self.template.variables and name not in self.examples.given | self.template.heading_only
            if absent and value is not None and value != self.template.defaults.get(name):
                path = self.examples.path
                raise UsageError(
                    f"{name} is given, and the examples of {path} do not have it", f"give {path.name} a field {name}"
                )

    @cached_property
    def _answers(self) -> list[str]:
        return self.examples.answers

    @cached_property
    def _order(self) -> list[int]:
        answers = [example.answer for example in self.examples.examples]
        return order(answers, seed=self.seed, balance=self.balance)

    @cached_property
    def _rendered(self) -> dict[int, str]:
        """Examples without their answers, as far as they were needed."""
        return {}

    @cached_property
    def _bodies(self) -> frozenset[str]:
        return frozenset(self._body(place) for place in self._order[: self.shots])

    def _body(self, place: int) -> str:
        if place not in self._rendered:
            example = self.examples.examples[place]
            try:
                self._rendered[place] = self.template.render_body(example.values)
            except UsageError as error:
                cause = f"line {example.line} of {self.examples.path}: {error.cause}"
                raise UsageError(cause, "correct the example, or the template", code=error.code) from error
        return self._rendered[place]

    def _answered(self, place: int) -> str:
        return self.template.answered(self._body(place), self.examples.examples[place].answer)

    def _others(self, own: str) -> list[int]:
        """The examples for a row that is one of the first: the others stay where they are."""
        spare = [place for place in self._order[self.shots :] if self._body(place) != own]
        chosen = []
        for place in self._order[: self.shots]:
            if self._body(place) == own:
                wanted = self.examples.examples[place].answer
                same = (other for other in spare if self.examples.examples[other].answer == wanted)
                other = next(same, None) if self.balance else None
                other = other if other is not None else next(iter(spare), None)
                if other is None:
                    continue
                spare.remove(other)
                place = other
            chosen.append(place)
        return chosen
