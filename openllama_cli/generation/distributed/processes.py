"""How a rank ends: with its parent, within a time limit after a signal; and how to see that another process is gone."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable


def die_with_parent(number: signal.Signals) -> None:
    """Send this process a signal when torchrun ends, however that happens; otherwise it would keep running."""
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


def end_within(seconds: float, report: Callable[[], None], code: int) -> None:
    """End this process within some seconds after SIGINT or SIGTERM, even if it hangs in a collective operation.

    report: called before that, in another thread. Requires Python handlers for these signals; call it in the main thread.
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
            # In a thread of its own, since the store may hang as well.
            reporting = threading.Thread(target=report, daemon=True)
            reporting.start()
            reporting.join(1)
            os._exit(code)

    threading.Thread(target=watch, daemon=True, name="olc-end").start()


def ignore_sigterm() -> None:
    """Ignore SIGTERM from here on."""
    with contextlib.suppress(ValueError):  # Not in the main thread.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def how_gone(pid: int) -> str | None:
    """Whether a process of this host was killed or is stopped, in words; None if it is running."""
    import psutil

    try:
        state = psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        state = psutil.STATUS_DEAD
    gone = "was killed or crashed"
    return {psutil.STATUS_ZOMBIE: gone, psutil.STATUS_DEAD: gone, psutil.STATUS_STOPPED: "is stopped"}.get(state)
