"""torchrun and its ranks as forks: the real launcher and agent, where what matters is the work of the ranks.

A start of torchrun with two ranks spends ten seconds and more of a processor on imports. Here the launcher is a fork that has
them already (see `tests.support.forked`), and it forks the ranks in place of starting Python: children of its own, in sessions
and with arguments and variables of their own, as torchrun makes them.
"""

import atexit
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import IO, Any, NoReturn

from tests.support.forked import Forked


def launch(
    *arguments: str, stdin: IO[bytes] | None = None, stderr: IO[bytes] | None = None, before: str = "", fresh: bool = False
) -> Forked:
    """Run torchrun with these arguments. before: Python that each rank runs first. fresh: rank 0 is no fork, but starts."""
    code = f"from tests.support.forked_torchrun import in_fork; in_fork({before!r}, fresh={fresh})"
    return Forked(*arguments, stdin=stdin, stderr=stderr, code=code)


def in_fork(before: str, *, fresh: bool) -> NoReturn:
    """Be torchrun, in a fork that has its command line."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous
    from torch.distributed.run import main

    class Rank(subprocess.Popen[bytes]):
        """`python -u -m MODULE` or `python -u SCRIPT` as a fork."""

        def __init__(self, args: Sequence[str], *, env: Mapping[str, str], **options: Any) -> None:
            self._variables = env
            super().__init__(args, env=env, **options)

        def _execute_child(self, args: Sequence[str], *options: Any) -> None:
            if fresh and self._variables["RANK"] == "0":
                super()._execute_child(args, *options)  # type: ignore[misc]
                return
            self.pid = os.fork()
            if self.pid == 0:
                _be_python(args[2:], self._variables, before)
            self._child_created = True

    subprocess_handler.Popen = Rank  # type: ignore[misc]
    # For its log. The original looks for the source of all callers in all that is imported here: a second or two in each run.
    dynamic_rendezvous.get_method_name = lambda depth=2: sys._getframe(depth).f_code.co_name
    main(sys.argv[1:])
    sys.exit()


def _be_python(arguments: Sequence[str], env: Mapping[str, str], before: str) -> NoReturn:
    """What Python does with these arguments, from its start to its end."""
    code: object = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(env)
        # Here, before several threads ask at once: a fork gets its own thread pool at the first call.
        sys.modules["torch"].set_num_threads(int(env.get("OMP_NUM_THREADS", "1")))
        exec(before)
        if arguments[0] == "-m":
            sys.argv = list(arguments[1:])
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(arguments)
            runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)
