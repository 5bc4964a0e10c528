"""Completions that a server makes for a command: asked for at once, and given out as they come."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from openllama_cli.errors import GenerationError, OlcError
from openllama_cli.openai_api import answer
from openllama_cli.openai_api.models import key_refused
from openllama_cli.openai_api.request import RECORD
from openllama_cli.serve.client.asked import Asked
from openllama_cli.serve.client.connection import DroppedError, events, read
from openllama_cli.serve.client.find import FoundServer
from openllama_cli.serve.client.http import Reply


class NotServedError(Exception):
    """The server that was found here does not do this as it was asked; it is to be done here. Nothing has been shown."""


@dataclass(frozen=True)
class Part:
    """What a choice has become by: row: its place in the request. finish_reason: of its last part, OpenAI's. reason: olc's, if
    its server said it, and room: how many tokens the context has for a completion."""

    row: int
    text: str
    finish_reason: str | None
    reason: str | None = None
    room: int | None = None


def ask(server: FoundServer, asked: Asked) -> dict[str, Any]:
    """The answer, as one document. Raises NotServedError, or for a server that was named OlcError."""
    try:
        headers = {RECORD: "1"} if asked.record and server.olc else {}
        data = read(_accepted(server, server.connection.post(_body(server, asked, stream=False), headers=headers)))
        return answer.completion(data, asked.samples * len(asked.prompts))
    except (DroppedError, answer.BadAnswerError) as problem:
        raise _failed(server, str(problem)) from problem
    finally:
        server.connection.close()


def ask_for_tokens(server: FoundServer, text: str) -> Any:
    """What olc's own server says of a text's tokens. Raises NotServedError, or for a server that was named OlcError."""
    connection = server.connection
    try:
        path = connection.prefix.removesuffix("/v1") + "/tokenize"
        return answer.parse(read(_accepted(server, connection.post({"prompt": text, "spans": True}, path))))
    except (DroppedError, answer.BadAnswerError) as problem:
        connection.close()
        raise _failed(server, str(problem)) from problem


def not_an_answer(server: FoundServer, problem: object) -> Exception:
    """The error of an answer that is not what was asked for."""
    return _failed(server, f"the answer is not what was asked for: {problem}")


class Stream:
    """The answer as it comes; to be closed. olc: what olc's server says at its end, if it is one."""

    def __init__(self, server: FoundServer, asked: Asked) -> None:
        """Ask, and wait for the first part. Raises NotServedError, or for a server that was named OlcError."""
        self.olc: dict[str, Any] = {}
        self._server = server
        self._rows = self._left = frozenset(range(asked.samples * len(asked.prompts)))
        try:
            self._events = events(_accepted(server, server.connection.post(_body(server, asked, stream=True))))
            self._first = self._next()
            if self._first is None:
                raise DroppedError("the stream is empty")
        except DroppedError as problem:
            self.close()
            raise _failed(server, str(problem)) from problem
        except BaseException:
            self.close()
            raise

    def parts(self) -> Iterator[Part]:
        """All parts. Raises OlcError where the server fails on the way."""
        found = self._first
        while found is not None:
            yield from found
            try:
                found = self._next(begun=True)
            except DroppedError as problem:
                raise _failed(self._server, str(problem), begun=True) from problem
        if self._left:
            raise _failed(self._server, f"{len(self._left)} completions did not end", begun=True)

    def close(self) -> None:
        """End the connection; the server gives up what it has not finished."""
        self._server.connection.close()

    def _next(self, *, begun: bool = False) -> list[Part] | None:
        """The parts of the next event that has some; None after the last."""
        for data in self._events:
            try:
                event = answer.parse(data)
                if event.get("error") is not None:
                    raise _refused(self._server, event["error"], begun=begun)
                self.olc = event.get("olc") or self.olc
                parts = [self._part(one) for one in event["choices"]]
            except (answer.BadAnswerError, AttributeError, LookupError, TypeError) as problem:
                raise DroppedError(f"an event is not one: {problem}") from problem
            # Some servers say twice that a completion has ended.
            parts = [part for part in parts if part.row in self._left]
            self._left -= {part.row for part in parts if part.finish_reason is not None}
            if parts:
                return parts
        return None

    def _part(self, choice: Any) -> Part:
        """A choice of an event. Others than olc have no text, or an empty reason, where there is nothing to say."""
        row, text = choice["index"], choice.get("text") or ""
        if not isinstance(text, str):
            raise TypeError("a text is none")
        if row not in self._rows:
            raise LookupError(f"there is no completion {row}")
        return Part(row, text, choice.get("finish_reason") or None, reason_of(choice), room_of(choice))


def reason_of(choice: dict[str, Any]) -> str | None:
    """Why a choice ended: as olc's server says it, else as OpenAI's reasons do."""
    own = choice.get("olc")
    reason = own.get("finish_reason") if isinstance(own, dict) else choice.get("finish_reason")
    return reason if isinstance(reason, str) else None


def room_of(choice: dict[str, Any]) -> int | None:
    """How many tokens the context has for a completion, if olc's server said it."""
    own = choice.get("olc")
    room = own.get("room") if isinstance(own, dict) else None
    return room if type(room) is int else None


def _body(server: FoundServer, asked: Asked, *, stream: bool) -> dict[str, Any]:
    return asked.body(server.model, stream=stream, olc=server.olc)


def _accepted(server: FoundServer, reply: Reply) -> Reply:
    if reply.status == 200:
        return reply
    data = b""
    with suppress(DroppedError):
        data = read(reply)
    code, message = answer.refusal(data)
    if server.own:
        raise NotServedError(message)
    if reply.status in (401, 403):
        raise key_refused(server.connection.name, message)
    with suppress(answer.BadAnswerError, TypeError, LookupError):
        raise _refused(server, answer.parse(data)["error"])
    raise OlcError(
        f"{server.connection.name} refuses: {reply.status} {message}",
        "change what it names, or leave out --server",
        code=code or "server_refused",
    )


def _refused(server: FoundServer, error: Any, *, begun: bool = False) -> Exception:
    """The error in an answer. olc's own has the two lines that a command shows."""
    if server.own and not begun:
        return NotServedError(str(error))
    code, message = answer.refusal(answer.dump({"error": error}))
    cause, remedy = (error.get(name) if isinstance(error, dict) else None for name in ("cause", "remedy"))
    if isinstance(cause, str) and isinstance(remedy, str):
        return GenerationError(cause, remedy, code=code or "server_error")
    name = server.connection.name
    return OlcError(f"{name} answered: {message}", "change what it names, or leave out --server", code=code or "server_refused")


def _failed(server: FoundServer, reason: str, *, begun: bool = False) -> Exception:
    """The error of an answer that does not come, or not to its end."""
    if server.own and not begun:
        return NotServedError(reason)
    name = "the olc server" if server.own else server.connection.name
    remedy = "run the command again" if server.own else "see to the server"
    return OlcError(f"{name} did not answer to the end: {reason}", remedy, code="server_error")
