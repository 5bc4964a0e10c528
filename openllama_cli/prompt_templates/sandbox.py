"""Jinja for templates that anybody may have written: no way into Python, and bounds for output, memory and time."""

import traceback
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from openllama_cli.system.bounds import Bounded

if TYPE_CHECKING:
    import jinja2

# Characters of a rendered prompt: far beyond any context, far below what would exhaust the memory.
MAX_PROMPT = 4_000_000
# What a template may take while it is checked, or rendered once: some hundred times what the longest prompt needs.
_MEMORY = 512 * 2**20
_SECONDS = 10.0


class IncludesError(Exception):
    """A template wants another one. line: from 1."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


def variables(source: str) -> tuple[str, ...]:
    """The names that a template does not set itself, in the order in which it uses them.

    Raises jinja2.TemplateSyntaxError, IncludesError, RecursionError, and whatever a filter of a constant raises.
    """
    from jinja2 import meta, nodes

    with Bounded(_MEMORY, _SECONDS):  # Jinja computes filters of constants here
        tree = _environment().parse(source)
        _environment().compile(tree)  # unknown filters and tests are found here
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        raise IncludesError(node.lineno)
    undeclared = meta.find_undeclared_variables(tree)
    return tuple(dict.fromkeys(node.name for node in tree.find_all(nodes.Name) if node.name in undeclared))


def render(source: str, values: Mapping[str, object]) -> str:
    """A template filled. Raises whatever its expressions raise, and OverflowError for more than MAX_PROMPT characters."""
    parts: list[str] = []
    length = 0
    with Bounded(_MEMORY, _SECONDS):
        for part in _compiled(source).generate(values):
            parts.append(part)
            length += len(part)
            if length > MAX_PROMPT:
                raise OverflowError(f"more than {MAX_PROMPT:,} characters")
    return "".join(parts)


def is_undefined(error: Exception) -> bool:
    """Whether a template used what is not there."""
    import jinja2

    return isinstance(error, jinja2.UndefinedError)


def reason(error: Exception) -> str:
    """What went wrong in a template."""
    if isinstance(error, MemoryError):
        return f"more than {_MEMORY // 2**20} MiB of memory"
    return str(error).rstrip(".") or type(error).__name__


def where(error: Exception) -> str:
    """ ", line 3": where in the template an error was raised; Jinja maps its lines into the traceback."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
    return f", line {lines[-1]}" if lines else ""


@cache
def _environment() -> "jinja2.Environment":
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        # Checked before they are computed: a few characters can ask for gigabytes. What is intercepted, Jinja does not compute
        # while it compiles either, where no limit holds.
        intercepted_binops = frozenset({"*", "**", "%"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "%" and isinstance(left, str):
                raise TypeError("% on a text is not available; write variables as {{ name }}")
            sizes = [len(side) if hasattr(side, "__len__") else abs(side) for side in (left, right)]
            repeated = operator == "*" and (hasattr(left, "__len__") or hasattr(right, "__len__"))
            if (
                max(sizes) > MAX_PROMPT
                or (operator == "**" and sizes[1] > 64)
                or (repeated and sizes[0] * sizes[1] > MAX_PROMPT)
            ):
                raise OverflowError(f"the result of {operator} would be too large")
            return super().call_binop(context, operator, left, right)

    environment = Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # a prompt is not HTML
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A variable may be called like another of Jinja's globals (dict, cycler, …), and equal values must give equal prompts.
    environment.globals = {"range": environment.globals["range"]}
    for name in ("center", "format", "indent", "random"):  # they take a width
        del environment.filters[name]
    return environment


@lru_cache(maxsize=8)
def _compiled(source: str) -> "jinja2.Template":
    """Cached, since a batch renders one template for every row."""
    return _environment().from_string(source)
