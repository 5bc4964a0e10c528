"""A Ray cluster, one of our own on this machine's loopback or one that runs already and is joined, and the runner on it."""

import contextlib
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from openllama_cli.batch.output.results import Result
from openllama_cli.batch.ray.options import Node, RayOptions, host_and_port, plan_workers, worker_bytes
from openllama_cli.batch.ray.worker import Setup
from openllama_cli.errors import OlcError, UsageError
from openllama_cli.system.replaced import replaced

if TYPE_CHECKING:
    from openllama_cli.batch.ray.engine import RayRunner

_PROBE_SECONDS = 5.0
# HTTP/2's first words and an empty frame of settings; a server that speaks it, as Ray's does, answers with its own settings.
_SETTINGS = b"\x04"
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _SETTINGS + bytes(5)
# Rows are small: Ray would reserve 30 % of the memory for objects.
_OBJECT_BYTES = 128 * 2**20
# What Ray's sockets add to its folder, and how long a socket's path may be.
_SOCKET_PATH, _LONGEST_PATH = 85, 104
_PREFIX = "olc-ray-"
# Of Ray's head: the dashboard's server, what copies workers' output to the driver, and what asks clouds for machines.
_HELPERS = ("start_api_server", "start_log_monitor", "start_monitor")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def connect(options: RayOptions) -> Iterator[list[Node]]:
    """Start or join a cluster while the context lasts; yields its machines.

    A cluster of our own ends with the context, or with this process; if that is killed, two of Ray's helpers (DashboardAgent,
    RuntimeEnvAgent) look for it a minute longer. Raises OlcError where none answers at the address, or
    Ray cannot start or join.
    """
    _prepare_environment(local=options.address is None)
    import ray
    import ray.exceptions

    _silence()
    with contextlib.ExitStack() as cleanup:
        address = options.address
        arguments = _own_cluster(options, cleanup) if address is None else {"address": _reachable(address)}
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        cleanup.callback(ray.shutdown)
        if address is None:
            cleanup.enter_context(_without_helpers())
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **arguments)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise _failed(options, error) from error
        finally:
            # Ray installs its own handler of SIGTERM, which is ours.
            for number, handler in before.items():
                signal.signal(number, handler)
        yield [
            Node(resources.get("CPU", 0), resources.get("GPU", 0), resources.get("memory", 0))
            for node in ray.nodes()
            if node["Alive"] and (resources := node["Resources"])
        ]


def _prepare_environment(*, local: bool) -> None:
    """What Ray reads from the environment, before it is imported; what the user set stays."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its announcement is a FutureWarning on stderr
    if local:
        # It is named for other systems; what it does is to bind everything to 127.0.0.1. Linux would use all interfaces.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # A worker is started when an actor needs it: not one for each CPU beforehand.
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
        os.environ.setdefault("RAY_enable_worker_prestart", "0")
        if "RAY_AUTH_MODE" not in os.environ:
            # A secret of this run: no other user of the machine is to give our workers work. Ray would keep one in ~/.ray.
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _silence() -> None:
    """Keep Ray off stdout, which is for results, and from warnings of what we handle.

    log_to_driver=False leaves one thing: of a worker that died it still prints a page to stdout. There is no switch for that.
    """
    import ray._private.worker as internals

    for name in ("ray", "ray._private.authentication.authentication_token_setup"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if hasattr(internals, "print_to_stdstream"):
        internals.print_to_stdstream = lambda *_, **__: None


def _without_helpers() -> contextlib.AbstractContextManager[None]:
    """Have Ray start no process that a cluster of one machine and one driver has no use for.

    Each is a Python that imports Ray, and `ray.init` waits for the first: half of the time that a cluster takes to start.
    include_dashboard=False leaves out what that one serves, not the process. There is no switch for any of them.
    """
    from ray._private.node import Node as Head

    return replaced(Head, **dict.fromkeys(_HELPERS, lambda *_, **__: None))


def _own_cluster(options: RayOptions, cleanup: contextlib.ExitStack) -> dict[str, Any]:
    folder = tempfile.gettempdir()
    if len(folder) + _SOCKET_PATH > _LONGEST_PATH:
        folder = "/tmp"
    _sweep(Path(folder))
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=folder)
    cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    return {
        "address": "local",
        "num_cpus": max(_cpus(), options.workers or 0),
        "include_dashboard": False,
        "object_store_memory": _OBJECT_BYTES,
        "_node_ip_address": "127.0.0.1",
        "_temp_dir": folder,
    }


def _sweep(folder: Path) -> None:
    """Remove what the clusters of drivers that were killed left behind."""
    for left in folder.glob(f"{_PREFIX}*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            if pid.isdecimal() and left.stat().st_uid == os.getuid() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(left, ignore_errors=True)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none


def _reachable(address: str) -> str:
    """HOST:PORT of a cluster at which something like Ray answers: Ray itself would try any other address for minutes."""
    if address == "auto":
        address = _running_cluster()
    host, port = host_and_port(address)
    try:
        with socket.create_connection((host, port), timeout=_PROBE_SECONDS) as connection:
            known = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true") or _speaks_http2(connection)
    except OSError as error:
        raise OlcError(
            f"no response from {address}: {error.strerror or error}",
            "check --ray-address with `ray status` on the cluster, or leave it out to use this machine alone",
            code="ray_address",
        ) from error
    if not known:
        raise OlcError(
            f"the service at {address} is not Ray",
            "give HOST:PORT as `ray start --head` prints it; usually port 6379 (8265 is the dashboard)",
            code="ray_address",
        )
    _use_token()
    return address


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether a server answers as those of gRPC do. Raises OSError where it is silent."""
    connection.sendall(_HELLO)
    with connection.makefile("rb") as answer:
        return answer.read(4)[3:] == _SETTINGS  # three bytes of a frame's length, then its type


def _running_cluster() -> str:
    """What `auto` stands for: RAY_ADDRESS, else the cluster that `ray start` began or joined on this machine."""
    from ray._private.services import get_ray_address_from_environment

    try:
        found = get_ray_address_from_environment("auto", None)
    except ConnectionError:
        found = None
    if not isinstance(found, str):
        raise OlcError(
            "--ray-address auto found no cluster on this machine",
            "run `ray start --head`, or `ray start --address HOST:PORT` to join one; or give HOST:PORT",
            code="ray_address",
        )
    return found


def _use_token() -> None:
    """Let Ray use the token of `ray get-auth-token`, where there is one: with an explicit address it would not look."""
    with contextlib.suppress(ImportError):  # Ray before 2.55 has no tokens.
        from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _failed(options: RayOptions, error: BaseException) -> OlcError:
    words = " ".join(str(error).split())
    words = words if len(words) <= 300 else words[:299] + "…"
    if options.address is None:
        return OlcError(
            f"Ray did not start: {words}", "free memory, or disk space in the temporary folder; or leave out --engine ray"
        )
    if "ersion mismatch" in words:
        return OlcError(
            words, f"use the same versions as the cluster; this is Python {sys.version.split()[0]}", code="ray_address"
        )
    return OlcError(
        f"joining the cluster at {options.address} failed: {words}",
        f"this machine must be part of it: run `ray start --address {options.address}` here first",
        code="ray_address",
    )


@contextlib.contextmanager
def open_ray_runner(
    options: RayOptions,
    setup: Setup,
    *,
    parameters: int,
    rows: int,
    keep: Callable[[Result], object],
    stopping: Callable[[], bool],
    notice: Callable[[str], None],
    begin: Callable[[Sequence[Mapping[str, Any]]], object] = lambda places: None,
) -> Iterator["RayRunner"]:
    """Join or start a cluster and decide how many workers it gets; they start when the runner runs, and end with the context.

    parameters: how many the model has. rows: left to do. keep, stopping, notice: as in `runner.Runner`; begin: as in
    `RayRunner`. Raises OlcError where there is no cluster, UsageError for --device cuda:N.
    """
    if re.fullmatch(r"cuda:[0-9]+", setup.spec.device):
        raise UsageError(
            f"--device {setup.spec.device} with --engine ray: Ray gives each worker its own GPU", "use --device cuda or auto"
        )
    with connect(options) as nodes:
        from openllama_cli.batch.ray.engine import RayRunner

        memory = worker_bytes(parameters, setup.spec.dtype)
        plan = plan_workers(nodes, options.workers, memory, gpu=setup.spec.device in ("auto", "cuda"))
        setup = replace(setup, share=plan.per_node)
        runner = RayRunner(setup, plan, rows, keep, stopping=stopping, notice=notice, begin=begin)
        where = f"at {options.address}" if options.address else "on this machine"
        each = f"{plan.gpus} GPU" if plan.gpus else f"{plan.cpus} CPU"
        notice(f"Ray {where}: starting {runner.wanted} worker{'s' * (runner.wanted > 1)} ({each} each)")
        with contextlib.closing(runner):
            yield runner
