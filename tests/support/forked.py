"""olc in processes of its own that need not import torch: forks of one process that has imported it already.

A fresh process spends most of its time on imports. A fork of one that is done with them is as real in all else: it has
arguments, streams, an environment, a working folder and limits of its own, and it can be signalled and killed. What depends on
how a process begins (what is imported and when, closed streams) is tested with fresh ones: see `tests.conftest.olc_command`.

The process that forks is started when a test module imports this one, to be ready when a test needs it, and ends with them. It
is one for all workers of pytest-xdist, and started before them: they are forks of it too.
"""

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import os
import resource
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from openllama_cli.cli import COMMANDS, main
from tests.support import fork_request
from tests.support.fork_request import ask, receive
from tests.support.huge_pages import collapse

if TYPE_CHECKING:
    from tests.conftest import Result

ADDRESS = "OLC_TESTS_FORKS"  # The variable that says where it listens.


class Forked:
    """A run of olc, with what `subprocess.Popen` has: pid, poll, wait, send_signal, kill, returncode, and as a context.

    stdin, stdout, stderr: open files or descriptors. stdin None: the null device. stdout and stderr None: kept, and there as
    `out` and `err` once it has ended. env, cwd: the whole environment and the working folder, None those of the tests.
    file_size: bytes that a file may grow to. code: Python that runs before olc does, or in place of it if it ends with an exit.
    """

    def __init__(
        self,
        *arguments: str,
        stdin: IO[bytes] | int | None = None,
        stdout: IO[bytes] | int | None = None,
        stderr: IO[bytes] | int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        file_size: int | None = None,
        code: str = "",
    ) -> None:
        self.returncode: int | None = None
        self.out = self.err = b""
        self._kept = [os.memfd_create("out"), os.memfd_create("err")]
        for file in self._kept:  # Several processes may write at once: without this they would overwrite each other's lines.
            fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
        environment = os.environ if env is None else env
        with Path(os.devnull).open("rb") as nothing:
            files = (stdin if stdin is not None else nothing, stdout or self._kept[0], stderr or self._kept[1])
            streams = [each if isinstance(each, int) else each.fileno() for each in files]
            told = ask(server(), arguments, streams, environment, cwd=str(cwd or Path.cwd()), file_size=file_size, code=code)
        self._told = os.fdopen(told, "rb")
        self.pid = int(self._told.readline())

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float = 120) -> int:
        """The exit code; as subprocess tells it, minus the signal that ended it. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("olc", timeout)
            with self._told:
                self.returncode = int(self._told.readline())
            self.out, self.err = map(_content, self._kept)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # It has just ended, and its keeper has not told yet.
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.kill()
        self.wait()


def _content(descriptor: int) -> bytes:
    """All that a file holds; it is closed."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read()


def fork(*arguments: str, stdin: bytes | int | None = None, env: Mapping[str, str] | None = None) -> "Result":
    """Run olc in a process of its own. stdin: bytes come from a file. env: variables besides those of the tests."""
    from tests.conftest import Result  # Not by the process that forks: it would make a world of its own.

    with tempfile.TemporaryFile() as file:
        if isinstance(stdin, bytes):
            file.write(stdin)
            file.seek(0)
        run = Forked(*arguments, stdin=file if isinstance(stdin, bytes) else stdin, env={**os.environ, **(env or {})})
        return Result(run.wait(), run.out, run.err)


def run_module(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
    """In place of `subprocess.run`, for a command `python -m MODULE [ARGUMENT]...` whose output is captured."""
    code = f"import runpy; runpy.run_module({command[2]!r}, run_name='__main__'); sys.exit()"
    run = Forked(*command[3:], code=code)
    return subprocess.CompletedProcess(command, run.wait(), run.out.decode(), run.err.decode())


@functools.cache
def server() -> str:
    """Where the process that forks listens. It is started unless there is one."""
    if address := os.environ.get(ADDRESS):
        return address
    folder = tempfile.TemporaryDirectory(prefix="olc-forks-")
    address = f"{folder.name}/socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,  # Ends when this process does, however it does.
            cwd=Path(__file__).parents[2],
            start_new_session=True,  # Ctrl-C is for the tests.
        )

    def end() -> None:
        process.kill()
        process.communicate()
        folder.cleanup()

    atexit.register(end)
    os.environ[ADDRESS] = address  # For forks that import this.
    return address


def olc_script(folder: Path) -> Path:
    """A program `olc` in a folder: a fork that looks like a process of its own."""
    script = folder / "olc"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {fork_request.__file__} {server()} "$@"\n')
    script.chmod(0o755)
    return script


def worker() -> str:
    """How pytest-xdist starts a worker that is a fork: the imports of all workers are paid once."""
    return f"popen//python={shlex.join([sys.executable, '-S', '-E', fork_request.__file__, server()])}"


_MODULES = (
    "torch",
    "torch.distributed.run",
    "torch.distributed.elastic.rendezvous.c10d_rendezvous_backend",
    "transformers.models.llama.modeling_llama",
    "rich._emoji_codes",
    "sentencepiece",
    "sentencepiece.sentencepiece_pb2",
    "spacy.lang.en",
    "spacy.pipeline.factories",
    *(f"openllama_cli.commands.{name}" for name in COMMANDS),
    *(f"openllama_cli.annotation.{name}" for name in ("annotate", "pictures", "pipeline")),
    *(f"openllama_cli.batch.{name}" for name in ("input.precheck", "journal.journal", "runner")),
    *(f"openllama_cli.batch.output.{name}" for name in ("extend", "lock", "output")),
    "openllama_cli.api",
    "openllama_cli.commands.shared.torchrun",
    "openllama_cli.generation.decode.loop",
    "openllama_cli.generation.distributed.forward",
    "openllama_cli.generation.distributed.load",
    "openllama_cli.models.hub.environment",
    "openllama_cli.generation.forward.cuda.graphs",
    "openllama_cli.generation.forward.lean",
    "openllama_cli.generation.text.stream",
    "openllama_cli.models.adapters.apply",
    "openllama_cli.models.loading.load",
    "openllama_cli.models.beside",
    "openllama_cli.records.record",
    *(f"openllama_cli.serve.{name}" for name in ("client.completions", "client.find", "run")),
    "openllama_cli.system.quiet",
    "openllama_cli.terminal.progress",
)


def _imports() -> None:
    """What a run of olc imports and computes until its first token or annotation; nothing here may start a thread."""
    gc.disable()  # Nearly all of what imports make stays: searching it for garbage again and again takes a quarter of the time.
    with warnings.catch_warnings(action="error"):  # As in tests: workers are forks, and import nothing of this again.
        for name in _MODULES:
            importlib.import_module(name)
    # Compiles a thousand regular expressions, the first time that it is asked.
    conversions = importlib.import_module("transformers.conversion_mapping")
    conversions.get_checkpoint_conversion_mapping("llama")
    # And one for each weight of a model that is loaded; the demo model has six layers.
    torch, transformers = sys.modules["torch"], sys.modules["transformers"]
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_hidden_layers=6))
    for name in model.state_dict():
        importlib.import_module("transformers.core_model_loading").WeightRenaming(name, name)


def _serve(listener: socket.socket) -> str:
    """Fork on request, and tell how forks end. Returns in each fork, ready to run olc: the code that is to run before it."""
    _imports()
    _forget_exits()
    gc.freeze()  # What is shared with forks is not to be copied for counting.
    gc.enable()
    collapse()
    running: dict[int, tuple[int, int]] = {}  # By the descriptor that tells of a process's end: its pid, and whom to tell.
    while True:
        ready = select.select([listener, sys.stdin, *running], [], [])[0]
        if sys.stdin in ready:
            os._exit(0)
        for descriptor in running.keys() & set(ready):
            os.close(descriptor)
            _tell_end(*running.pop(descriptor))
        if listener not in ready or (received := receive(listener)) is None:
            continue
        request, (*streams, tells) = received
        pid = os.fork()
        if pid == 0:
            listener.close()
            for descriptor in (tells, *running, *(others for _, others in running.values())):
                os.close(descriptor)
            return _prepare(request, streams)
        for descriptor in streams:
            os.close(descriptor)
        os.write(tells, f"{pid}\n".encode())
        running[os.pidfd_open(pid)] = pid, tells


def _tell_end(pid: int, tells: int) -> None:
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):  # Who asked may have been killed.
        os.write(tells, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os.close(tells)


def _forget_exits() -> None:
    """What torch has for the end of its process takes it apart, and ten times as long as most of what forks do."""
    atexit.unregister(getattr(sys.modules.get("torch._dynamo.utils"), "dump_compile_times", None))
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined]
        finalizer.atexit = False


def _prepare(request: dict[str, Any], streams: list[int]) -> str:
    os.setsid()
    become(request, streams)
    if request.get("file_size") is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"],) * 2)
        sys.dont_write_bytecode = True  # Python would keep what it compiles, cut at that size, and other processes read it.
    sys.argv = ["olc", *request["arguments"]]
    code: str = request.get("code", "")
    return code


def become(request: dict[str, Any], streams: list[int]) -> None:
    """Have the streams, the environment and the working folder of a request."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    for descriptor in streams:
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    # OMP_NUM_THREADS has been read already. And a fork gets its own thread pool at the first call: before several threads ask.
    torch = sys.modules["torch"]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    # As Python makes them at its start.
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False, buffering=1 if os.isatty(1) else -1)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)


def _end(ended: SystemExit) -> None:
    """What Python does at its end, without taking apart all that was imported, which takes longer than most runs.

    Returns where Python itself has something to say: a message in place of an exit code, a stream that does not take the rest.
    """
    if not isinstance(ended.code, int | None):
        return
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    os._exit((ended.code or 0) & 0xFF)


if __name__ != "__main__":
    server()
else:
    try:
        exec(_serve(socket.socket(fileno=int(sys.argv[1]))))
        main()
    except SystemExit as ended:
        _end(ended)
        raise
