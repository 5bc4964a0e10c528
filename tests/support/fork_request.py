"""Asking the process of `tests.support.forked` for a run of olc; as a program, an `olc` that is such a run.

As a program: `fork_request.py SOCKET [ARGUMENT]...`, where SOCKET is the path at which that process listens, or
`fork_request.py SOCKET -u -c CODE`, which runs Python's code in place of olc. It imports little, since it is started for every
command of the documentation.
"""

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def ask(
    address: str, arguments: Sequence[str], streams: Sequence[int], env: Mapping[str, str], *, cwd: str, **options: Any
) -> int:
    """Have olc run, with these three streams. Returns a descriptor that tells its process and its exit code, a line each.

    options: see `tests.support.forked.Forked`.
    """
    told, tells = os.pipe()
    request = {"arguments": list(arguments), "env": dict(env), "cwd": cwd, **options}
    content = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [b"\n"], [*streams, tells])
        connection.sendall(content)
    os.close(tells)
    return told


def receive(listener: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next request of `ask`, and the descriptors that came with it: the three streams, and where to tell.

    None if who asked was killed before it had said all.
    """
    connection, _ = listener.accept()
    descriptors: list[int] = []
    with connection:
        try:
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 4)
            with connection.makefile("rb") as content:
                return json.load(content), descriptors
        except (OSError, ValueError):
            for descriptor in descriptors:
                os.close(descriptor)
            return None


if __name__ == "__main__":
    python = sys.argv[2:4] == ["-u", "-c"]
    options = {"code": f"{sys.argv[4]}\nsys.exit()"} if python else {}
    told = ask(sys.argv[1], sys.argv[2:], (0, 1, 2), os.environ, cwd=os.getcwd(), **options)  # noqa: PTH109
    with os.fdopen(told, "rb") as lines:
        code = int(lines.read().splitlines()[1])
    sys.exit(code if code >= 0 else 128 - code)
