"""The steps of a job as an asynchronous stream: the engine thread puts them in, one request's task takes them out."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openllama_cli.generation.text.stream import TextStep


class Steps:
    """Create it in the event loop of the request. The engine never waits: what nobody takes is kept, at most a row's tokens."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._steps: deque[TextStep] = deque()
        self._told = False

    def put(self, step: "TextStep") -> None:
        """Add a step, from any thread."""
        self._steps.append(step)
        if not self._told:
            self._told = True
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody reads any more.
                self._loop.call_soon_threadsafe(self._arrived.set)

    async def batches(self, seconds: float) -> "AsyncIterator[list[TextStep]]":
        """All steps that have arrived since the last time; none if none did for some seconds."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._arrived.wait()
            self._arrived.clear()
            self._told = False
            batch = []
            while self._steps:
                batch.append(self._steps.popleft())
            yield batch
