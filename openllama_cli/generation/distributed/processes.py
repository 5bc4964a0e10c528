"""How a process among several ends: with its parent, at last, and who of the others is gone."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path


def die_with_parent(number: signal.Signals) -> None:
    """Have this process sent a signal when torchrun ends, however that happens: it would go on by itself."""
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        if ctypes.CDLL(None, use_errno=True).prctl(1, int(number), 0, 0, 0) == 0:  # PR_SET_PDEATHSIG, on Linux
            return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True, name="olc-parent").start()


def end_at_last(seconds: float, say: Callable[[], None], code: int) -> None:
    """After SIGINT or SIGTERM end this process within some seconds, even if it hangs in a sum that never comes.

    say: called before that, in another thread. Needs handlers in Python for these signals; only in the main thread.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        with writer:
            while number := reader.recv(1):
                if number[0] in (signal.SIGINT, signal.SIGTERM):
                    break
            time.sleep(seconds)
            # In a thread of its own: the store may be busy for as long as what hangs.
            last_words = threading.Thread(target=say, daemon=True)
            last_words.start()
            last_words.join(1)
            os._exit(code)

    threading.Thread(target=watch, daemon=True, name="olc-end").start()


def hold_sigterm() -> None:
    """Take no notice of SIGTERM from here on."""
    with contextlib.suppress(ValueError):  # Not in the main thread.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def gone(pid: int) -> str | None:
    """How a process of this host is no longer at work; None where it is."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        if stat.parent.parent.joinpath("self").exists():
            state = stat.read_text().rpartition(")")[2].split()[0]
            return {"Z": "was killed or broke off", "X": "was killed or broke off", "T": "is stopped"}.get(state)
        os.kill(pid, 0)
    except PermissionError:
        return None
    except OSError:
        return "was killed or broke off"
    return None
