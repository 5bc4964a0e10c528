"""olc under torchrun: rank 0 runs the command, the others hold their part of the model for it.

    rank 0      options, stdin, the tokenizer, the decode loop, the journal, everything that is shown
    the others  wait for what to load, load it, run the forward passes that rank 0 runs, say nothing

What goes wrong before loading therefore happens on rank 0 alone. A rank that is lost ends all: the connections to it break,
and torchrun ends the rest.
"""

import contextlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from openllama_cli.errors import OlcError, Terminated
from openllama_cli.generation.distributed.session import leading, own_rank_info, serve
from openllama_cli.models.loading.ranks import RankInfo, one_process_only, rank_info
from openllama_cli.models.loading.startup import prepare_environment
from openllama_cli.terminal.streams import error

_COMMANDS = ("complete", "generate", "batch")
# After a signal: what rank 0 may take to end in order (a batch closes its journal), and the others to serve it meanwhile.
_LEADER_SECONDS, _FOLLOWER_SECONDS = 8.0, 5.0


def is_placed() -> bool:
    """Whether torchrun started this process as one of several."""
    from openllama_cli.models.loading.ranks import rank_info

    return rank_info() is not None


def begin(arguments: Sequence[str]) -> bool:
    """The start of every rank. Rank 0 returns; the others stay in here until they end. False in an ordinary run.

    Raises UsageError for a command that runs in one process.
    """
    here = rank_info()
    if here is None:
        return False
    from openllama_cli.generation.distributed.processes import die_with_parent, end_at_last

    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # What the store and gloo warn of, olc says.
    if here.rank > 0:
        _follow(here)
    sys.excepthook = _tell_bug
    die_with_parent(signal.SIGTERM)
    end_at_last(_LEADER_SECONDS, _say_who_is_lost, 143)
    command = next((word for word in arguments if not word.startswith("-")), None)
    if command not in (None, *_COMMANDS) and not {"-h", "--help"} & set(arguments):
        one_process_only(f"olc {command}")
    return True


def end(code: int) -> int:
    """The end of rank 0: let the others go. Returns the exit code, or ends this process where the others wait in vain."""
    ranks = leading()
    if ranks is None:
        _dismiss(failed=code != 0)
        return code
    if code == 143:
        from openllama_cli.generation.distributed.processes import hold_sigterm

        hold_sigterm()  # When torchrun is killed, Linux sends one for each of its threads.
        _say_who_is_lost()
    if not ranks.busy:
        with contextlib.suppress(OlcError, Terminated):
            ranks.leave()
            return code
    ranks.claim()  # Nobody is to take our end for the cause.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    # Not sys.exit: sums that wait for ranks that are gone would be waited for.
    os._exit(code)


def _dismiss(*, failed: bool) -> None:
    """Rank 0 ends before there is a group: let the others go. On one host a failure is seen to by torchrun."""
    here = own_rank_info()
    if failed and here.one_host:
        return
    from openllama_cli.generation.distributed.group import Ranks

    Ranks(here).tell({} if failed else None)


def _follow(here: RankInfo) -> NoReturn:
    """A rank above 0, from its start to its end."""
    prepare_environment()
    from openllama_cli.generation.distributed.group import Ranks
    from openllama_cli.generation.distributed.processes import die_with_parent, end_at_last

    code = 1
    ranks: Ranks | None = None
    _be_silent()
    die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        ranks = Ranks(here)
        work = ranks.await_work()
        if work:
            # Rank 0 decides when to end: a batch lets rows in flight finish. It is not waited for much longer than it takes.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: None)
            end_at_last(_FOLLOWER_SECONDS, lambda: None, 143)
            serve(ranks, work)
        code = 1 if work == {} else 0
    except OlcError as problem:
        cause = problem.cause if problem.cause.startswith("rank ") else f"rank {here.rank}: {problem.cause}"
        if ranks is not None and problem.code != "rank_lost":
            ranks.fail(OlcError(cause, problem.remedy))
        # What `together` raises it has claimed already.
        if ranks is None or ranks.busy or ranks.claim():
            error(cause, problem.remedy)
    except Terminated:
        pass
    except BaseException:
        import traceback

        if ranks is not None:
            ranks.claim()
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    os._exit(code)


def _tell_bug(*error: Any) -> None:
    """The traceback of a bug, or of --debug, is the one message; the others keep quiet."""
    ranks = leading()
    if ranks is not None:
        ranks.claim()
    sys.__excepthook__(*error)
    ranks = leading()
    if ranks is None:
        _dismiss(failed=True)


def _say_who_is_lost() -> None:
    ranks = leading()
    if ranks is not None and (lost := ranks.lost()) is not None and ranks.claim():
        error(lost.cause, lost.remedy)


def _be_silent() -> None:
    """Leave stdin and stdout to rank 0, and stderr to it and to this rank's own errors: libraries and gloo write nowhere."""
    errors = os.dup(2)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(errors, "w", closefd=False)  # noqa: SIM115
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
