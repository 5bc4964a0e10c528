"""The process that forks runs of olc for the tests outlives those who ask."""

import json
import os
import socket

from tests.support.forked import fork, server


def test_who_is_killed_while_asking_hinders_nobody() -> None:
    request = json.dumps({"arguments": ["--version"]}).encode()
    for sent in (b"", request[:9]):
        reader, writer = os.pipe()
        with socket.socket(socket.AF_UNIX) as killed:
            killed.connect(server())
            if sent:
                socket.send_fds(killed, [b"\n"], [writer] * 4)
                killed.sendall(sent)
        os.close(writer)
        with os.fdopen(reader, "rb") as told:
            assert told.read() == b"", "nothing is told, and nothing kept open"
    assert fork("--version").code == 0
