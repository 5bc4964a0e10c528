"""Prompt templates: TOML files with a Jinja template, and the settings that go with it.

    description = "one line"
    template = "Q: {{ question }}\\nA:"      # Jinja, in a sandbox; an undefined name is an error
    stop = ["\\n"]                           # texts that end the completion
    max_tokens = 64
    [defaults]                              # values for variables that are not given
    context = ""

The ready ones lie in prompts/ and ship with the package. The sandbox keeps a template from reaching Python's objects and
files, and its loops and output are bounded; it does not bound the time of every expression a template may hold.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.errors import UsageError

if TYPE_CHECKING:
    import jinja2

# Characters a rendered prompt may have: far beyond any context, far below what would exhaust the memory.
MAX_PROMPT = 4_000_000
_KEYS = ("description", "template", "stop", "max_tokens", "defaults")
# Methods of a text that take a width, and so could fill the memory.
_PADDING = {"center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill"}
_README = "see prompts/README.md for the form of a template"
# What ready templates were called before.
_OLD_NAMES = {"summarise": "summarize"}


@dataclass(frozen=True)
class PromptTemplate:
    """A template, checked when it is loaded.

    name: how it was asked for. variables: names in the order in which the template uses them. defaults: values of those
    that may be left out. stop: texts that end a completion. max_tokens: tokens a completion needs, None if it does not say.
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

        Raises UsageError for a variable without a value, a name that the template does not use, or a template that fails.
        """
        for name in values:
            if name not in self.variables:
                known = f"it has {', '.join(self.variables)}" if self.variables else "it has no variables"
                raise UsageError(f"template {self.name} has no variable {name}", known + _closest(name, self.variables))
        given = dict(self.defaults) | {name: value for name, value in values.items() if value is not None}
        return _render(self.name, self.template, given)


def load_template(name_or_path: str) -> PromptTemplate:
    """A ready template by its name ("qa"), or any TOML file by its path.

    Raises UsageError naming the file, the line and what is wrong.
    """
    looks_like_path = "/" in name_or_path or "\\" in name_or_path or name_or_path.endswith(".toml")
    if not looks_like_path:
        ready = _ready()
        name = _OLD_NAMES.get(name_or_path, name_or_path)
        if name in ready:
            return _read(name, ready[name])
    path = Path(name_or_path)
    if _is_file(path):
        return _read(name_or_path, path)
    if looks_like_path:
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"the template file {name_or_path} {what}", f"check the path, or use one of {', '.join(_ready())}")
    raise UsageError(
        f"there is no template {name_or_path}",
        f"use one of {', '.join(_ready())}, or a path" + _closest(name_or_path, _ready()),
    )


def template_names() -> list[str]:
    """The names of those, found without reading one."""
    return list(_ready())


def prompts_folder() -> Path:
    """Where the ready templates and example prompts lie: inside an installed package, beside it in a source checkout."""
    package = Path(__file__).parent
    inside = package / "prompts"
    return inside if inside.is_dir() else package.parent / "prompts"


def _ready() -> dict[str, Path]:
    return {path.stem: path for path in sorted(prompts_folder().glob("*.toml"))}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for a file, or with a NUL in it
        return False


def _read(name: str, path: Path) -> PromptTemplate:
    import tomllib

    try:
        content = tomllib.loads(path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"))
    except OSError as error:
        raise UsageError(f"the template {path} cannot be read: {error.strerror}", "check the file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the template {path} is not UTF-8", "save it as UTF-8 text") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
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
        ("template", isinstance(template, str) and template != "", "a text that is not empty"),
        ("description", isinstance(description, str), "a text"),
        ("stop", isinstance(stop, list) and all(isinstance(text, str) and text for text in stop), "a list of texts"),
        ("max_tokens", max_tokens is None or (type(max_tokens) is int and max_tokens > 0), "a number from 1 on"),
        ("defaults", isinstance(defaults, dict), "a table of variables and values"),
    ]
    for key, fits, wanted in checks:
        if not fits:
            found = f"is {content[key]!r}" if key in content else "is missing"
            raise UsageError(f"{path}: {key} {found}", f"make it {wanted}; {_README}")
    variables = _variables(path, template)
    for variable in defaults:
        if variable not in variables:
            raise UsageError(
                f"{path}: defaults has {variable}, which the template does not use",
                f"the template uses {', '.join(variables) or 'no variables'}" + _closest(variable, variables),
            )
    return PromptTemplate(name, template, description, defaults, tuple(stop), max_tokens, variables)


def _variables(path: Path, source: str) -> tuple[str, ...]:
    import jinja2
    from jinja2 import meta, nodes

    try:
        tree = _environment().parse(source)
        _environment().compile(tree)  # unknown filters and tests are found here
    except jinja2.TemplateSyntaxError as error:
        message = (error.message or "syntax error").rstrip(".")
        raise UsageError(f"{path}: line {error.lineno} of the template: {message}", "correct the Jinja syntax there") from error
    except RecursionError as error:
        raise UsageError(f"{path}: the template is nested too deeply", "make it simpler") from error
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        raise UsageError(
            f"{path}: line {node.lineno} of the template reads another template", "write it out: each stands alone"
        )
    undeclared = meta.find_undeclared_variables(tree)
    return tuple(dict.fromkeys(node.name for node in tree.find_all(nodes.Name) if node.name in undeclared))


@cache
def _environment() -> "jinja2.Environment":
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range

    class Environment(ImmutableSandboxedEnvironment):
        """No attributes that lead to Python's insides, no changes to values, no texts or numbers grown out of nothing."""

        intercepted_binops = frozenset(["*", "**", "%"])

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            return not (isinstance(obj, str) and attr in _PADDING) and super().is_safe_attribute(obj, attr, value)

        def wrap_str_format(self, value: Any) -> None:
            """str.format would otherwise be let through in a wrapper that does not look at widths."""

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "%" and isinstance(left, str):
                raise TypeError("% on a text is not available; write variables as {{ name }}")
            sizes = [len(side) if hasattr(side, "__len__") else abs(side) for side in (left, right)]
            if max(sizes) > MAX_PROMPT or (operator == "**" and sizes[1] > 64):
                raise OverflowError("a number that is too large")
            if operator == "*" and (hasattr(left, "__len__") or hasattr(right, "__len__")) and sizes[0] * sizes[1] > MAX_PROMPT:
                raise OverflowError("a repeated text that is too long")
            return super().call_binop(context, operator, left, right)

    environment = Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # prompts are no HTML
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Jinja's other globals (lipsum, cycler…) are not for prompts, and would hide a variable of that name.
    environment.globals = {"range": safe_range}
    for name in ("center", "format", "indent", "random"):  # as _PADDING; and the same values must give the same prompt
        del environment.filters[name]
    return environment


@lru_cache(maxsize=8)
def _compiled(source: str) -> "jinja2.Template":
    """A batch renders one template a million times."""
    return _environment().from_string(source)


def _render(name: str, source: str, values: Mapping[str, object]) -> str:
    import jinja2

    parts: list[str] = []
    length = 0
    try:
        for part in _compiled(source).generate(values):
            parts.append(part)
            length += len(part)
            if length > MAX_PROMPT:
                raise OverflowError(f"more than {MAX_PROMPT:,} characters")
    except jinja2.UndefinedError as error:
        missing = re.match(r"'(\w+)' is undefined", error.message or "")
        if missing:
            raise UsageError(
                f"template {name} needs a value for {missing[1]}", f'give it: -p {missing[1]} "…"', code="template_variable"
            ) from error
        raise UsageError(f"template {name}{_where(error)}: {error.message}", "give the values that it uses") from error
    except Exception as error:  # an expression in a template can fail in any way; none of them is our bug
        reason = str(error).rstrip(".") or type(error).__name__
        raise UsageError(f"template {name}{_where(error)}: {reason}", "change the template, or the value given") from error
    return "".join(parts)


def _where(error: Exception) -> str:
    """ ", line 3" of the template in which an error arose; Jinja puts its lines into the traceback."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f", line {line}"


def _closest(name: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
