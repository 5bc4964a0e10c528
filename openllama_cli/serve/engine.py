"""The thread that owns the model: it loads it, then runs the decode loop for as long as the server lives."""

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openllama_cli.errors import GenerationError, OlcError, Terminated
from openllama_cli.serve.errors import ApiError
from openllama_cli.serve.scheduler import Scheduler

if TYPE_CHECKING:
    from openllama_cli.api import Model
    from openllama_cli.generation.text.stream import Engine as Loop
    from openllama_cli.generation.text.stream import TextStep


@dataclass(frozen=True)
class Facts:
    """What requests are checked against. name: the model's. vocabulary: rows of its embedding. description: for answers.

    pieceless: ids that no text belongs to. surroundings: for records, of the files as they were loaded.
    """

    name: str
    context: int
    vocabulary: int
    pieceless: frozenset[int]
    max_rows: int
    description: dict[str, Any]
    surroundings: dict[str, Any]


class Engine:
    """A model that is loading, ready, or could not be loaded.

    load: loads it, in the engine thread. max_rows: rows at a time; None for as many as memory has room for. log: told what
    people should know. ended: called in the engine thread once it is ready (with None), and if it fails (with the error).
    """

    def __init__(
        self,
        load: "Callable[[], Model]",
        *,
        max_rows: int | None = None,
        log: Callable[[str], None] = lambda text: None,
        ended: Callable[[BaseException | None], None] = lambda error: None,
    ) -> None:
        self._load, self._max_rows, self._log, self._ended = load, max_rows, log, ended
        self._thread = threading.Thread(target=self._run, daemon=True, name="olc-engine")
        self._closed = False
        self.scheduler = Scheduler()
        self.error: BaseException | None = None
        self.started = time.time()
        self.model: Model | None = None
        self.facts: Facts | None = None

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def close(self, seconds: float = 30.0) -> bool:
        """Cancel what runs and end the thread. Returns whether it ended in time: a step takes as long as it takes.

        Loading is not waited for.
        """
        self._closed = True
        self.scheduler.close()
        if self._thread.ident is not None:
            self._thread.join(0.1 if self.model is None and self.error is None else seconds)
        return not self._thread.is_alive()

    def ready(self) -> "tuple[Model, Facts]":
        """The model. Raises ApiError while it is loading."""
        if self.model is None or self.facts is None:
            raise ApiError(503, "the model is loading; send the request again in a moment", "loading", retry_after=1)
        return self.model, self.facts

    def _fail(self, error: BaseException) -> None:
        self.error = error
        self.scheduler.fail(_broken)
        self._ended(error)

    def _run(self) -> None:
        try:
            model = self._load()
            self.facts = self._facts(model)
            loop = self._loop(model, self.facts.max_rows)
            self.model = model
        except BaseException as error:
            self._fail(error)
            return
        self._ended(None)
        while not self._closed:
            try:
                self._decode(model, loop)
            except (OlcError, Terminated) as error:  # A rank of torchrun is lost, and the model with it.
                self._fail(error)
                return
            except Exception as error:
                self._log("".join(traceback.format_exception(error)).rstrip())
                self.scheduler.fail(_broken)
                loop = self._loop(model, self.facts.max_rows)

    def _decode(self, model: "Model", loop: "Loop") -> None:
        from openllama_cli.generation.text.stream import stream

        for step in stream(loop, model.tokenizer, self.scheduler.requests()):
            self.scheduler.deliver(step)

    def _loop(self, model: "Model", max_rows: int) -> "Loop":
        from openllama_cli.generation.forward.cache import PrefixCache
        from openllama_cli.generation.session import make_engine

        return make_engine(model.loaded, forward=model.forward, max_rows=max_rows, prefixes=PrefixCache(), shed=True)

    def _facts(self, model: "Model") -> Facts:
        from openllama_cli.generation.batch_size import auto_batch_size
        from openllama_cli.generation.session import describe
        from openllama_cli.records.record import surroundings
        from openllama_cli.system.device import free_bytes

        loaded = model.loaded
        shape, device = loaded.checkpoint.shape, loaded.input_device
        forward = model.forward.name
        rows = self._max_rows or auto_batch_size(
            free_bytes(device), shape.cache_bytes(loaded.dtype.itemsize), shape.context, on_cpu=device.type == "cpu"
        )
        return Facts(
            name=model.name,
            context=shape.context,
            vocabulary=shape.vocab,
            pieceless=model.tokenizer.pieceless(shape.vocab),
            max_rows=rows,
            description={
                **describe(loaded),
                "engine": "loop",
                "forward": f"{forward} forward pass",
                "precision": loaded.precision,
            },
            surroundings=surroundings(loaded, "serve", "loop", f"{forward} forward pass"),
        )


def _broken(row: int) -> "TextStep":
    from openllama_cli.generation.text.stream import TextStep

    cause = "the model's forward pass failed; the server's log has the reason"
    return TextStep(row, error=GenerationError(cause, "send the request again", code="generation"))
