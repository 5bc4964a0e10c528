"""A connection to a server: over its Unix socket, or over TCP with or without TLS; one request at a time."""

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from openllama_cli.openai_api.address import ServerAddress, key_headers
from openllama_cli.serve.client.http import HttpError, Reply, exchange
from openllama_cli.serve.local_socket import private

# A server that lives accepts at once, and says so much within a few seconds even where all processors are busy.
CONNECT_SECONDS = 5.0
# For what a server that was named says of itself: a gateway, or one that others keep busy, takes its time.
NAMED_SECONDS = 30.0
# For the next part of an answer: a full server lets requests wait.
_ANSWER_SECONDS = 3600.0


class DroppedError(Exception):
    """The server did not answer, or not to the end."""


class Connection:
    """name: the server's, to show. prefix: of the API's paths, such as /v1. Every failure is a DroppedError."""

    def __init__(self, connect: Callable[[], socket.socket], host: str, name: str, prefix: str = "/v1") -> None:
        self.name, self.prefix = name, prefix
        self._connect, self._host = connect, host
        self._headers: dict[str, str] = {}
        with _dropped():
            self._socket: socket.socket | None = connect()

    @classmethod
    def unix(cls, path: Path) -> "Connection | None":
        """To a socket; None where nobody listens. A socket that a dead server left is removed if it is this user's."""
        if not private(path.parent):
            return None
        try:
            left = path.lstat()
        except OSError:
            return None
        try:
            return cls(lambda: _unix(path), "localhost", str(path))
        except DroppedError as problem:
            if isinstance(problem.__cause__, ConnectionRefusedError):
                with contextlib.suppress(OSError):
                    if os.path.samestat(left, path.lstat()):
                        path.unlink()
        except OSError:
            pass
        return None

    @classmethod
    def tcp(cls, address: ServerAddress) -> "Connection":
        """To an address. Raises UsageError for a key that cannot be sent."""
        parts = urlsplit(address.url)
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        headers = key_headers()
        connection = cls(lambda: _tcp(address.host, port, secure=secure), parts.netloc, address.url, parts.path)
        connection._headers = headers
        return connection

    def get(self, path: str) -> tuple[int, bytes]:
        """The status and body of GET `path`, soon."""
        with _dropped():
            reply = exchange(self._open(), self._host, "GET", path, self._headers, b"")
            body = reply.read()
        if not reply.lasting:
            self.close()
        return reply.status, body

    def post(self, body: dict[str, Any], path: str | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Ask for completions, or for what `path` says. The body of the answer is for `events` or `read`."""
        path = f"{self.prefix}/completions" if path is None else path
        with _dropped():
            connection = self._open()
            connection.settimeout(_ANSWER_SECONDS)
            sent = {**self._headers, "Content-Type": "application/json", **(headers or {})}
            return exchange(connection, self._host, "POST", path, sent, json.dumps(body).encode())

    def close(self) -> None:
        """End it: a request under way is the server's to give up."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # At once, whatever is still being read from it.
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = self._connect()
        return self._socket


def _unix(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(CONNECT_SECONDS)
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def _tcp(host: str, port: int, *, secure: bool) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
    if secure:
        import ssl

        connection = ssl.create_default_context().wrap_socket(connection, server_hostname=host)
    connection.settimeout(NAMED_SECONDS)
    return connection


def read(reply: Reply) -> bytes:
    """All of an answer's body."""
    with _dropped():
        return reply.read()


def events(reply: Reply) -> Iterator[bytes]:
    """The data of a stream's events, until it says that it is done. Raises DroppedError where it ends before."""
    while True:
        with _dropped():
            line = reply.readline()
        if not line:
            raise DroppedError("the stream ended before it was complete")
        if not line.startswith(b"data:"):
            continue  # Between events, or a comment that shows that the server lives.
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        yield data


@contextlib.contextmanager
def _dropped() -> Iterator[None]:
    try:
        yield
    except (OSError, HttpError) as problem:
        raise DroppedError(str(problem) or type(problem).__name__) from problem
