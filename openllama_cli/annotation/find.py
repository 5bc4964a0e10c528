"""Which pipeline is meant, found without importing spaCy, so that wrong names are answered at once."""

import importlib.util
import re
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from openllama_cli.errors import OlcError, UsageError

INSTALL_SPACY = 'pip install "spacy>=3.8,<4"'
# The smallest pipeline that is published for each language. Others, Hindi among them, have none of their own.
_NEWS = ("ca", "da", "de", "el", "es", "fi", "fr", "hr", "it", "ja", "ko", "lt", "mk", "nb", "nl", "pl", "pt", "ro", "ru", "sl")
_PUBLISHED = {
    "xx": "xx_ent_wiki_sm",
    "en": "en_core_web_sm",
    "zh": "zh_core_web_sm",
    **{language: f"{language}_core_news_sm" for language in (*_NEWS, "sv", "uk")},
}
_PUBLISHED_NAME = re.compile(r"[a-z]{2}_\w+_(sm|md|lg|trf)")
_SIZES = ("sm", "md", "lg", "trf")


@dataclass(frozen=True)
class Choice:
    """A pipeline that is there. package, folder: one of them, or neither for the blank pipeline of `language`."""

    package: str | None = None
    folder: Path | None = None
    language: str = "en"


def find_pipeline(name: str | None, language: str | None = None) -> Choice:
    """Find a pipeline by the name of an installed package or the path of a folder. Nothing is downloaded or imported.

    name: None takes a trained pipeline of the language if one is installed, else the language's blank one.
    language: spaCy's code, "en" if None; only for where there is no name.

    Raises OlcError (code "spacy_missing") where spaCy is not installed, or (code "pipeline_missing") where there is no such
    pipeline; UsageError for a language that spaCy does not have.
    """
    if name is not None and language is not None:
        raise UsageError("--lang chooses a pipeline, and --pipeline names one", "leave one of them out")
    spacy = _folder_of("spacy")
    if spacy is None:
        raise OlcError(
            "spaCy is not installed in this Python environment",
            f"{INSTALL_SPACY} (the extra openllama-cli[spacy])",
            code="spacy_missing",
        )
    if name is None:
        return _by_language("en" if language is None else language, spacy)
    path, missing = Path(name), "pipeline_missing"
    if name.isidentifier() and (package := _folder_of(name)) is not None and not path.is_dir():
        if (package / "meta.json").is_file():
            return Choice(package=name)
        raise OlcError(f"{name} is an installed package, but no spaCy pipeline", _what_else(name), code=missing)
    if name and path.is_dir():
        return Choice(folder=_with_config(path))
    if name and path.exists():
        raise OlcError(
            f"{name} is a file; a pipeline is a folder", "install a package of it, or unpack it", code="pipeline_missing"
        )
    where = "there is no folder" if "/" in name or name.startswith(".") else "no spaCy pipeline of that name is installed:"
    raise OlcError(f"{where} {name or repr(name)}", _what_else(name), code=missing)


def install_command(language: str) -> str:
    """What to type for a trained pipeline of a language; the one of many languages where it has none of its own."""
    return f"python -m spacy download {_PUBLISHED.get(language, _PUBLISHED['xx'])}"


def _by_language(language: str, spacy: Path) -> Choice:
    known = (spacy / "lang" / language / "__init__.py").is_file() or bool(
        entry_points(group="spacy_languages").select(name=language)
    )
    if not re.fullmatch(r"[a-z]{2,3}", language) or not known:
        codes = "en, de, es, hi, ja, …; xx is any language"
        raise UsageError(f"--lang {language}: spaCy has no such language", f"give a code that it has: {codes}")
    trained = [name for name in _installed() if name.startswith(f"{language}_")]
    if trained:
        return Choice(package=min(trained, key=_smallest_first), language=language)
    return Choice(language=language)


def _installed() -> list[str]:
    """Names of installed packages that are pipelines."""
    return sorted({point.name for point in entry_points(group="spacy_models")})


def _smallest_first(name: str) -> tuple[int, str]:
    size = name.rsplit("_", 1)[-1]
    return (_SIZES.index(size) if size in _SIZES else len(_SIZES), name)


def _folder_of(package: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _with_config(folder: Path) -> Path:
    """The folder, or the one inside that holds the pipeline, as in a package's folder. Raises OlcError."""
    for candidate in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if (candidate / "config.cfg").is_file() and (candidate / "meta.json").is_file():
            return candidate
    raise OlcError(
        f"{folder} is no spaCy pipeline: it has no config.cfg and meta.json",
        "give a folder that `nlp.to_disk` or `spacy train` wrote",
        code="pipeline_missing",
    )


def _what_else(name: str) -> str:
    if _PUBLISHED_NAME.fullmatch(name) and name[:2] in _PUBLISHED:
        return f"python -m spacy download {name}"
    installed = _installed()
    if installed:
        return f"installed are: {', '.join(installed)}"
    return f"install one, such as: {install_command('en')}; or give the folder of one"
