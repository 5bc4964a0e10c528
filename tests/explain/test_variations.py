"""The quoted messages as they arrive: behind ranks and times of loggers, broken into lines, in JSON, quoted in mails."""

import json
import re
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from openllama_cli.explain.catalogue import known_errors
from tests.support.raising import codes

QUOTED = tomllib.loads((Path(__file__).parent / "quoted_messages.toml").read_text())


def prefixed(prefix: str) -> Callable[[str], str]:
    return lambda text: "".join(f"{prefix}{line}\n" for line in text.splitlines())


def broken(width: int, text: str) -> str:
    """Each line cut after `width` characters, as a terminal does it."""
    return "\n".join(line[place : place + width] for line in text.splitlines() for place in range(0, len(line) or 1, width))


def word_wrapped(width: int, text: str) -> str:
    return "\n".join("\n".join(textwrap.wrap(line, width)) for line in text.splitlines())


def on_windows(text: str) -> str:
    text = re.sub(
        r'"/[^"\n]*?/(site|dist)-packages/([^"\n]*)"',
        lambda found: '"C:\\venv\\Lib\\site-packages\\' + found[2].replace("/", "\\") + '"',
        text,
    )
    return text.replace("\n", "\r\n")


VARIATIONS: dict[str, Callable[[str], str]] = {
    "Windows": on_windows,
    "in color": lambda text: "".join(f"\x1b[31m{line}\x1b[0m\n" for line in text.splitlines()),
    "of a rank": prefixed("[rank3]: "),
    "of a rank of two digits": prefixed("[rank12]:"),
    "of an older torchrun": prefixed("[default0]:"),
    "of srun": prefixed("0: "),
    "of mpirun": prefixed("[1,0]<stderr>:"),
    "of Ray": prefixed("(RayWorkerWrapper pid=933, ip=192.0.2.24) "),
    "of Ray's ranks": prefixed("(WorkerDict rank=1, pid=2933) "),
    "of docker compose": prefixed("worker-1  | "),
    "of journald": prefixed("Nov 29 12:00:00 node-7 python[4242]: "),
    "in UTC": prefixed("2024-03-28T01:20:32.907Z "),
    "of logging": prefixed("2024-03-28 01:20:32,907 "),
    "of deepspeed": prefixed("[2023-10-13 17:40:02,544] "),
    "of FastChat": prefixed("2024-06-10 17:54:07 | ERROR | stderr | "),
    "of rich": prefixed("[11/29/26 15:04:05] "),
    "of glog": prefixed("E0724 19:33:34.565000 128818126430656 torch/distributed/elastic/multiprocessing/api.py:702] "),
    "of a rank's log": prefixed("[rank1]:[E528 08:52:46.164295950 ProcessGroupNCCL.cpp:145] "),
    "of pytest": prefixed("E   "),
    "in a frame": lambda text: "".join(f"│ {line} │\n" for line in text.splitlines()),
    "in a mail": prefixed("> "),
    "in an answer to a mail": prefixed("> > "),
    "indented": prefixed("    "),
    "after a progress bar": lambda text: f"Loading checkpoint shards:  50%|█████     | 1/2 [00:01<00:01]\r{text}\n",
    "in JSON": lambda text: json.dumps({"level": "error", "message": f"Error: see below\n{text}"}),
    "in JSON in JSON": lambda text: json.dumps({"error": json.dumps({"detail": f"Error: see below\n{text}"})}),
    "in a list of Python": lambda text: repr(["Error: see below\n" + text]),
    "broken after 80": lambda text: broken(80, text),
    "broken after 60": lambda text: broken(60, text),
    "broken after 47": lambda text: broken(47, text),
    "wrapped at words": lambda text: word_wrapped(72, text),
    "wrapped in a mail": lambda text: prefixed("> ")(word_wrapped(50, text)),
    "wrapped behind a rank": lambda text: broken(80, prefixed("[rank0]: ")(text)),
}


# Recognized by the code that a traceback quotes, which has to be whole.
BY_SOURCE = {entry.code for entry in known_errors() if all(pattern.of_source for pattern in entry.patterns)}


@pytest.mark.parametrize("variation", VARIATIONS)
def test_messages_are_recognized_however_they_arrive(variation: str) -> None:
    """The first message of every sixth entry, others for each variation."""
    place = list(VARIATIONS).index(variation)
    for code, (message, *_) in list(QUOTED.items())[place % 6 :: 6]:
        text = VARIATIONS[variation](message["text"].strip("\n"))
        assert codes(text)[:1] == [code] or (code in BY_SOURCE and "\n" in text), text
