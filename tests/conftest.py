"""What all tests share: a world of their own (no user's settings, cache or network), tiny models, and ways to run `olc`."""

import contextlib
import fcntl
import gc
import importlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports huggingface_hub, which reads its environment once.
_WORLD = tempfile.TemporaryDirectory(prefix="olc-tests-", ignore_cleanup_errors=True)
for _name in ("OLC_MODEL", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", "NO_COLOR", "FORCE_COLOR"):
    os.environ.pop(_name, None)
# As a user's Python buffers stdout: what is left in it when a write fails, fails again at the exit.
os.environ.pop("PYTHONUNBUFFERED", None)
os.environ |= {
    "HF_HOME": f"{_WORLD.name}/huggingface",
    "XDG_CONFIG_HOME": f"{_WORLD.name}/config",
    "XDG_CACHE_HOME": f"{_WORLD.name}/cache",
    # No server of the user's answers for olc.
    "XDG_RUNTIME_DIR": f"{_WORLD.name}/run",
    # No Hub: a test that needs one starts its own and points here.
    "HF_ENDPOINT": "http://127.0.0.1:9",
    # A worker of pytest-xdist has one core; threads of several would wait for each other.
    "OMP_NUM_THREADS": "1",
    # As olc sets it.
    "GOMP_SPINCOUNT": "2000",
}
Path(_WORLD.name, "run").mkdir(mode=0o700)
# The workers inherit the one of the process that starts them.
os.environ.setdefault("OLC_TESTS_LOCK", f"{_WORLD.name}/lock")
# What a shell starts in the background (`pytest &`) ignores Ctrl-C, and so would every olc that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no flaw of a property; what hangs, pytest-timeout ends.
settings.register_profile("olc", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("olc")

# What takes longest, and waits for other processes meanwhile.
LONGEST = tuple(
    f"tests/{path}" for path in ("commands/batch/test_ray", "test_docs", "batch/ray", "commands/shared/test_torchrun")
)


def pytest_configure(config: pytest.Config) -> None:
    """One process that forks (see `tests.support.forked`): the workers are forks of it, and inherit where it listens."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        from tests.support import forked

        os.environ[forked.ADDRESS] = forked.server()
        config.option.tx = [forked.worker()] * len(config.option.tx)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[object]:
    """What is imported stays: nobody searches it for garbage, neither while it grows nor whenever tests leave some."""
    gc.disable()
    try:
        if hasattr(session.config, "workerinput") and session.config.args == session.config.getini("testpaths"):
            _import_own_share(session.config.workerinput)
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        # Tests leave little garbage; searching for it at the default rate takes a twentieth of their time.
        gc.set_threshold(20_000, 20, 50)


def _import_own_share(worker: Mapping[str, Any]) -> None:
    """All workers import all tests. Where these are not compiled yet, each compiles a share, before it finds the others'."""
    files = sorted(Path(__file__).parent.rglob("test_*.py"))
    for file in files[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]:
        with contextlib.suppress(Exception, pytest.skip.Exception):  # Collecting it says what is wrong.
            importlib.import_module(".".join(file.relative_to(Path(__file__).parents[1]).with_suffix("").parts))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that all workers end at about the same time."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


def pytest_sessionfinish() -> None:
    _WORLD.cleanup()  # Workers are not waited for long enough to do this at their end.


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """As `--dist loadfile`: a file's tests stay on one worker, where its fixtures are made once. Not the docs' pages."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if "::test_examples_print" in nodeid else super()._split_scope(nodeid)

    return Scheduler(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Nothing runs beside a test marked `alone`: it holds the lock that the others share."""
    lock = Path(os.environ["OLC_TESTS_LOCK"])
    with lock.with_suffix(".turn").open("w") as turn, lock.open("w") as machine:
        fcntl.flock(turn, fcntl.LOCK_EX)  # Whoever waits for the others to end is not overtaken by them.
        fcntl.flock(machine, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        try:
            return (yield)
        finally:
            fcntl.flock(machine, fcntl.LOCK_UN)  # Closing would not do where a test has forked.


@dataclass(frozen=True)
class Result:
    """How a run of olc ended. out and err: what it wrote, bytes as they came."""

    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def messages(self) -> str:
        return self.err.decode()


Olc = Callable[..., Result]


@pytest.fixture
def olc(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Olc:
    """Run olc in this process: `olc("complete", "x", env={"OLC_MODEL": "…"})`.

    stdin: bytes come through a pipe (of 64 kB at most), a descriptor is taken as it is; without one stdin is not a pipe. What
    transformers has loaded from the same files before is not loaded again.
    """
    from openllama_cli.cli import main
    from openllama_cli.models.loading import load
    from tests.support.models.loaded_once import loaded_once

    monkeypatch.setattr(load, "from_pretrained", loaded_once)

    def run(*arguments: str, stdin: bytes | int | None = None, env: Mapping[str, str] | None = None) -> Result:
        with monkeypatch.context() as patch, _stdin(stdin) as stream:
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            if stream is not None:
                patch.setattr(sys, "stdin", stream)
            capfdbinary.readouterr()
            with pytest.raises(SystemExit) as ended:
                main(list(arguments))
        out, err = capfdbinary.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Result(code, out, err)

    return run


@contextlib.contextmanager
def _stdin(source: bytes | int | None) -> Iterator[TextIO | None]:
    """A stream that `olc` may have as its stdin."""
    if source is None:
        yield None
        return
    descriptor = source
    if isinstance(source, bytes):
        descriptor, writer = os.pipe()
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(source)
    with open(descriptor, encoding="utf-8", closefd=isinstance(source, bytes)) as stream:
        yield stream


def olc_command(*arguments: str) -> Sequence[str]:
    """The command line that runs olc with this interpreter."""
    return [sys.executable, "-m", "openllama_cli", *arguments]


def run_process(*arguments: str, stdin: bytes | int = subprocess.DEVNULL, env: Mapping[str, str] | None = None) -> Result:
    """Run olc as a fresh process of its own. stdin: bytes go through a pipe.

    One that loads a model spends seconds on imports: `olc` and `tests.support.forked` do without them.
    """
    run = subprocess.run(
        olc_command(*arguments),
        capture_output=True,
        timeout=120,
        env={**os.environ, **(env or {})},
        **({"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}),  # type: ignore[call-overload]
    )
    return Result(run.returncode, run.stdout, run.stderr)


@pytest.fixture
def tmp_model(tmp_path: Path) -> Path:
    """A tiny model folder that the test may change."""
    from tests.support.models.tiny_models import write_tiny_llama

    return write_tiny_llama(tmp_path / "model")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model folder, float32, context 256; not to be changed."""
    from tests.support.models.tiny_models import write_tiny_llama

    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny", context=256)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """torch, and olc's kernels with it, divide their work, as they do where they are not tested."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
