"""A server from its start to its end: listen, load, answer, finish what runs."""

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openllama_cli.errors import GenerationError, UsageError
from openllama_cli.models.loading.ranks import rank_info
from openllama_cli.serve import listen
from openllama_cli.serve.app import Server, make_app
from openllama_cli.serve.engine import Engine
from openllama_cli.serve.guard import Access, Entry
from openllama_cli.serve.local_socket import precision_name, socket_path

if TYPE_CHECKING:
    from openllama_cli.api import Model
    from openllama_cli.generation.text.stream import TextStep
    from openllama_cli.models.opened import OpenedModel
    from openllama_cli.models.spec import ModelSpec

# For the engine's last step, once nothing is to be finished any more.
_LAST_STEP_SECONDS = 20.0


@dataclass(frozen=True)
class Settings:
    """What the options of `olc serve` say. drain: seconds for what runs once the server is to end."""

    host: str = "127.0.0.1"
    port: int = 8080
    max_rows: int | None = None
    key: str | None = None
    origins: tuple[str, ...] = ()
    drain: float = 30.0
    always_bos: bool = False


@dataclass(frozen=True)
class Started:
    """What a server says once it is ready."""

    url: str
    local: Path | None
    model: "Model"
    max_rows: int


def check_settings(settings: Settings) -> None:
    """Raise UsageError for what must not be: others reaching the server without a key, an origin that is none."""
    if settings.key is None and not listen.loopback_only(settings.host):
        raise UsageError(
            f"--host {settings.host} lets other computers in, and there is no key",
            "give --api-key-file FILE, or listen on 127.0.0.1",
            code="key_required",
        )
    for origin in settings.origins:
        scheme, found, rest = origin.partition("://")
        if not found or scheme not in ("http", "https") or not rest or "/" in rest:
            cause = f"--allow-origin {origin} is not the origin of a page"
            raise UsageError(cause, "give scheme, host and port alone, such as https://example.org")


def read_key(path: str) -> str:
    """The key in a file. Raises UsageError for a file that has none."""
    try:
        key = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise UsageError(f"--api-key-file {path} cannot be read: {why}", "check the file", code="key_file") from error
    spaces = any(character.isspace() for character in key)
    if spaces or len(key) < 8:
        why = "has spaces or several lines" if spaces else "has a key of fewer than 8 characters" if key else "is empty"
        remedy = "write a key of its own into another file, such as: openssl rand -hex 24 > key.txt"
        raise UsageError(f"--api-key-file {path} {why}", remedy, code="key_file")
    return key


@contextlib.contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """The TCP socket, before anything takes time. Raises OlcError."""
    check_settings(settings)
    listener = listen.bind(settings.host, settings.port)
    with contextlib.closing(listener):
        yield listener


def serve(
    listener: socket.socket,
    opened: "OpenedModel",
    spec: "ModelSpec",
    settings: Settings,
    load: "Callable[[], Model]",
    *,
    started: Callable[[Started], None],
    answered: Callable[[Entry], None],
    log: Callable[[str], None],
) -> tuple[int, ...]:
    """Answer requests until a signal comes; returns those that came.

    load: loads the model, in another thread. started: called in that thread once the model is ready. answered: called with
    every request's log entry. Raises what loading raised.
    """

    def ended(error: BaseException | None) -> None:
        if error is not None:
            http.should_exit = http.force_exit = True
            return
        model, facts = engine.ready()
        link_names(model)
        started(Started(listen.url(settings.host, listener), path if local is not None else None, model, facts.max_rows))

    def link_names(model: "Model") -> None:
        """The names under which commands look that say what "auto" has come to."""
        if local is None:
            return
        loaded = model.loaded
        dtype = str(loaded.dtype).removeprefix("torch.")
        names = {
            socket_path(folder.path, folder.revision, precision_name(one, spec.quantize), device, folder.adapters)
            for one in (spec.dtype, dtype)
            for device in (spec.device, loaded.device)
        }
        for name in sorted(names - {path}):
            with contextlib.suppress(OSError):
                listen.link(name, path, afterwards)

    folder, precision = opened.folder, precision_name(spec.dtype, spec.quantize)
    path = socket_path(folder.path, folder.revision, precision, spec.device, folder.adapters)
    engine = Engine(load, max_rows=settings.max_rows, log=log, ended=ended)
    server = Server(engine, settings.always_bos, log)
    access = Access(settings.host, settings.key, settings.origins)
    http = listen.make_server(make_app(server, access, done=answered), drain=settings.drain, log=log)
    with contextlib.ExitStack() as afterwards:
        # Ranks add up in another order: what they answer is not what one process answers, to the bit.
        local = afterwards.enter_context(listen.local_listener(path, log)) if rank_info() is None else None
        http.ending = lambda: log(_farewell(engine, settings.drain))
        http.overdue = lambda: engine.scheduler.close(_given_up)
        engine.start()
        try:
            http.run_quietly([listener, *([local] if local is not None else [])])
        finally:
            stopped = engine.close(_LAST_STEP_SECONDS)
        if engine.error is not None:
            raise engine.error
        if not stopped:
            # Ending Python while a thread computes aborts it; all answers have been sent or given up.
            afterwards.close()
            sys.stderr.flush()
            os._exit(listen.exit_code(http.signals))
    return http.signals


def _given_up(row: int) -> "TextStep":
    from openllama_cli.generation.text import stream

    error = GenerationError("the server is ending", "send the request to another one", code="shutting_down")
    return stream.TextStep(row, error=error)


def _farewell(engine: Engine, drain: float) -> str:
    rows = engine.scheduler.active + engine.scheduler.waiting
    completions = f"{rows} completion{'' if rows == 1 else 's'}"
    return f"olc: ending{f'; finishing {completions}, at most {drain:g} s (Ctrl-C: at once)' if rows else ''}"
