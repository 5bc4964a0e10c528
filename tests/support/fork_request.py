"""Asking the process of `tests.support.forked` for a run of olc; as a program, an `olc` that is such a run.

As a program: `fork_request.py SOCKET [ARGUMENT]...`, where SOCKET is the path at which that process listens, or
`fork_request.py SOCKET -u -c CODE`, which runs Python's code in place of olc. It imports little, since it is started for every
command of the documentation.
"""

import _socket
import marshal
import os
import sys

TYPE_CHECKING = False  # typing and socket take three times as long as all the rest; json likewise.
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from socket import socket
    from typing import Any


def ask(
    address: str, arguments: "Sequence[str]", streams: "Sequence[int]", env: "Mapping[str, str]", *, cwd: str, **options: "Any"
) -> int:
    """Have olc run, with these three streams. Returns a descriptor that tells its process and its exit code, a line each.

    options: see `tests.support.forked.Forked`.
    """
    told, tells = os.pipe()
    request = {"arguments": list(arguments), "env": dict(env), "cwd": cwd, **options}
    descriptors = b"".join(each.to_bytes(4, sys.byteorder) for each in (*streams, tells))
    connection = _socket.socket(_socket.AF_UNIX)
    try:
        connection.connect(address)
        connection.sendmsg([b"\n"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
        connection.sendall(marshal.dumps(request))
    finally:
        connection.close()
    os.close(tells)
    return told


def receive(listener: "socket") -> "tuple[dict[str, Any], list[int]] | None":
    """The next request of `ask`, and the descriptors that came with it: the three streams, and where to tell.

    None if who asked was killed before it had said all.
    """
    from socket import recv_fds

    connection, _ = listener.accept()
    descriptors: list[int] = []
    with connection:
        try:
            _, descriptors, _, _ = recv_fds(connection, 1, 4)
            with connection.makefile("rb") as content:
                return marshal.load(content), descriptors
        except (OSError, EOFError, ValueError, TypeError):
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
