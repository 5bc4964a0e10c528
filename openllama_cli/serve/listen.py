"""Sockets, and uvicorn within bounds: nobody keeps a connection for nothing, however many try."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import math
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from openllama_cli.errors import OlcError, Terminated, UsageError
from openllama_cli.serve import local_socket
from openllama_cli.serve.errors import ApiError
from openllama_cli.serve.responses import dump

# For a request's line and headers to arrive, from the connection's start or the last answer's end on.
HEADER_SECONDS = 20.0
# A connection without a request may stay open this long after an answer.
IDLE_SECONDS = 60
# For a client to read more of an answer that it keeps waiting.
UNREAD_SECONDS = 60.0
# A request's line and headers.
MOST_HEADER_BYTES = 32 << 10
MOST_CONNECTIONS = 1000
# For answers to end in an error once their time is over.
_LAST_WORDS_SECONDS = 1.0
# File descriptors for everything else: weights, libraries, logs.
_OTHER_FILES = 200


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens. port: 0 for any free one. Raises OlcError."""
    found = _addresses(host)
    family, address = found[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            cause, remedy = (
                f"port {port} on {host} is in use",
                f"give another one, such as --port {port + 1}, or end what uses it",
            )
            raise OlcError(cause, remedy, code="port_in_use") from error
        if error.errno == errno.EACCES:
            raise OlcError(f"port {port} may not be used: {error.strerror}", "give one from 1024 on", code="port") from error
        raise OlcError(f"cannot listen on {host}: {error.strerror}", "give an address of this machine", code="host") from error
    return listener


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host} is unknown", "give 127.0.0.1, or an address of this machine", code="host") from error
    return sorted(((entry[0], str(entry[4][0])) for entry in found), key=lambda entry: entry[0] != socket.AF_INET)


def loopback_only(host: str) -> bool:
    """Whether only this computer reaches an address. Raises UsageError for one that is unknown."""
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for _, address in _addresses(host))


def url(host: str, listener: socket.socket) -> str:
    """Where a browser on this computer finds what listens."""
    port = listener.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"


@contextlib.contextmanager
def local_listener(path: Path, notice: Callable[[str], None]) -> Iterator[socket.socket | None]:
    """A Unix socket that listens, removed after the block.

    None where the folder is not this user's alone, or another server listens there already.
    """
    folder = path.parent
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    too_long = len(str(path).encode()) > local_socket.LONGEST_PATH
    why = "its path is too long" if too_long else "it is not this user's alone (mode 0700)"
    if too_long or not local_socket.private(folder):
        notice(f"olc: no local socket in {folder}: {why}; other olc commands will not find this server")
        yield None
    elif local_socket.alive(path):
        notice("olc: olc's own commands go on using another server of this model; this one answers HTTP alone")
        yield None
    else:
        with contextlib.ExitStack() as afterwards:
            listener = afterwards.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
            _make(path, lambda: _listen(listener, path), afterwards)
            yield listener


def _listen(listener: socket.socket, path: Path) -> None:
    """Listen at a path that has no socket before that: a client that is refused takes the server for dead and removes it."""
    # Never longer than the path: there is a limit. One left by a process that had this id and was killed goes.
    new = path.with_name(f".{os.getpid()}")
    new.unlink(missing_ok=True)
    try:
        listener.bind(str(new))
        new.chmod(0o600)
        listener.listen(1024)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def link(name: Path, path: Path, afterwards: contextlib.ExitStack) -> None:
    """Another name for a socket, unless another server has it. Raises OSError."""
    if not local_socket.alive(name):
        _make(name, lambda: name.symlink_to(path.name), afterwards)


def _make(path: Path, make: Callable[[], object], afterwards: contextlib.ExitStack) -> None:
    """Make a file anew; afterwards it is removed, unless it is another server's by then."""
    path.unlink(missing_ok=True)
    make()
    made = path.lstat().st_ino

    def remove() -> None:
        with contextlib.suppress(OSError):
            if path.lstat().st_ino == made:
                path.unlink()

    afterwards.callback(remove)


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a time limit for headers, a limit of connections, and errors in OpenAI's shape."""

    most = MOST_CONNECTIONS
    header_seconds = HEADER_SECONDS
    unread_seconds = UNREAD_SECONDS
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        # Those that ask for nothing, in the order in which they began to: of this server, as uvicorn keeps its connections.
        self._waiting: dict[Protocol, None] = vars(self.server_state).setdefault("waiting", {})
        if len(self.connections) > self.most and not self._make_room():
            self._refuse(503, "there are too many connections; try again later", "overloaded")
            self.connections.discard(self)
            return
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        self._stop_watching()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # A request that was sent meanwhile is being answered already.
        if self.idle and not self.transport.is_closing():
            self._waiting[self] = None

    def pause_writing(self) -> None:
        super().pause_writing()
        # Through the local socket it is this user's own command, perhaps in front of a pager.
        if self.server is None or self.server[1] is not None:
            self._watch()

    def resume_writing(self) -> None:
        self._stop_watching()
        super().resume_writing()

    def _watch(self, before: int | None = None) -> None:
        """Close a connection whose client reads nothing. before: bytes that waited for it at the last look."""
        size = self.transport.get_write_buffer_size()
        # A long answer is written at once: it may take a slow client longer, as long as it reads.
        if before is not None and size >= before:
            self.transport.abort()
        else:
            self._unread = self.loop.call_later(self.unread_seconds, self._watch, size)

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.idle:
            # Not anew with every byte: a request has to be complete in time.
            if self._deadline is None and not self.transport.is_closing():
                self._expect_request()
        else:
            self._expect_nothing()

    def _make_room(self) -> bool:
        """Close the connection that has asked for nothing for the longest time, if there is one.

        It has most likely been forgotten, or means no good. Its place is free at once: thousands may come before the event loop
        tells that it was closed.
        """
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            return False
        del self._waiting[oldest]
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "the request is not valid HTTP/1.1, or its headers are too large", "invalid_http")

    def _expect_request(self) -> None:
        self._waiting.pop(self, None)
        self._waiting[self] = None
        self._deadline = self.loop.call_later(self.header_seconds, self._late)

    def _expect_nothing(self) -> None:
        self._waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        # After an answer uvicorn's own, longer time for idle connections counts, until something arrives.
        if self.idle and not self.transport.is_closing():
            self._refuse(408, "the request did not arrive in time", "request_timeout")

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answer without a request, and close."""
        body = dump(ApiError(status, message, code).body()).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        with contextlib.suppress(h11.LocalProtocolError):
            response = h11.Response(status_code=status, headers=headers, reason=b"")
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class HttpServer(uvicorn.Server):
    """uvicorn's server; a second signal ends it at once.

    ending: called once a signal has come, in the event loop: a signal may interrupt a line that is being written, inside of
    which no other can be. overdue: called when what runs was given its `drain` seconds.
    """

    ending: Callable[[], None] = staticmethod(lambda: None)
    overdue: Callable[[], None] = staticmethod(lambda: None)
    drain: float = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit |= self.should_exit
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.signals:
            self.ending()
        overdue = asyncio.get_running_loop().call_later(self.drain, self.overdue)
        await super().shutdown(sockets)
        overdue.cancel()

    def run_quietly(self, sockets: list[socket.socket]) -> None:
        """Answer until a signal comes. uvicorn would raise it again; here the caller decides."""
        with contextlib.suppress(KeyboardInterrupt, Terminated):
            self.run(sockets)

    @property
    def signals(self) -> tuple[int, ...]:
        """Those that have come."""
        return tuple(self._captured_signals)


def make_server(app: ASGIApp, *, drain: float, log: Callable[[str], None]) -> HttpServer:
    """uvicorn with everything that is not needed turned off. drain: seconds for what runs once it is to end."""
    _log_errors(log)
    _more_files()
    config = uvicorn.Config(
        app,
        http=Protocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        timeout_keep_alive=IDLE_SECONDS,
        # uvicorn waits for ever with 0.
        timeout_graceful_shutdown=math.ceil(drain + _LAST_WORDS_SECONDS),
    )
    server = HttpServer(config)
    server.drain = drain
    return server


def _more_files() -> None:
    """Let the process have as many connections as are allowed, or allow fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + _OTHER_FILES
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard) if hard != resource.RLIM_INFINITY else wanted, hard))
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    Protocol.most = max(16, min(MOST_CONNECTIONS, soft - _OTHER_FILES))


class _Handler(logging.Handler):
    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        if not record.exc_info:
            return  # How its own shutdown goes.
        if not isinstance(record.exc_info[1], asyncio.CancelledError):  # A request that took longer than the server may.
            self._log(self.format(record))


def _log_errors(log: Callable[[str], None]) -> None:
    """What uvicorn reports of bugs goes where the server's log goes; the rest nowhere."""
    logger = logging.getLogger("uvicorn")
    logger.handlers = [_Handler(log)]
    logger.propagate = False


def exit_code(signals: tuple[int, ...]) -> int:
    """Of a process that was ended by signals."""
    return 143 if signal.SIGTERM in signals else 130 if signal.SIGINT in signals else 0
