"""One HTTP connection to a server: over its Unix socket or over TCP, one request at a time."""

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from openllama_cli.openai_api.address import ServerAddress, key_headers
from openllama_cli.serve.local_socket import private

# A server that lives accepts at once, and says so much within a few seconds even where all processors are busy.
CONNECT_SECONDS = 5.0
# For the next part of an answer: a full server lets requests wait.
_ANSWER_SECONDS = 3600.0


class DroppedError(Exception):
    """The server did not answer, or not to the end."""


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=CONNECT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(CONNECT_SECONDS)
        self.sock.connect(str(self._path))


class Connection:
    """name: the server's, to show. prefix: of the API's paths, such as /v1. Every failure is a DroppedError."""

    def __init__(self, http_: http.client.HTTPConnection, name: str, prefix: str, headers: dict[str, str]) -> None:
        self._http, self.name, self.prefix, self._headers = http_, name, prefix, headers

    @classmethod
    def unix(cls, path: Path) -> "Connection | None":
        """To a socket; None where nobody listens. A socket that a dead server left is removed if it is this user's."""
        if not private(path.parent):
            return None
        connection = cls(_Unix(path), str(path), "/v1", {})
        try:
            left = path.lstat()
            connection._http.connect()
        except ConnectionRefusedError:
            connection.close()
            with contextlib.suppress(OSError):
                if os.path.samestat(left, path.lstat()):
                    path.unlink()
            return None
        except OSError:
            connection.close()
            return None
        return connection

    @classmethod
    def tcp(cls, address: ServerAddress) -> "Connection":
        """To an address. Raises DroppedError where it cannot be reached, UsageError for a key that cannot be sent."""
        parts = urlsplit(address.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = cls(kind(address.host, parts.port, timeout=CONNECT_SECONDS), address.url, parts.path, key_headers())
        with _dropped():
            connection._http.connect()
        return connection

    def get(self, path: str) -> tuple[int, bytes]:
        """The status and body of GET `path`; soon, or DroppedError."""
        with _dropped():
            self._http.request("GET", path, headers=self._headers)
            reply = self._http.getresponse()
            return reply.status, reply.read()

    def post(self, body: dict[str, Any]) -> http.client.HTTPResponse:
        """Ask for completions. The body of the answer is for `lines` or `read`."""
        with _dropped():
            if self._http.sock is not None:
                self._http.sock.settimeout(_ANSWER_SECONDS)
            headers = {**self._headers, "Content-Type": "application/json"}
            self._http.request("POST", f"{self.prefix}/completions", json.dumps(body).encode(), headers)
            return self._http.getresponse()

    def close(self) -> None:
        """End it: a request under way is the server's to give up."""
        self._http.close()


def read(reply: http.client.HTTPResponse) -> bytes:
    """All of an answer's body."""
    with _dropped():
        return reply.read()


def events(reply: http.client.HTTPResponse) -> Iterator[bytes]:
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
    except (OSError, http.client.HTTPException) as problem:
        raise DroppedError(str(problem) or type(problem).__name__) from problem
