"""Work within a limit of memory and time."""

import signal
import threading

import pytest

from openllama_cli.system.bounds import Bounded, in_thread

resource = pytest.importorskip("resource")
MIB = 2**20


def limits() -> tuple[int, int]:
    found: tuple[int, int] = resource.getrlimit(resource.RLIMIT_AS)
    return found


def _work_without_end() -> None:
    while True:
        pass


@pytest.mark.skipif("sys.platform != 'linux'", reason="only Linux tells the address space")
def test_more_memory_than_allowed_is_refused_and_the_limit_ends_with_the_block() -> None:
    before = limits()
    with Bounded(64 * MIB, 60):
        assert limits() != before
        with pytest.raises(MemoryError):
            bytearray(256 * MIB)
    assert limits() == before
    with Bounded(512 * MIB, 60):
        bytearray(256 * MIB)


@pytest.mark.skipif("sys.platform != 'linux'", reason="only Linux tells the address space")
def test_a_limit_that_is_tighter_already_stays() -> None:
    with Bounded(64 * MIB, 60):
        inside = limits()
        with Bounded(512 * MIB, 60):
            assert limits() == inside
        assert limits() == inside


def test_work_without_end_is_stopped_and_the_timer_with_it() -> None:
    before = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(TimeoutError, match=r"more than 0\.05 s"), Bounded(512 * MIB, 0.05):
        _work_without_end()
    assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0
    assert signal.getsignal(signal.SIGVTALRM) == before


def test_a_block_within_another_keeps_the_handler_of_the_outer_one() -> None:
    with Bounded(512 * MIB, 60):
        outer = signal.getsignal(signal.SIGVTALRM)
        with Bounded(256 * MIB, 60):
            pass
        assert signal.getsignal(signal.SIGVTALRM) == outer


def test_outside_the_main_thread_only_memory_is_limited() -> None:
    def work() -> str:
        with Bounded(512 * MIB, 60):
            return "done"

    assert in_thread(60, work, "bounded") == (["done"], [])


def test_what_nothing_interrupts_is_left_behind() -> None:
    def fail() -> None:
        raise KeyError("x")

    results, failures = in_thread(60, fail, "fails")
    assert results == []
    assert isinstance(failures[0], KeyError)
    ended = threading.Event()
    assert in_thread(0.01, ended.wait, "waits") == ([], [])
    assert any(thread.name == "waits" and thread.daemon for thread in threading.enumerate())
    ended.set()
