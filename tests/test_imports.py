"""The rules of who may import whom, and what starting `olc` may cost.

Rules are read from the source; costs from a fresh interpreter, as a list of imported modules rather than a time.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "openllama_cli"
LIBRARIES = {"models", "generation", "batch", "devices", "sgd", "demo_model", "benchmark", "annotation", "native"}

# Which of our packages each may import, besides itself, `errors` and the version.
MAY_IMPORT = {
    "cli": {"commands", "terminal"},
    "commands": LIBRARIES | {"terminal", "prompt_templates"},
    "terminal": set(),
    "models": {"native"},
    "generation": {"native"},
    "native": set(),
    "prompt_templates": set(),
    # A Ray worker is a process of its own, which loads its model.
    "batch": {"models", "annotation", "generation", "prompt_templates"},
    "annotation": set(),
    "devices": {"models", "native"},
    "sgd": set(),
    "benchmark": {"models", "generation", "devices"},
    "demo_model": set(),
    "errors": set(),
    "__init__": set(),
    "__main__": {"cli"},
}
HEAVY = {"torch", "transformers", "accelerate", "numpy", "spacy"}


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, functions included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "openllama_cli")


def part(file: Path) -> str:
    """The package or module right under openllama_cli that a file belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_one_way(file: Path) -> None:
    allowed = MAY_IMPORT[part(file)] | {part(file), "errors", "__version__"}
    ours = {name.split(".")[1] for name in imports(file) if name.startswith("openllama_cli.")}
    assert ours <= allowed, f"{part(file)} imports {ours - allowed}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_only_the_terminal_knows_rich_and_only_commands_know_click(file: Path) -> None:
    tops = {name.split(".")[0] for name in imports(file)}
    assert "rich" not in tops or part(file) == "terminal"
    assert "click" not in tops or part(file) in {"cli", "commands"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_only_annotation_knows_spacy(file: Path) -> None:
    assert "spacy" not in {name.split(".")[0] for name in imports(file)} or part(file) == "annotation"


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
    costly = {"openllama_cli.models.checkpoint", "openllama_cli.models.find", "rich.progress", "jinja2", "sentencepiece"}
    assert not modules & costly


@pytest.mark.parametrize("words", ["olc ", "olc complete -m ", "olc batch -t ", "olc models pull "])
def test_completion_in_a_shell_costs_no_look_at_models(words: str) -> None:
    typed = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_OLC_COMPLETE": "bash_complete"}
    modules, code = modules_after(**typed)
    assert code == 0
    assert not {name.split(".")[0] for name in modules} & (HEAVY | {"jinja2", "huggingface_hub"})
    assert not modules & {"openllama_cli.models.checkpoint", "sentencepiece", "tomllib"}


def test_help_imports_little_beyond_click() -> None:
    modules, _ = modules_after("--help")
    ours = {name for name in modules if name.startswith("openllama_cli.")}
    assert ours <= {"openllama_cli.cli", "openllama_cli.errors"}
    assert "rich" not in modules
