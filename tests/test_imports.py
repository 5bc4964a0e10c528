"""The rules of who may import whom, and what starting `olc` may cost.

Rules are read from the source; costs from a fresh interpreter, as a list of imported modules rather than a time.
"""

import ast
import graphlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "openllama_cli"
# Which of our packages each may import, besides itself, `errors` and the version.
MAY_IMPORT = {
    "__init__": {"api"},
    "__main__": {"cli"},
    "cli": {"commands", "terminal"},
    "commands": {
        *("api", "batch", "benchmark", "devices", "explain", "generation", "models", "system", "terminal"),
        *("annotation", "prompt_templates", "sgd"),
    },
    "api": {"generation", "models", "system"},
    "benchmark": {"batch", "demo_model", "devices", "generation", "models", "sgd", "system"},
    "batch": {"annotation", "generation", "models", "prompt_templates", "system"},
    "devices": {"models", "native", "system"},
    "generation": {"models", "native", "system"},
    "models": {"native", "system"},
}
HEAVY = {"torch", "transformers", "accelerate", "numpy", "spacy"}


def imports(file: Path) -> Iterator[str]:
    """Every module of a file's imports, those inside functions included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module or "" for name in names)


def module(file: Path) -> str:
    """openllama_cli/models/spec.py → openllama_cli.models.spec"""
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def part(name: str) -> str:
    """The package or module right under openllama_cli that a module belongs to."""
    return name.split(".")[1] if "." in name else "__init__"


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {module(file): file for file in FILES}
# Each file is parsed once.
IMPORTS = {name: set(imports(file)) - {name} for name, file in MODULES.items()}


def test_imports_point_one_way() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others & set(MODULES) - {"openllama_cli.errors", "openllama_cli.version"}
        if part(other) not in {part(name), *MAY_IMPORT.get(part(name), ())}
    ]
    assert not wrong


def test_no_import_circle() -> None:
    """Neither at the top of files nor inside functions."""
    order = graphlib.TopologicalSorter({name: others & set(MODULES) for name, others in IMPORTS.items()})
    order.prepare()  # Raises CycleError, which names the circle.


@pytest.mark.parametrize(
    ("library", "homes"),
    [("rich", {"terminal"}), ("click", {"cli", "commands"}), ("spacy", {"annotation"}), ("ray", {"batch", "benchmark"})],
)
def test_a_library_is_known_in_its_homes_only(library: str, homes: set[str]) -> None:
    users = {name for name, others in IMPORTS.items() if library in {other.split(".")[0] for other in others}}
    assert {part(name) for name in users} <= homes


def test_no_folder_is_a_bag() -> None:
    files = Counter(file.parent for file in FILES if file.name != "__init__.py")
    assert {folder: count for folder, count in files.items() if count > 15} == {}


def test_every_package_says_what_it_is_for() -> None:
    faces = [file for file in FILES if file.name == "__init__.py"]
    assert [file for file in faces if len(ast.get_docstring(ast.parse(file.read_text())) or "") < 60] == []


def modules_after(*arguments: str, **env: str) -> tuple[set[str], int]:
    """Run olc in a fresh interpreter; the modules that it had imported when it exited, and its exit code."""
    code = (
        "import json, sys, atexit\n"
        "atexit.register(lambda: print('MODULES' + json.dumps(sorted(sys.modules)), file=sys.stderr))\n"
        "from openllama_cli.cli import main\n"
        f"main({list(arguments)!r})\n"
    )
    environment = {**os.environ, "OLC_MODEL": "", "HF_HUB_OFFLINE": "1", **env}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment
    )
    line = next(line for line in run.stderr.splitlines() if line.startswith("MODULES"))
    return set(json.loads(line.removeprefix("MODULES"))), run.returncode


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["complete", "--help"], 0),
        (["tokenize", "--help"], 0),
        (["models", "--help"], 0),
        (["models", "list"], 0),
        (["tokenize", "hello world"], 0),
        (["nonsense"], 2),
        (["complete"], 2),
        (["complete", "x", "--top-p", "2"], 2),
        (["complete", "x", "--lang", "en"], 2),
        (["annotate", "--help"], 0),
        (["annotate"], 2),
        (["annotate", "x", "--only", "nonsense"], 2),
        (["annotate", "x", "--lang", "nonsense"], 2),
        (["annotate", "x", "--pipeline", "no_such_pipeline"], 1),
        (["complete", "x", "-m", "./no/such/folder"], 1),
        (["complete", "x", "--max-tokens", "100000"], 2),
        (["complete", "x", "--device", "toaster"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_help_listing_and_usage_errors_never_import_torch(arguments: list[str], code: int) -> None:
    modules, returned = modules_after(*arguments)
    assert returned == code
    assert not {name.split(".")[0] for name in modules} & HEAVY


@pytest.mark.parametrize("command", ["complete", "generate", "batch"])
def test_usage_errors_of_a_command_cost_no_look_at_models(command: str) -> None:
    modules, code = modules_after(command, "x", "--top-p", "2")
    assert code == 2
    costly = {
        "openllama_cli.models.checkpoint.inspect",
        "openllama_cli.models.find",
        "rich.progress",
        "jinja2",
        "sentencepiece",
    }
    assert not modules & costly


@pytest.mark.parametrize("words", ["olc ", "olc complete -m ", "olc batch -t ", "olc models pull "])
def test_completion_in_a_shell_costs_no_look_at_models(words: str) -> None:
    typed = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_OLC_COMPLETE": "bash_complete"}
    modules, code = modules_after(**typed)
    assert code == 0
    assert not {name.split(".")[0] for name in modules} & (HEAVY | {"jinja2", "huggingface_hub"})
    assert not modules & {"openllama_cli.models.checkpoint.inspect", "sentencepiece", "tomllib"}


def test_help_imports_little_beyond_click() -> None:
    modules, _ = modules_after("--help")
    ours = {name for name in modules if name.startswith("openllama_cli.")}
    assert ours <= {"openllama_cli.cli", "openllama_cli.errors", "openllama_cli.version"}
    assert "rich" not in modules
