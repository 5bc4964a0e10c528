"""Ray's workers as forks: real actors of a real cluster that need not import torch and transformers, which takes each seconds.

The driver is a fork that has them already (see `tests.support.forked`). It forks a helper first, which forks again for each
worker that the raylet starts. So workers are what they always are: descendants of the driver, in its process group, with
arguments, streams and variables that the raylet made; Ray itself they import, which reads these variables then. The raylet's
own child is this module as a program, which asks the helper and lives as long as the worker.
"""

import os
import runpy
import select
import signal
import socket
import sys
from typing import NoReturn

_ADDRESS = "OLC_TESTS_RAY_FORKS"  # The variable that says where a driver's helper listens.


def in_fork() -> None:
    """Prepare a fork that is about to run olc: the code of a `Forked`."""
    from openllama_cli.batch.ray import cluster

    name = f"olc-tests-ray-{os.getpid()}"
    driver, end = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        if os.fork() == 0:
            os.close(end)
            _help(listener, driver)
    os.close(driver)  # The other end closes with the driver, however it ends.
    os.environ[_ADDRESS] = name

    silence = cluster._silence

    def silence_and_start_forks() -> None:
        """In place of what `connect` does between Ray's import and its start."""
        from ray._private import ray_constants

        silence()
        ray_constants.SETUP_WORKER_FILENAME = __file__

    cluster._silence = silence_and_start_forks


def _help(listener: socket.socket, driver: int) -> NoReturn:
    """Fork on request, as long as the driver lives."""
    from tests.support.fork_request import receive
    from tests.support.forked import become

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    while driver not in select.select([listener, driver], [], [])[0]:
        request, descriptors = receive(listener)
        if os.fork() == 0:
            os.close(driver)
            listener.close()
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
            become(request, descriptors[:3])
            sys.argv = request["arguments"]
            runpy.run_path(sys.argv[0], run_name="__main__")  # It does not return.
        for descriptor in descriptors:
            os.close(descriptor)
    os._exit(0)


def _worker(arguments: list[str]) -> None:
    """In place of Ray's setup_worker.py."""
    from fork_request import ask  # It lies beside this file.

    own = ("--serialized-runtime-env-context=", "--language=")
    arguments = [argument for argument in arguments if not argument.startswith(own)]
    blocked = [*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))]  # Ray keeps Ctrl-C from its processes.
    cwd = os.getcwd()  # noqa: PTH109
    ended = ask(f"\0{os.environ[_ADDRESS]}", arguments, (0, 1, 2), os.environ, cwd=cwd, blocked=blocked)
    with os.fdopen(ended, "rb") as nothing:
        nothing.read()


if __name__ == "__main__":
    _worker(sys.argv[1:])
