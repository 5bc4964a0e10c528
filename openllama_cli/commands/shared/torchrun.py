"""olc under torchrun: rank 0 runs the command, the other ranks hold their shards of the model for it.

    rank 0, the leader  options, stdin, the tokenizer, the decode loop, the journal, all output
    the followers       wait for a model, load their shards of it, run the leader's forward passes, are silent

Errors before loading therefore occur on rank 0 alone. A lost rank ends all: the connections to it break, and torchrun ends the
rest.
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
from openllama_cli.generation.distributed.group import Group
from openllama_cli.generation.distributed.processes import die_with_parent, end_within, ignore_sigterm
from openllama_cli.models.loading.ranks import RankInfo, one_process_only, rank_info
from openllama_cli.models.loading.startup import prepare_environment
from openllama_cli.terminal.streams import error

_COMMANDS = ("complete", "generate", "batch", "serve", "score")
# After a signal: how long the leader may take to end in order (a batch closes its journal), and the followers to help it.
_LEADER_SECONDS, _FOLLOWER_SECONDS = 8.0, 5.0
# The first SIGTERM of a killed torchrun comes while the last of its threads are still ending.
_LOST_SECONDS = 0.5


def begin(arguments: Sequence[str]) -> bool:
    """The start of every rank. Returns true on rank 0, false in an ordinary run; followers end in here.

    Raises UsageError for a command that runs in one process.
    """
    info = rank_info()
    if info is None:
        return False
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # olc itself reports what the store and gloo warn of.
    if info.rank > 0:
        _run_follower(info)
    sys.excepthook = _report_bug
    die_with_parent(signal.SIGTERM)
    end_within(_LEADER_SECONDS, _report_lost, 143)
    command = next((word for word in arguments if not word.startswith("-")), None)
    if command not in (None, *_COMMANDS) and not {"-h", "--help"} & set(arguments):
        one_process_only(f"olc {command}")
    return True


def end(code: int) -> int:
    """The end of rank 0: release the followers. Returns the exit code, or ends this process if a collective operation hangs."""
    group = Group.led
    if group is None:
        _dismiss(failed=code != 0)
        return code
    if code == 143:
        ignore_sigterm()  # When torchrun is killed, Linux sends one for each of its threads.
        # A SIGTERM may have come between the claim of a report and the report.
        _report_lost(claimed=group.claimed)
    if not group.busy:
        with contextlib.suppress(OlcError, Terminated):
            group.leave()
            return code
    group.claim_report()  # No other rank should report our end as the cause.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    # Not sys.exit, which would wait for collective operations with ranks that are gone.
    os._exit(code)


def _dismiss(*, failed: bool) -> None:
    """Rank 0 ends before there is a group: release the followers. On one host torchrun does that after a failure."""
    info = rank_info()
    assert info is not None
    if not (failed and info.one_host):
        Group(info).announce({} if failed else None)


def _run_follower(info: RankInfo) -> NoReturn:
    """A rank above 0, from its start to its end."""
    prepare_environment()
    code = 1
    group: Group | None = None
    _silence()
    die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        group = Group(info)
        job = group.wait_for_job()
        if job:
            from openllama_cli.generation.distributed.load import load_and_follow

            # The leader decides when to end: a batch lets rows in flight finish. Followers wait a limited time for it.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: None)
            end_within(_FOLLOWER_SECONDS, lambda: None, 143)
            load_and_follow(group, job)
        code = 1 if job == {} else 0
    except OlcError as problem:
        cause = problem.cause if problem.cause.startswith("rank ") else f"rank {info.rank}: {problem.cause}"
        if group is not None and problem.code != "rank_lost":
            group.report_failure(OlcError(cause, problem.remedy))
        # `collective` has claimed the report of what it raises.
        if group is None or group.busy or group.claim_report():
            error(cause, problem.remedy)
    except Terminated:
        pass
    except BaseException:
        import traceback

        if group is not None:
            group.claim_report()
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    os._exit(code)


def _report_bug(*error: Any) -> None:
    """The traceback of a bug, or of --debug, is the only message; the other ranks stay silent."""
    if Group.led is not None:
        Group.led.claim_report()
    sys.__excepthook__(*error)
    if Group.led is None:
        _dismiss(failed=True)


def _report_lost(*, claimed: bool = False) -> None:
    """claimed: whether this process has claimed the report, and not made it."""
    group = Group.led
    if group is not None and (lost := group.find_lost(_LOST_SECONDS)) is not None and (claimed or group.claim_report()):
        error(lost.cause, lost.remedy)


def _silence() -> None:
    """Leave stdin and stdout to the leader, and stderr to it and to this rank's own errors; libraries and gloo are silenced."""
    errors = os.dup(2)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(errors, "w", closefd=False)  # noqa: SIM115
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
