"""The completions that `olc complete` shows, by the model loaded here or by a server: two ways to the same outputs."""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from openllama_cli.commands.shared.server import recorded
from openllama_cli.terminal.views.complete import Stats

if TYPE_CHECKING:
    from openllama_cli.api import Run
    from openllama_cli.serve.client.asked import Asked
    from openllama_cli.serve.client.find import FoundServer


class Shown(NamedTuple):
    """What a row's text has become by, and whether that is its last."""

    row: int
    text: str
    last: bool


class Completing(Protocol):
    """Completions of one prompt. Either `steps` is called, or `document`; the rest is for afterwards."""

    @property
    def texts(self) -> list[str]:
        """The completions."""

    @property
    def reasons(self) -> list[str | None]:
        """Why each ended; olc's own reason where it is known."""

    @property
    def room(self) -> int | None:
        """How many tokens the context has for a completion; None where a server did not say it."""

    @property
    def stats(self) -> Stats:
        """What was measured."""

    def steps(self) -> Iterator[Shown]:
        """The texts, as they come. Raises OlcError."""

    def document(self) -> dict[str, Any]:
        """The OpenAI `text_completion` object, with olc's own data under `olc`. Raises OlcError."""


class Loaded:
    """By a model that is loaded here. engine: as --engine names it. echo: whether the prompt is to precede the texts in JSON.

    options: the command's own, for the record.
    """

    def __init__(self, run: "Run", engine: str, prompt: str, *, echo: bool, **options: Any) -> None:
        self._run, self._engine, self._prompt, self._options = run, engine, prompt, options
        self._echo = prompt if echo else None

    @property
    def texts(self) -> list[str]:
        return [row.text for row in self._run.rows]

    @property
    def reasons(self) -> list[str | None]:
        return [row.finish_reason for row in self._run.rows]

    @property
    def room(self) -> int:
        return self._run.room

    @property
    def stats(self) -> Stats:
        loaded = self._run.model.loaded
        return Stats(self._run.timings.as_dict(), loaded.device, loaded.precision, self._run.forward)

    def steps(self) -> Iterator[Shown]:
        for step in self._run.steps():
            yield Shown(step.row, step.text, step.finish_reason is not None)

    def document(self) -> dict[str, Any]:
        import secrets

        from openllama_cli.generation.session import describe
        from openllama_cli.generation.text.completion import choice, usage
        from openllama_cli.records.record import record

        run = self._run.finish()
        loaded, sampling = run.model.loaded, run.sampling
        constraint = sampling.constraint
        choices = [
            choice(index, row, loaded.tokenizer, echo=self._echo, logprobs=sampling.logprobs is not None, constraint=constraint)
            for index, row in enumerate(run.rows)
        ]
        return {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": loaded.folder.name,
            "choices": choices,
            "usage": usage(run.rows),
            "olc": {
                **describe(loaded),
                "engine": self._engine,
                "forward": run.forward,
                "seed": sampling.seed,
                "timings": run.timings.as_dict(),
                "record": record(run, [self._prompt], "complete", self._engine, echo=self._echo is not None, **self._options),
            },
        }


class Served:
    """By a server. options: the command's own, for the record."""

    def __init__(self, server: "FoundServer", asked: "Asked", *, whole: bool, **options: Any) -> None:
        """Ask, and wait for the first part; whole: for all. Raises NotServedError, or for a server that was named OlcError."""
        from openllama_cli.serve.client.completions import Stream, ask

        self._server, self._asked, self._options = server, asked, options
        self._texts = [""] * asked.samples
        self._reasons: list[str | None] = [None] * asked.samples
        self._room: int | None = None
        self._began = time.perf_counter()
        self._first: float | None = None
        self._answer: dict[str, Any] = {}
        self._stream: Stream | None = None
        if whole:
            self._answer = ask(server, asked)
        else:
            self._stream = Stream(server, asked)
        self._ended = time.perf_counter()

    @property
    def texts(self) -> list[str]:
        return self._texts

    @property
    def reasons(self) -> list[str | None]:
        return self._reasons

    @property
    def room(self) -> int | None:
        return self._room

    @property
    def stats(self) -> Stats:
        """What olc's own server measured, or what can be measured from here."""
        told = self._stream.olc if self._stream is not None else self._answer.get("olc", {})
        name = self._server.connection.name
        if self._server.olc and "timings" in told:
            return Stats(told["timings"], told["device"], told["precision"], told["forward"], name)
        first = None if self._first is None else round(self._first - self._began, 4)
        return Stats({"time_to_first_token_s": first, "total_s": round(self._ended - self._began, 4)}, None, None, None, name)

    def steps(self) -> Iterator[Shown]:
        assert self._stream is not None
        with closing(self._stream) as stream:
            for part in stream.parts():
                self._first = self._first or time.perf_counter()
                self._texts[part.row] += part.text
                self._reasons[part.row] = part.reason
                self._room = part.room or self._room
                yield Shown(part.row, part.text, part.finish_reason is not None)
        self._ended = time.perf_counter()

    def document(self) -> dict[str, Any]:
        from openllama_cli.serve.client.completions import reason_of, room_of

        document = self._answer
        echoed = len(self._asked.prompts[0]) if self._asked.echo else 0
        self._texts = [choice["text"][echoed:] for choice in document["choices"]]
        self._reasons = [reason_of(choice) for choice in document["choices"]]
        self._room = room_of(document["choices"][0])
        if not self._server.olc:
            return document | {"olc": {"server": self._server.connection.name}}
        told = document["olc"] | {"seed": self._asked.sampling.seed, "server": self._server.connection.name}
        choices = [_as_loaded(choice) for choice in document["choices"]]
        olc = {name: value for name, value in told.items() if name not in ("precision", "record")}
        olc |= recorded(told, "complete", self._options)
        return document | {"model": self._server.model, "choices": choices, "olc": olc}


def _as_loaded(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice of olc's server as it is without one: with olc's own reason only where OpenAI's does not say it."""
    own = choice.get("olc", {})
    said = {name: own[name] for name in ("finish_reason", "note", "constraint") if name in own}
    if "note" not in own:
        said.pop("finish_reason", None)
    return {name: value for name, value in choice.items() if name != "olc"} | ({"olc": said} if said else {})
