"""Prompt templates: TOML files with a Jinja template, and the settings that go with it.

    description = "one line"
    template = "Q: {{ question }}\\nA:"      # Jinja, in a sandbox; an undefined name is an error
    stop = ["\\n"]                           # texts that end the completion
    max_tokens = 64
    [defaults]                              # values for variables that are not given
    context = ""

The built-in ones are in prompts/, which ships with the package. A template comes from a file that the user names: Jinja's
sandbox keeps it from Python's internals and from changing values, and its output, its memory and its time are bounded.
"""

import os
import re
import reprlib
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.errors import UsageError, first_line
from openllama_cli.system.bounds import Bounded

if TYPE_CHECKING:
    import jinja2

# Characters of a rendered prompt: far beyond any context, far below what would exhaust the memory.
MAX_PROMPT = 4_000_000
# What a template may take while it is checked, or rendered once: some hundred times what the longest prompt needs.
_MEMORY = 512 * 2**20
_SECONDS = 10.0
_MOST_TOKENS = 2**31 - 1
_KEYS = ("description", "template", "stop", "max_tokens", "defaults")
_README = "see prompts/README.md for the format of a template"
_OLD_NAMES = {"summarise": "summarize"}


@dataclass(frozen=True)
class PromptTemplate:
    """A template, checked when it is loaded.

    name: a built-in's name, or the path that was given. variables: names in the order in which the template uses them.
    defaults: values of those that may be left out. stop: texts that end a completion. max_tokens: None if it does not say.
    """

    name: str
    template: str
    description: str = ""
    defaults: Mapping[str, object] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    variables: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """The variables without a default."""
        return tuple(name for name in self.variables if name not in self.defaults)

    def render(self, values: Mapping[str, object]) -> str:
        """The prompt. values: variable → text, number, or list for templates that loop; None counts as not given.

        Raises UsageError for a variable without a value, an unknown variable, or a template that fails.
        """
        import jinja2

        for name in values:
            if name not in self.variables:
                known = f"it has {', '.join(self.variables)}" if self.variables else "it has no variables"
                raise UsageError(f"template {self.name} has no variable {name}", known + _closest(name, self.variables))
        given = dict(self.defaults) | {name: value for name, value in values.items() if value is not None}
        parts: list[str] = []
        length = 0
        try:
            with Bounded(_MEMORY, _SECONDS):
                for part in _compiled(self.template).generate(given):
                    parts.append(part)
                    length += len(part)
                    if length > MAX_PROMPT:
                        raise OverflowError(f"more than {MAX_PROMPT:,} characters")
        except Exception as error:  # an expression in a template can raise anything, and none of it is a bug of olc
            undefined = isinstance(error, jinja2.UndefinedError)
            if undefined and (missing := re.match(r"'(\w+)' is undefined", str(error))):
                cause, remedy = f"template {self.name} needs a value for {missing[1]}", f'add -p {missing[1]} "…"'
                raise UsageError(cause, remedy, code="template_variable") from error
            reason = str(error) if undefined else _reason(error)
            remedy = "give a value that has it, or change the template" if undefined else "change the template or the value"
            raise UsageError(f"template {self.name}{_where(error)}: {reason}", remedy) from error
        return "".join(parts)


def load_template(name_or_path: str) -> PromptTemplate:
    """A built-in template by its name ("qa"), or any TOML file by its path.

    Raises UsageError naming the file, the line and what is wrong.
    """
    built_in = _built_in()
    name = _OLD_NAMES.get(name_or_path, name_or_path)
    if name in built_in:
        return _read(name, built_in[name])
    path = Path(name_or_path)
    if os.path.isfile(path):  # noqa: PTH113, Path.is_file raises for a name that is too long
        return _read(name_or_path, path)
    remedy = f"use one of {', '.join(built_in)}, or the path of a file"
    if "/" in name_or_path or "\\" in name_or_path or path.suffix == ".toml":
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"the template file {name_or_path} {what}", remedy)
    raise UsageError(f"unknown template {name_or_path}", remedy + _closest(name_or_path, built_in))


def template_names() -> list[str]:
    """The names of the built-in templates, without reading one."""
    return list(_built_in())


def prompts_folder() -> Path:
    """The folder of templates and example prompts: inside an installed package, beside it in a source checkout."""
    package = Path(__file__).parent
    inside = package / "prompts"
    return inside if inside.is_dir() else package.parent / "prompts"


def _built_in() -> dict[str, Path]:
    return {path.stem: path for path in sorted(prompts_folder().glob("*.toml"))}


def _read(name: str, path: Path) -> PromptTemplate:
    import tomllib

    try:
        content = tomllib.loads(path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"))
    except OSError as error:
        raise UsageError(f"cannot read the template {path}: {error.strerror}", "check the file and its permissions") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the template {path} is not UTF-8", "save it as UTF-8 text") from error
    except (ValueError, RecursionError) as error:  # ValueError: also of a number of thousands of digits
        raise UsageError(f"{path} is not valid TOML: {error}", _README) from error
    return _check(name, path, content)


def _check(name: str, path: Path, content: dict[str, Any]) -> PromptTemplate:
    for key in content:
        if key not in _KEYS:
            raise UsageError(f"{path}: unexpected key {key}", f"the keys are {', '.join(_KEYS)}" + _closest(key, _KEYS))
    template, description = content.get("template", ""), content.get("description", "")
    stop, max_tokens, defaults = content.get("stop", []), content.get("max_tokens"), content.get("defaults", {})
    stop = [stop] if isinstance(stop, str) else stop
    checks = [
        ("template", isinstance(template, str) and template != "", "a non-empty string"),
        ("description", isinstance(description, str), "a string"),
        ("stop", isinstance(stop, list) and all(isinstance(text, str) and text for text in stop), "a list of strings"),
        ("max_tokens", max_tokens is None or (type(max_tokens) is int and 0 < max_tokens <= _MOST_TOKENS), "an integer from 1"),
        ("defaults", isinstance(defaults, dict), "a table of variables and values"),
    ]
    for key, fits, wanted in checks:
        if not fits:
            found = f"is {reprlib.repr(content[key])}" if key in content else "is missing"
            raise UsageError(f"{path}: {key} {found}", f"make it {wanted}; {_README}")
    variables = _variables(path, template)
    for variable in defaults:
        if variable not in variables:
            raise UsageError(
                f"{path}: [defaults] sets {variable}, which the template does not use",
                f"the template uses {', '.join(variables) or 'no variables'}" + _closest(variable, variables),
            )
    return PromptTemplate(name, template, description, defaults, tuple(stop), max_tokens, variables)


def _variables(path: Path, source: str) -> tuple[str, ...]:
    import jinja2
    from jinja2 import meta, nodes

    try:
        with Bounded(_MEMORY, _SECONDS):  # Jinja computes filters of constants here
            tree = _environment().parse(source)
            _environment().compile(tree)  # unknown filters and tests are found here
    except jinja2.TemplateSyntaxError as error:
        message = (error.message or "syntax error").rstrip(".")
        raise UsageError(f"{path}: line {error.lineno} of the template: {message}", "correct the Jinja syntax there") from error
    except RecursionError as error:
        raise UsageError(f"{path}: the template is nested too deeply", "simplify it") from error
    except Exception as error:  # filters can raise anything
        raise UsageError(f"{path}: the template: {first_line(_reason(error))}", "change the template") from error
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        raise UsageError(f"{path}: line {node.lineno} of the template includes another template", "put its text into this one")
    undeclared = meta.find_undeclared_variables(tree)
    return tuple(dict.fromkeys(node.name for node in tree.find_all(nodes.Name) if node.name in undeclared))


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


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"more than {_MEMORY // 2**20} MiB of memory"
    return str(error).rstrip(".") or type(error).__name__


def _where(error: Exception) -> str:
    """ ", line 3": where in the template an error was raised; Jinja maps its lines into the traceback."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
    return f", line {lines[-1]}" if lines else ""


def _closest(name: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
