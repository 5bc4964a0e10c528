"""The rows of a batch over a completions server, many at a time; results to the journal as they come.

    read rows → as many requests at a time as the batch size → judge each answer → results

A row is with one task from its first attempt to its result, which is kept once. An attempt whose connection was cut may have
been completed by the server all the same: that costs it work, and changes nothing here.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import httpx

from openllama_cli.batch.input.rows import Row
from openllama_cli.batch.output.results import Progress, Result, failure, received
from openllama_cli.batch.remote.attempts import Patience, Refused, Retry, judge
from openllama_cli.batch.remote.server import Server, client_options, transport_options, unreachable
from openllama_cli.errors import OlcError
from openllama_cli.openai_api import answer
from openllama_cli.openai_api.address import ServerAddress
from openllama_cli.openai_api.request import choices_request, completion_request

# Between two looks at signals and clocks.
_TICK_SECONDS = 0.25
_JSON = {"Content-Type": "application/json"}
# The connection was never made: the row is not to blame.
_NOT_CONNECTED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass
class RemoteRunner:
    """Completes rows on a server that `server.connect` found.

    concurrency: requests at a time. given: options of the command line, see `openai_api.request`. keep, stopping, notice,
    progress: as in `runner.Runner`.
    """

    server: Server
    keep: Callable[[Result], object]
    concurrency: int
    given: Sequence[str] = ()
    stopping: Callable[[], bool] = lambda: False
    notice: Callable[[str], None] = lambda text: None
    patience: Patience = field(default_factory=Patience)
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self._tasks: set[asyncio.Task[Result | None]] = set()
        self._heard = time.monotonic()
        self._told = False
        # The server asked to be left alone until then.
        self._quiet_until = 0.0

    def run(self, rows: Iterable[Row]) -> Iterator[Progress]:
        """Work through all rows; yields the counts a few times a second. Closing the iterator leaves unfinished rows undone.

        Raises OlcError where the server refuses all rows, or cannot be reached for long.
        """
        waiting = iter(rows)
        with closing(_Loop()) as loop:
            client = self._client()
            try:
                while self._begin(loop, client, waiting) or self._tasks:
                    for task in loop.run(self._wait()):
                        if (result := task.result()) is not None:
                            self.keep(result)
                            self.progress.count(result)
                    yield self.progress
            finally:
                loop.cancel()
                loop.run(client.aclose())

    def _begin(self, loop: "_Loop", client: httpx.AsyncClient, waiting: Iterator[Row]) -> bool:
        """Send rows while there are places; whether one was sent."""
        begun = False
        while len(self._tasks) < self.concurrency and not self.stopping():
            row = next(waiting, None)
            if row is None:
                break
            self._tasks.add(loop.begin(self._complete(client, row)))
            begun = True
        return begun

    def _client(self) -> httpx.AsyncClient:
        address = ServerAddress.parse(self.server.url)
        limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        transport = httpx.AsyncHTTPTransport(limits=limits, **transport_options(address))
        timeout = httpx.Timeout(self.patience.answer, connect=self.patience.connect)
        return httpx.AsyncClient(transport=transport, timeout=timeout, **client_options(address))

    async def _wait(self) -> set["asyncio.Task[Result | None]"]:
        done, self._tasks = await asyncio.wait(self._tasks, timeout=_TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        return done

    async def _complete(self, client: httpx.AsyncClient, row: Row) -> Result | None:
        """A row's result; None where the run is stopped before there is one."""
        if row.error is not None:
            return failure(row, row.error.code, row.error.message)
        if row.choices is not None and not self.server.is_olc:
            message = f"{self.server.url} is not olc's own server, and others do not choose among texts"
            return failure(row, "unsupported_option", message)
        try:
            request = _request(row, self.server, self.given)
        except OlcError as error:  # The row asks for what the server does not have.
            return failure(row, error.code, error.cause)
        wanted = request["n"] if type(request.get("n")) is int else 1
        body = json.dumps(request).encode()  # ASCII, whatever surrogates are in it.
        attempt = failed = 0
        while not self.stopping():
            attempt += 1
            await self._sleep(self._quiet_until - time.monotonic())
            try:
                found = await self._attempt(client, body, wanted)
            except Refused as refused:
                self._hear()
                return failure(row, refused.code, refused.message)
            except Retry as retry:
                failed += not retry.full
                if failed >= self.patience.attempts:
                    return failure(row, retry.code, f"{retry.message} ({failed} attempts)")
                await self._sleep(self._wait_for(retry, attempt))
            else:
                self._hear()
                self.progress.tokens += (answer.usage(found) or {}).get("completion_tokens", 0)
                return received(row, found)
        return None

    async def _attempt(self, client: httpx.AsyncClient, body: bytes, choices: int) -> dict[str, Any]:
        """Send a row once. choices: that the answer has to have. Raises Retry, Refused, and OlcError as `attempts.judge`."""
        url = self.server.url
        try:
            async with (
                asyncio.timeout(self.patience.answer),
                client.stream("POST", f"{url}/completions", content=body, headers=_JSON) as reply,
            ):
                data = bytearray()
                async for chunk in reply.aiter_bytes():
                    data += chunk
                    if len(data) > answer.MOST_BYTES:
                        raise Retry("server_answer", f"the answer is longer than {answer.MOST_BYTES >> 20} MiB")
        except _NOT_CONNECTED as problem:
            raise Retry("server_unavailable", unreachable(url, problem).cause, full=True) from problem
        except (TimeoutError, httpx.TimeoutException) as problem:
            raise Retry("server_timeout", f"no answer within {self.patience.answer:g} s") from problem
        except httpx.HTTPError as problem:
            raise Retry("server_error", f"the connection was cut: {problem or type(problem).__name__}") from problem
        judge(url, reply.status_code, reply.headers.get("Retry-After"), bytes(data))
        try:
            return answer.completion(bytes(data), choices)
        except answer.BadAnswerError as problem:
            raise Retry("server_answer", str(problem)) from problem

    def _wait_for(self, retry: Retry, attempt: int) -> float:
        """How long a row waits for its next attempt. Raises OlcError where all rows have waited for too long."""
        if not retry.full:
            self._hear()  # It does answer.
        elif time.monotonic() - self._heard > self.patience.give_up:
            raise OlcError(
                f"{self.server.url} answered no row for {self.patience.give_up:.0f} s; the last time: {retry.message}",
                "see to the server; the same command resumes the batch",
                code="server_unavailable",
            )
        elif not self._told:
            self._told = True
            self.notice(f"{retry.message}; waiting for the server")
        if retry.after is None:
            return self.patience.seconds(attempt)
        if retry.full:  # What it asks of one row holds for all.
            self._quiet_until = max(self._quiet_until, time.monotonic() + retry.after)
        return retry.after

    def _hear(self) -> None:
        self._heard, self._told = time.monotonic(), False

    async def _sleep(self, seconds: float) -> None:
        """Sleep, unless the run is stopped meanwhile."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0 and not self.stopping():
            await asyncio.sleep(min(left, _TICK_SECONDS))


class _Loop:
    """An event loop that runs only while it is told to: between its turns the caller writes journals and hears signals."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._handle)
        self._raised: BaseException | None = None

    def run(self, work: Any) -> Any:
        """Run until this is done."""
        try:
            return self._loop.run_until_complete(work)
        except RuntimeError:
            if self._raised is not None:
                raise self._raised from None
            raise

    def begin(self, work: Any) -> "asyncio.Task[Any]":
        """Start what goes on whenever something runs."""
        return self._loop.create_task(work)

    def cancel(self) -> None:
        """End all that has begun."""
        self._raised = None
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.run(asyncio.wait(tasks))

    def close(self) -> None:
        self.run(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # asyncio would only log a SIGTERM that comes while it is with a connection. Errors of tasks that nobody asks any more,
        # since another one ended the run, are no matter.
        error = context.get("exception")
        if error is not None and not isinstance(error, Exception):
            self._raised = error
            loop.stop()


def _request(row: Row, server: Server, given: Sequence[str]) -> dict[str, Any]:
    """The JSON of a row's request: an OpenAI line's body as it is but for the model, and that it is not streamed."""
    if row.body is not None:
        unstreamed = {name: value for name, value in row.body.items() if name not in ("stream", "stream_options")}
        choices = {} if row.choices is None else choices_request(row.choices)
        return unstreamed | {"model": server.model} | choices
    assert row.sampling is not None
    prompt = row.tokens if row.tokens is not None else row.prompt or ""
    if row.choices is not None:
        return {"model": server.model, "prompt": prompt, **choices_request(row.choices)}
    body = completion_request(server.model, prompt, row.sampling, echo=row.echo, given=given, olc=server.is_olc)
    if row.best_of > 1:
        body |= {"n": row.samples} | ({"best_of": row.best_of} if row.best_of > row.samples else {})
    draws = not row.sampling.greedy and not row.own_seed
    if server.is_olc:
        if draws:
            body["seed"] = row.sampling.seed or 0
        return body | {"olc": {"fit": not row.fixed_length, **({"draws_as": row.index} if draws else {})}}
    if draws:
        # Rows that have no seed of their own draw differently, as they do here.
        body["seed"] = ((row.sampling.seed or 0) + row.index) % (1 << 31)
    return body
