"""The README's examples are what the commands print: every `console` block is run, in order, in one shell.

The first with the `olc` that is installed; the others with forks, see `tests.support.forked`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forked import olc_script

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```console\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def steps(block: str) -> list[tuple[str, str]]:
    """The commands of a block, each with what should follow it. A line that ends with a backslash goes on."""
    found: list[tuple[str, str]] = []
    lines = iter(block.splitlines())
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\"):
                command = command[:-1] + next(lines)
            found.append((command, ""))
        else:
            command, output = found[-1]
            found[-1] = (command, output + line + "\n")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0][:60])
def test_examples_print_what_the_readme_shows(block: str, tmp_path: Path) -> None:
    (tmp_path / "prompts").symlink_to(ROOT / "prompts")
    installed = Path(sys.executable).parent
    (tmp_path / "bin").mkdir()
    path = [installed] if block == BLOCKS[0] else [olc_script(tmp_path / "bin").parent, installed]
    environment = {**os.environ, "PATH": ":".join([*map(str, path), os.environ["PATH"]]), "COLUMNS": "100"}
    for command, expected in steps(block):
        run = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # "…" in the README stands for what differs from machine to machine.
        pattern = ".*?".join(re.escape(part) for part in expected.split("…"))
        assert re.fullmatch(pattern, run.stdout, re.DOTALL), f"$ {command}\n{run.stdout}"


def test_the_file_tree_names_every_folder() -> None:
    named = set(re.findall(r"^ {4,}([a-z_]+)/", README, re.MULTILINE))
    there = {folder.name for folder in (ROOT / "openllama_cli").iterdir() if (folder / "__init__.py").exists()}
    assert there <= named


def test_every_command_has_its_row() -> None:
    from openllama_cli.cli import COMMANDS

    for name in COMMANDS:
        assert f"| `olc {name}" in README
