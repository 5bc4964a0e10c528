"""The choice that `olc complete --choices` shows, made by the model loaded here or by olc's own server."""

import time
from typing import TYPE_CHECKING, Any, Protocol

from openllama_cli.commands.shared.choice_options import not_for_choices
from openllama_cli.commands.shared.model import load_model, open_model
from openllama_cli.commands.shared.server import ServerChoice, recorded
from openllama_cli.errors import OlcError
from openllama_cli.generation.choices.config import Choices
from openllama_cli.generation.choices.scores import ScoredChoice, best
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.terminal.streams import note
from openllama_cli.terminal.views.complete import Stats

if TYPE_CHECKING:
    from openllama_cli.api.choosing import ChoiceRun
    from openllama_cli.generation.choices.branches import Branched
    from openllama_cli.models.opened import OpenedModel
    from openllama_cli.serve.client.find import FoundServer


class Choosing(Protocol):
    """An answer that was chosen. scored: all choices, in the order in which they were given."""

    scored: list[ScoredChoice]

    @property
    def stats(self) -> Stats:
        """What was measured."""

    def document(self) -> dict[str, Any]:
        """The OpenAI `text_completion` object, with the choices under `olc`."""


def choose(
    prompt: str,
    choices: Choices,
    spec: ModelSpec,
    server: ServerChoice,
    folder: ModelFolder | None = None,
    **options: Any,
) -> Choosing:
    """Let a running server or the model loaded here choose. folder: the model, if it was found already. options: the command's
    own, for the record. Raises OlcError."""
    found, folder = server.answer(spec, lambda found: ServedChoice(found, prompt, choices, **options), folder)
    if found is not None:
        return found
    opened = open_model(spec, folder)
    prompts = tokenized(opened, prompt, choices)
    loaded = load_model(opened, spec, one_row=True)
    from openllama_cli.api import Model
    from openllama_cli.api.choosing import ChoiceRun

    own, neutral = prompts
    return LoadedChoice(ChoiceRun(Model(loaded, notice=note), choices, [own], neutral), prompt, choices, **options)


def tokenized(opened: "OpenedModel", prompt: str, choices: Choices) -> "tuple[Branched, Branched | None]":
    """A prompt and the neutral one, if there is one, with their choices. Raises UsageError, also where they are too long."""
    from openllama_cli.generation.choices.branches import branch, branch_neutral

    tokenizer, context = opened.tokenizer, opened.checkpoint.shape.context
    return branch(tokenizer, prompt, choices, context), branch_neutral(tokenizer, choices, context)


class LoadedChoice:
    """By a model that is loaded here."""

    def __init__(self, chosen: "ChoiceRun", prompt: str, choices: Choices, **options: Any) -> None:
        self._run, self._prompt, self._choices, self._options = chosen.run, prompt, choices, options
        (self.scored,) = chosen.finish()

    @property
    def stats(self) -> Stats:
        loaded = self._run.model.loaded
        return Stats(_measured(self._run.timings.as_dict()), loaded.device, loaded.precision, self._run.forward)

    def document(self) -> dict[str, Any]:
        import secrets

        from openllama_cli.generation.choices.document import choice_of, olc_of, usage_of
        from openllama_cli.generation.session import describe
        from openllama_cli.records import results
        from openllama_cli.records.record import surroundings

        loaded = self._run.model.loaded
        where = surroundings(loaded, "complete", "loop", self._run.forward)
        return {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": loaded.folder.name,
            "choices": [choice_of(0, self.scored)],
            "usage": usage_of(len(self._run.prompts[0]), [self.scored]),
            "olc": {
                **describe(loaded),
                "engine": "loop",
                "forward": self._run.forward,
                "seed": None,
                "timings": self._run.timings.as_dict(),
                **olc_of(self._choices, self.scored),
                "record": results.chosen(where, self._choices, [self._prompt], self._run.rows, **self._options),
            },
        }


class ServedChoice:
    """By olc's own server."""

    def __init__(self, server: "FoundServer", prompt: str, choices: Choices, **options: Any) -> None:
        """Ask, and wait for the answer. Raises NotServedError, or for a server that was named OlcError."""
        from openllama_cli.serve.client.asked import Asked
        from openllama_cli.serve.client.completions import NotServedError, ask

        name = server.connection.name
        if not server.olc:
            server.connection.close()
            raise not_for_choices(name)
        self._server, self._choices, self._options = server, choices, options
        began = time.perf_counter()
        self._answer = ask(server, Asked((prompt,), choices=choices, record=True))
        self._seconds = time.perf_counter() - began
        try:
            self.scored = [ScoredChoice(**entry) for entry in self._answer["choices"][0]["olc"]["choices"]]
        except (TypeError, LookupError):  # An olc that is older than choices leaves them aside.
            cause = f"{name} does not choose among texts"
            if server.own:
                raise NotServedError(cause) from None
            raise OlcError(cause, "update olc there, or leave out --server", code="server_answer") from None

    @property
    def stats(self) -> Stats:
        told, name = self._answer["olc"], self._server.connection.name
        if "timings" in told:
            return Stats(_measured(told["timings"]), told["device"], told["precision"], told["forward"], name)
        return Stats({"total_s": round(self._seconds, 4)}, None, None, None, name)

    def document(self) -> dict[str, Any]:
        from openllama_cli.generation.choices.document import olc_of

        answered = self._answer["olc"]
        told = {name: value for name, value in answered.items() if name not in ("precision", "record")}
        own = {"server": self._server.connection.name, **olc_of(self._choices, self.scored)}
        own |= recorded(answered, "complete", self._options)
        choices = [{name: value for name, value in choice.items() if name != "olc"} for choice in self._answer["choices"]]
        return self._answer | {"model": self._server.model, "choices": choices, "olc": told | own}


def _measured(timings: dict[str, Any]) -> dict[str, Any]:
    """Without what there is only where tokens are generated."""
    return {name: value for name, value in timings.items() if value is not None}


def text_of(made: Choosing) -> str:
    """The answer."""
    return best(made.scored).text
