"""As much of HTTP/1.1 as a command needs to ask a server: a request, and the body of its answer as it arrives.

Python's http.client brings 35 modules (ssl, email), a seventh of what an answered `olc complete` takes in all.
"""

import io
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# A line of the head, and how many there may be.
_LONGEST_LINE, _MOST_LINES = 1 << 16, 200


class HttpError(Exception):
    """What came is not HTTP, or is torn."""


class Reply:
    """An answer. status: of HTTP. lasting: whether the connection can take another request once the body has been read."""

    def __init__(self, file: io.BufferedReader) -> None:
        """Read the head. Raises HttpError, OSError."""
        version, _, rest = self._line(file).partition(b" ")
        if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise HttpError("the answer is not HTTP")
        self.status = int(rest[:3])
        headers: dict[bytes, bytes] = {}
        for _ in range(_MOST_LINES):
            line = self._line(file)
            if not line:
                break
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        else:
            raise HttpError("the answer has too many headers")
        chunked = b"chunked" in headers.get(b"transfer-encoding", b"").lower()
        length = headers.get(b"content-length", b"")
        left = int(length) if length.isdigit() and not chunked else None
        self.lasting = (chunked or left is not None) and headers.get(b"connection", b"").lower() != b"close"
        self._body = io.BufferedReader(_Body(file, left, chunked=chunked))

    @staticmethod
    def _line(file: io.BufferedReader) -> bytes:
        line = file.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise HttpError("the answer ended in its head")
        return line.rstrip(b"\r\n")

    def read(self) -> bytes:
        """All of the body that is left. Raises HttpError, OSError."""
        return self._body.read()

    def readline(self) -> bytes:
        """The next line of the body, as soon as it is there; empty at its end. Raises HttpError, OSError."""
        return self._body.readline()


class _Body(io.RawIOBase):
    """A body by its length, in chunks, or up to the connection's end."""

    def __init__(self, file: io.BufferedReader, left: int | None, *, chunked: bool) -> None:
        self._file, self._left, self._chunked = file, 0 if chunked else left, chunked
        self._begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        if self._left == 0 and self._chunked:
            self._next_chunk()
        if self._left == 0:
            return 0
        data = self._file.read1(len(view) if self._left is None else min(len(view), self._left))
        if self._left is not None:
            if not data:
                raise HttpError("the answer ended before it was complete")
            self._left -= len(data)
        view[: len(data)] = data
        return len(data)

    def _next_chunk(self) -> None:
        if self._begun and self._file.readline(_LONGEST_LINE).strip():
            raise HttpError("the answer's chunks are torn")
        self._begun = True
        size = self._file.readline(_LONGEST_LINE).partition(b";")[0].strip()
        if not size.isalnum():
            raise HttpError("the answer ended before it was complete")
        try:
            self._left = int(size, 16)
        except ValueError:
            raise HttpError("the answer's chunks are torn") from None
        if self._left == 0:
            self._chunked = False
            while self._file.readline(_LONGEST_LINE).strip():
                pass


def exchange(connection: socket.socket, host: str, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
    """Send a request, and wait for the head of its answer. Raises HttpError, OSError."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    if method != "GET":
        lines.append(f"Content-Length: {len(body)}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
    return Reply(connection.makefile("rb"))
