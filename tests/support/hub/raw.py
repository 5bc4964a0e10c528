"""A Hub on loopback that sends bytes as they are given, right or wrong: what `server` is too well behaved for.

with RawHub() as hub:
    hub.files({"config.json": b"{}", …})    # right answers for all that a pull asks
    hub.replies["GET /api/models/org/tiny"] = [b"HTTP/1.1 200 OK\\r\\n…"]
"""

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterable
from typing import Self

COMMIT = "c" * 40


def reply(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """An answer in HTTP; headers: with underscores for hyphens."""
    lines = {"Content-Length": str(len(body)), "Connection": "close"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


class RawHub:
    """replies: "METHOD path" → what is sent for it, piece by piece; a float is a pause in seconds. sent: bytes in all."""

    def __init__(self) -> None:
        self.replies: dict[str, Iterable[bytes | float]] = {}
        self.sent = 0

    def __enter__(self) -> Self:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._ended = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._ended = True
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)

    def files(self, files: dict[str, bytes], repo_id: str = "org/tiny") -> None:
        """Answer as the Hub would for a repository with these files."""
        siblings = [{"rfilename": name} for name in sorted(files)]
        self.replies = {f"GET /api/models/{repo_id}": [reply(json.dumps({"sha": COMMIT, "siblings": siblings}).encode())]}
        for name, content in files.items():
            answer = reply(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"')
            path = f"/{repo_id}/resolve/{COMMIT}/{name}"
            self.replies |= {f"HEAD {path}": [answer[: answer.index(b"\r\n\r\n") + 4]], f"GET {path}": [answer]}

    def _serve(self) -> None:
        while not self._ended:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(5)
            asked = b""
            while b"\r\n\r\n" not in asked:
                part = client.recv(65536)
                if not part:
                    return
                asked += part
            method, path, _ = asked.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
            for piece in self.replies.get(f"{method} {path}", [reply(b"", "404 Not Found")]):
                if self._ended:
                    return
                if isinstance(piece, float):
                    time.sleep(piece)
                else:
                    client.sendall(piece)
                    self.sent += len(piece)
            client.shutdown(socket.SHUT_WR)
            client.settimeout(0.5)
            client.recv(1)
