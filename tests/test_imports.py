"""The rules of who may import whom, and what starting `olc` may cost.

Rules are read from the source; costs from a fresh interpreter, as a list of imported modules rather than a time.
"""

import ast
import functools
import graphlib
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
        *("api", "batch", "benchmark", "devices", "explain", "generation", "models", "serve", "system", "terminal"),
        *("annotation", "compare", "few_shot", "openai_api", "prompt_templates", "records", "sgd"),
    },
    "compare": {"batch"},
    "records": {"api", "batch", "compare", "generation", "models", "native", "system"},
    "api": {"generation", "models", "system"},
    "benchmark": {"batch", "demo_model", "devices", "generation", "models", "sgd", "system"},
    "batch": {"annotation", "few_shot", "generation", "models", "openai_api", "prompt_templates", "system"},
    "openai_api": {"generation"},
    "serve": {"api", "generation", "models", "openai_api", "records", "system"},
    "devices": {"models", "native", "system"},
    "generation": {"models", "native", "system"},
    "few_shot": {"prompt_templates", "system"},
    "prompt_templates": {"system"},
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


@functools.cache
def all_imports() -> dict[str, set[str]]:
    """What each module imports."""
    return {name: set(imports(file)) - {name} for name, file in MODULES.items()}


def test_imports_point_one_way() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in all_imports().items()
        for other in others & set(MODULES) - {"openllama_cli.errors", "openllama_cli.version"}
        if part(other) not in {part(name), *MAY_IMPORT.get(part(name), ())}
    ]
    assert not wrong


def test_no_import_circle() -> None:
    """Neither at the top of files nor inside functions."""
    order = graphlib.TopologicalSorter({name: others & set(MODULES) for name, others in all_imports().items()})
    order.prepare()  # Raises CycleError, which names the circle.


@pytest.mark.parametrize(
    ("library", "homes"),
    [("rich", {"terminal"}), ("click", {"cli", "commands"}), ("spacy", {"annotation"}), ("ray", {"batch", "benchmark"})],
)
def test_a_library_is_known_in_its_homes_only(library: str, homes: set[str]) -> None:
    users = {name for name, others in all_imports().items() if library in {other.split(".")[0] for other in others}}
    assert {part(name) for name in users} <= homes


def test_no_folder_is_a_bag() -> None:
    files = Counter(file.parent for file in FILES if file.name != "__init__.py")
    assert {folder: count for folder, count in files.items() if count > 15} == {}


def test_every_package_says_what_it_is_for() -> None:
    faces = [file for file in FILES if file.name == "__init__.py"]
    assert [file for file in faces if len(ast.get_docstring(ast.parse(file.read_text())) or "") < 60] == []


# What olc is run with, one after another in one interpreter: its exit code, and what it must not have imported by then.
LIGHT = HEAVY | {"huggingface_hub"}
COSTLY = LIGHT | {"jinja2", "sentencepiece", "tomllib", "rich.progress", "openllama_cli.models.checkpoint.inspect"}
COMPLETED = ("olc ", "olc complete -m ", "olc batch -t ", "olc models pull ")
NO_LOOK_AT_MODELS = COSTLY | {"openllama_cli.models.find"}
RUNS: list[tuple[str, int, set[str]]] = [
    ("--help", 0, NO_LOOK_AT_MODELS | {"rich"}),
    *((f"{command} x --top-p 2", 2, NO_LOOK_AT_MODELS) for command in ("complete", "generate", "batch")),
    ("complete x --choices a,a", 2, NO_LOOK_AT_MODELS),
    *((words, 0, COSTLY) for words in COMPLETED),
    ("--version", 0, LIGHT),
    ("explain Killed", 0, LIGHT),
    ("schema record", 0, LIGHT),
    ("replay no_such.json", 2, LIGHT),
    ("diff no_such.jsonl no_such.jsonl", 2, LIGHT),
    ("nonsense", 2, LIGHT),
    *((f"models {words}", 0, LIGHT | {"openllama_cli.models.checkpoint.inspect"}) for words in ("--help", "list", "default")),
    ("models info 3b", 0, LIGHT),
    *((f"models {words}", 1, LIGHT) for words in ("rm 3b -y", "pull gpt9")),
    *((f"{command} --help", 0, HEAVY) for command in ("complete", "tokenize", "annotate", "sgd", "devices")),
    ("tokenize hello", 0, HEAVY | {"rich.progress"}),
    ("serve --help", 0, HEAVY),
    ("score --help", 0, HEAVY),
    ("score x --top 3", 2, HEAVY),
    ("score x --stride 100000", 2, HEAVY),
    ("serve --host 0.0.0.0", 2, HEAVY),
    ("complete", 2, HEAVY),
    ("complete x --lang en", 2, HEAVY),
    ("complete x --max-tokens 100000", 2, HEAVY),
    ("complete x --shots 2", 2, HEAVY),
    (
        f"complete x -t sentiment --shots 2 --show-prompt -m demo --examples {PACKAGE.parent}/prompts/examples/sentiment.csv",
        0,
        HEAVY,
    ),
    ("batch --report absent.jsonl", 2, HEAVY),
    ("complete x --device toaster", 2, HEAVY),
    ("complete x -m ./no/such/folder", 1, HEAVY),
    ("annotate", 2, HEAVY),
    ("annotate x --only nonsense", 2, HEAVY),
    ("annotate x --lang nonsense", 2, HEAVY),
    ("annotate x --pipeline no_such_pipeline", 1, HEAVY),
    ("devices --device toaster", 2, HEAVY),
    ("devices -m ./no/such", 1, HEAVY),
    ("sgd --eta x", 2, HEAVY),
    ("sgd --sizes 784,10", 2, HEAVY),
    ("sgd --data nowhere", 2, HEAVY),
    ("sgd --epochs 1 --json", 0, HEAVY - {"numpy"}),
]
RUN_ALL = """
import os, sys
for words in sys.argv[1:]:
    # Words after "olc" are run; with it they are completed, as a shell asks for it.
    completed = words.startswith("olc ")
    os.environ |= {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    os.environ["_OLC_COMPLETE"] = "bash_complete" if completed else ""
    from openllama_cli.cli import main
    try:
        main([] if completed else words.split())
    except SystemExit as ended:
        print("RAN", ended.code, *sys.modules, file=sys.stderr)
"""


def test_help_listing_completion_and_usage_errors_import_little() -> None:
    """Least first, since what one run has imported the next ones find."""
    environment = {**os.environ, "OLC_MODEL": "", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", RUN_ALL, *(words for words, _, _ in RUNS)]
    run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)
    told = [line.split()[1:] for line in run.stderr.splitlines() if line.startswith("RAN ")]
    assert len(told) == len(RUNS), run.stderr
    for (words, code, forbidden), (returned, *modules) in zip(RUNS, told, strict=True):
        assert (words, int(returned), forbidden & set(modules)) == (words, code, set())
    assert "openllama_cli.prompt_templates" in told[3], "it needs no jinja2 itself"
    ours = {name for name in told[0] if name.startswith("openllama_cli.")}
    assert ours <= {"openllama_cli.cli", "openllama_cli.errors", "openllama_cli.version"}, "--help needs little beyond click"
