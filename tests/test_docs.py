"""The documentation is true: every `console` example of README.md and docs/ prints what the page shows, and what a page names
exists: files, modules, commands, options, links.

A page's blocks are run in order in one folder. The README's first uses the `olc` that is installed; the others fork, see
`tests.support.forked`.
"""

import doctest
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from openllama_cli.cli import COMMANDS
from tests.support.forked import olc_script

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
CARDS = [ROOT / "prompts/README.md", ROOT / "openllama_cli/demo_model/README.md"]
# The changelog names files and options that are gone.
LIVING = [page for page in [*PAGES, *CARDS] if page.name != "changelog.md"]


def blocks(page: Path, kind: str) -> list[str]:
    """The contents of a page's fenced blocks of a kind, such as console."""
    found: list[str] = re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return found


def steps(block: str) -> list[tuple[str, str]]:
    """The commands of a block, each with the output that should follow. A line that ends with a backslash continues."""
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


def named(page: Path) -> str:
    """The path of a page, for the names of tests."""
    return str(page.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "console")], ids=named)
def test_examples_print_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts").symlink_to(ROOT / "prompts")
    (tmp_path / "bin").mkdir()
    installed = Path(sys.executable).parent
    forking = olc_script(tmp_path / "bin").parent
    wrong = []
    for number, block in enumerate(blocks(page, "console")):
        first = page == README and number == 0
        path = [str(installed)] if first else [str(forking), str(installed)]
        environment = {**os.environ, "PATH": ":".join([*path, os.environ["PATH"]]), "COLUMNS": "100"}
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
            # "…" in a page stands for what differs from machine to machine.
            pattern = ".*?".join(re.escape(part) for part in expected.split("…"))
            if not re.fullmatch(pattern, run.stdout, re.DOTALL):
                wrong.append(f"$ {command}\n{run.stdout}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", LIVING, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{named(page)}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{named(page)}: {link}"


@pytest.mark.parametrize("page", LIVING, ids=named)
def test_files_and_modules_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for module in re.findall(r"python3? -m (openllama_cli[\w.]*\w)", text):
        assert importlib.util.find_spec(module), module
    for file in re.findall(r"`((?:openllama_cli|docs|prompts|tests|\.ci)/[\w./-]*)`", text):
        assert (ROOT / file).exists(), file


@pytest.mark.parametrize("page", LIVING, ids=named)
def test_commands_that_are_shown_have_these_options(page: Path) -> None:
    """Also those that no test can run: a download, a cluster, a GPU."""
    examples = re.sub(r"\\\n", " ", "\n".join(blocks(page, "(?:sh|text|console)")))
    lines = [line for line in examples.splitlines() if not line.startswith(("olc: ", "error: "))]
    for line in [*lines, *re.findall(r"`([^`\n]+)`", page.read_text())]:
        for call in re.findall(r"(?:^|[|&(;$] *)(?:olc|torchrun .*?-m openllama_cli) ([a-z].*)", line):
            words = shlex.split(re.split(r" [|>&] ?", call)[0].replace("'", "").replace("…", ""), comments=True)
            if words[0] in COMMANDS:
                unknown = {word for word in words if word.startswith("--")} - options(words) - {"--help", "--debug"}
                assert not unknown, f"{line}: {unknown}"


def options(words: list[str]) -> set[str]:
    """The options of a command, or of its subcommand."""
    command: click.Command = importlib.import_module(f"openllama_cli.commands.{words[0]}").command
    if isinstance(command, click.Group) and len(words) > 1 and words[1] in command.commands:
        command = command.commands[words[1]]
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def test_the_file_tree_names_every_package() -> None:
    tree = re.findall(r"^ +([a-z_]+)/", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    there = {file.parent.name for file in (ROOT / "openllama_cli").rglob("__init__.py")} - {"openllama_cli"}
    assert there <= set(tree)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_row(name: str) -> None:
    assert f"| `olc {name}" in README.read_text()


def test_every_page_is_linked_from_the_readme() -> None:
    text = README.read_text()
    assert not [page.name for page in PAGES if page != README and f"(docs/{page.name})" not in text]


@pytest.mark.slow
def test_the_python_page_is_what_python_prints() -> None:
    """Its blocks are run as doctests, in order."""
    page = ROOT / "docs/python.md"
    test = doctest.DocTestParser().get_doctest("\n".join(blocks(page, "python")), {}, page.name, str(page), 0)
    assert len(test.examples) > 10
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert not report, "".join(report)
