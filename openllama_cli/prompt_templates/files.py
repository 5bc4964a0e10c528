"""Files of templates: found by name or path, read, and checked."""

import os
import reprlib
from pathlib import Path
from typing import Any

from openllama_cli.errors import UsageError, first_line
from openllama_cli.prompt_templates import sandbox
from openllama_cli.prompt_templates.template import OF_HEADINGS, SEPARATOR, PromptTemplate, closest

_MOST_TOKENS = 2**31 - 1
_KEYS = ("description", "heading", "template", "separator", "choices", "choices_prefix", "stop", "max_tokens", "defaults")
_README = "see prompts/README.md for the format of a template"
_OLD_NAMES = {"summarise": "summarize"}


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
    raise UsageError(f"unknown template {name_or_path}", remedy + closest(name_or_path, built_in))


def template_content(template: PromptTemplate) -> dict[str, Any]:
    """A template as its file has it, by the keys of that; what changes nothing is left out."""
    values = {
        **{key: getattr(template, key) for key in _KEYS},
        "defaults": dict(template.defaults),
        "stop": list(template.stop),
        "choices": list(template.choices),
    }
    return {key: value for key, value in values.items() if value not in (None, "", [], {})}


def template_of(name: str, content: dict[str, Any]) -> PromptTemplate:
    """The template that a file with this content is. Raises UsageError where none is."""
    return _check(name, Path(name), content)


def template_names() -> list[str]:
    """The names of the built-in templates, without reading one."""
    return list(_built_in())


def prompts_folder() -> Path:
    """The folder of templates and example prompts: inside an installed package, beside it in a source checkout."""
    package = Path(__file__).parent.parent
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
            raise UsageError(f"{path}: unexpected key {key}", f"the keys are {', '.join(_KEYS)}" + closest(key, _KEYS))
    template, heading, description = (content.get(key, "") for key in ("template", "heading", "description"))
    separator, choices, prefix = content.get("separator", SEPARATOR), content.get("choices", []), content.get("choices_prefix")
    stop, max_tokens, defaults = content.get("stop", []), content.get("max_tokens"), content.get("defaults", {})
    stop = [stop] if isinstance(stop, str) else stop
    checks = [
        ("template", isinstance(template, str) and template != "", "a non-empty string"),
        ("heading", isinstance(heading, str), "a string"),
        ("description", isinstance(description, str), "a string"),
        ("separator", isinstance(separator, str), "a string"),
        ("choices", "choices" not in content or _are_choices(choices), "a list of two or more different strings"),
        ("choices_prefix", prefix is None or isinstance(prefix, str), "a string"),
        ("stop", isinstance(stop, list) and all(isinstance(text, str) and text for text in stop), "a list of strings"),
        ("max_tokens", max_tokens is None or (type(max_tokens) is int and 0 < max_tokens <= _MOST_TOKENS), "an integer from 1"),
        ("defaults", isinstance(defaults, dict), "a table of variables and values"),
    ]
    for key, fits, wanted in checks:
        if not fits:
            found = f"is {reprlib.repr(content[key])}" if key in content else "is missing"
            raise UsageError(f"{path}: {key} {found}", f"make it {wanted}; {_README}")
    in_body = _variables(path, template, "the template")
    in_heading = [name for name in _variables(path, heading, "the heading") if name not in OF_HEADINGS]
    variables = tuple(dict.fromkeys((*in_heading, *in_body)))
    for variable in defaults:
        if variable not in variables:
            raise UsageError(
                f"{path}: [defaults] sets {variable}, which the template does not use",
                f"the template uses {', '.join(variables) or 'no variables'}" + closest(variable, variables),
            )
    return PromptTemplate(
        name,
        template,
        description,
        defaults,
        tuple(stop),
        max_tokens,
        variables,
        heading,
        frozenset(in_heading) - set(in_body),
        separator,
        tuple(choices),
        prefix,
    )


def _are_choices(found: Any) -> bool:
    if not isinstance(found, list) or not all(isinstance(choice, str) and choice for choice in found):
        return False
    return len(set(found)) == len(found) > 1


def _variables(path: Path, source: str, what: str) -> tuple[str, ...]:
    """what: it is of the file, for messages."""
    import jinja2

    try:
        return sandbox.variables(source)
    except jinja2.TemplateSyntaxError as error:
        message = (error.message or "syntax error").rstrip(".")
        raise UsageError(f"{path}: line {error.lineno} of {what}: {message}", "correct the Jinja syntax there") from error
    except sandbox.IncludesError as error:
        cause = f"{path}: line {error.line} of {what} includes another template"
        raise UsageError(cause, "put its text into this one") from error
    except RecursionError as error:
        raise UsageError(f"{path}: {what} is nested too deeply", "simplify it") from error
    except Exception as error:  # filters can raise anything
        raise UsageError(f"{path}: {what}: {first_line(sandbox.reason(error))}", f"change {what}") from error
