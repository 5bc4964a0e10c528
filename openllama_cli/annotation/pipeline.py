"""Finding the requested pipeline without importing spaCy, so that wrong names fail at once, and loading it.

What the pipeline complains about is kept as notes.
"""

import importlib.util
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

from openllama_cli.errors import OlcError, UsageError, first_line

INSTALL_SPACY = 'pip install "spacy>=3.8,<4"'
# The smallest pipeline that is published for each language. Others, such as Hindi, have none of their own.
_NEWS = ("ca", "da", "de", "el", "es", "fi", "fr", "hr", "it", "ja", "ko", "lt", "mk", "nb", "nl", "pl", "pt", "ro", "ru", "sl")
_PUBLISHED = {
    "xx": "xx_ent_wiki_sm",
    "en": "en_core_web_sm",
    "zh": "zh_core_web_sm",
    **{language: f"{language}_core_news_sm" for language in (*_NEWS, "sv", "uk")},
}
_SIZES = ("sm", "md", "lg", "trf")
_PUBLISHED_NAME = re.compile(rf"[a-z]{{2}}_\w+_({'|'.join(_SIZES)})")
# Languages whose tokenizer is a separate package, installed by an extra of spaCy.
_OWN_TOKENIZER = {"ja": "Japanese", "ko": "Korean", "th": "Thai"}


@dataclass(frozen=True)
class Choice:
    """An available pipeline. source: an installed package or a folder, or None for the blank pipeline of `language`."""

    source: str | Path | None = None
    language: str = "en"


def find_pipeline(name: str | None, language: str | None = None) -> Choice:
    """Find a pipeline by the name of an installed package or the path of a folder. Nothing is downloaded or imported.

    name: None chooses a trained pipeline of the language if one is installed, else the language's blank one.
    language: spaCy's code, "en" if None; only without a name.

    Raises OlcError with code "spacy_missing" if spaCy is not installed, with code "pipeline_missing" if there is no such
    pipeline; UsageError for a language that spaCy does not have.
    """
    if name is not None and language is not None:
        raise UsageError("--lang and --pipeline both choose a pipeline", "give only one of them")
    spacy = _folder_of("spacy")
    if spacy is None:
        remedy = f"{INSTALL_SPACY} (the extra openllama-cli[spacy])"
        raise OlcError("spaCy is not installed in this Python environment", remedy, code="spacy_missing")
    if name is None:
        return _by_language("en" if language is None else language, spacy)
    path = Path(name)
    if name and path.is_dir():
        return Choice(_with_config(path))
    cause, remedy = f"no spaCy pipeline of that name is installed: {name or repr(name)}", _alternatives(name)
    if name.isidentifier() and (package := _folder_of(name)) is not None:
        if (package / "meta.json").is_file():
            return Choice(name)
        cause = f"{name} is an installed package, but not a spaCy pipeline"
    elif name and path.exists():
        cause, remedy = f"{name} is a file; a pipeline is a folder", "install it as a package, or unpack it"
    elif "/" in name or name.startswith("."):
        cause = f"the folder {name} does not exist"
    raise OlcError(cause, remedy, code="pipeline_missing")


def install_command(language: str) -> str:
    """The command that installs a trained pipeline of a language; the multilingual one where it has none of its own."""
    return f"python -m spacy download {_PUBLISHED.get(language, _PUBLISHED['xx'])}"


def _by_language(language: str, spacy: Path) -> Choice:
    known = (spacy / "lang" / language / "__init__.py").is_file() or bool(
        entry_points(group="spacy_languages").select(name=language)
    )
    if not re.fullmatch(r"[a-z]{2,3}", language) or not known:
        remedy = "use one of spaCy's codes: en, de, es, hi, ja, …; xx is any language"
        raise UsageError(f"--lang {language}: spaCy does not have this language", remedy)
    trained = [name for name in _installed() if name.startswith(f"{language}_")]
    smallest = min(trained, key=lambda name: (*(not name.endswith(f"_{size}") for size in _SIZES), name), default=None)
    return Choice(smallest, language)


def _installed() -> list[str]:
    """Names of installed packages that are pipelines."""
    return sorted({point.name for point in entry_points(group="spacy_models")})


def _folder_of(package: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _with_config(folder: Path) -> Path:
    """The folder, or the one inside it that holds the pipeline, as in a package. Raises OlcError."""
    for candidate in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if (candidate / "config.cfg").is_file() and (candidate / "meta.json").is_file():
            return candidate
    cause = f"{folder} is not a spaCy pipeline: it has no config.cfg and meta.json"
    raise OlcError(cause, "give a folder written by `nlp.to_disk` or `spacy train`", code="pipeline_missing")


def _alternatives(name: str) -> str:
    if _PUBLISHED_NAME.fullmatch(name) and name[:2] in _PUBLISHED:
        return f"python -m spacy download {name}"
    installed = _installed()
    if installed:
        return f"use an installed one: {', '.join(installed)}"
    return f"install one, such as: {install_command('en')}; or give the folder of one"


@dataclass
class Pipeline:
    """A loaded pipeline.

    nlp: spaCy's `Language`. name: for people, such as "en_core_web_sm 3.8.0" or "the blank pipeline for en".
    identity: name and version of the pipeline and of spaCy, for machines. trained: whether it is more than a tokenizer.
    notes: what it and spaCy reported, one line each; running it may add more.
    """

    nlp: Any
    name: str
    identity: dict[str, str]
    trained: bool
    notes: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path | None:
        """Where its files are; None for a blank one."""
        return Path(self.nlp.path) if self.nlp.path is not None else None

    @property
    def has_vectors(self) -> bool:
        """Whether it has word vectors. Without them spaCy would answer with the state of its network, which is not one."""
        return bool(self.nlp.vocab.vectors_length)


def open_pipeline(choice: Choice) -> Pipeline:
    """Load what `find_pipeline` found. Imports spaCy, which takes a second or two.

    Raises OlcError (code "pipeline" or "spacy_missing") for one that cannot be loaded.
    """
    notes: list[str] = []
    with noted(notes):
        try:
            import spacy
        except (ImportError, ValueError) as error:  # ValueError: built for another numpy
            cause = f"spaCy is installed but cannot be imported: {first_line(error)}"
            raise OlcError(cause, f"{INSTALL_SPACY} --force-reinstall", code="spacy_missing") from error
        if choice.source is None:
            return _blank(choice.language, notes)
        try:
            nlp = spacy.load(choice.source)
        except Exception as error:
            # A pipeline is other people's files and code: whatever it raises is about it.
            raise OlcError(
                f"the pipeline {choice.source} cannot be loaded: {first_line(error)}",
                f"install what it names, or download or train it again for spaCy {version('spacy')}",
                code="pipeline",
            ) from error
    name, of = f"{nlp.meta['lang']}_{nlp.meta['name']}", str(nlp.meta["version"])
    identity = {"pipeline": name, "version": of, "spacy": version("spacy")}
    return Pipeline(nlp, f"{name} {of}", identity, trained=True, notes=notes)


def _blank(language: str, notes: list[str]) -> Pipeline:
    import spacy

    try:
        nlp = spacy.blank(language)
    except ImportError as error:
        name = _OWN_TOKENIZER.get(language)
        raise OlcError(
            f"spaCy's {name or language} tokenizer needs a package that is not installed",
            f'pip install "spacy[{language}]"' if name else f"install what it names: {first_line(error)}",
            code="spacy_missing",
        ) from error
    nlp.add_pipe("sentencizer")
    _add_lookup_lemmas(nlp)
    found = "tokens and sentences"
    if language in ("ja", "ko"):  # their tokenizers look up every word
        found = "tokens, sentences, parts of speech and lemmas"
    elif "lemmatizer" in nlp.pipe_names:
        found = "tokens, sentences and lemmas from a table"
    # First, into the list that the caller still adds to.
    told = f"no trained pipeline for {language} is installed; a blank one finds {found}. For more: {install_command(language)}"
    notes.insert(0, told)
    identity = {"pipeline": f"blank:{language}", "version": version("spacy"), "spacy": version("spacy")}
    return Pipeline(nlp, f"the blank pipeline for {language}", identity, trained=False, notes=notes)


def _add_lookup_lemmas(nlp: Any) -> None:
    """Add lemmas from a table, if spacy-lookups-data is installed and has one for the language."""
    from spacy.util import registry

    # ImportError: some languages' lemmatizers need packages of their own. ValueError: there is no table.
    with suppress(ImportError, ValueError):
        if nlp.lang not in registry.lookups:
            return
        nlp.add_pipe("lemmatizer", config={"mode": "lookup"})
        try:
            nlp.get_pipe("lemmatizer").initialize(nlp=nlp)
        except ValueError:
            nlp.remove_pipe("lemmatizer")


@contextmanager
def noted(notes: list[str]) -> Iterator[None]:
    """Keep Python warnings as notes, each once, rather than print them amid the output."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Deprecations are for those who develop spaCy, not for those who use olc.
        for ignored in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", ignored)
        try:
            yield
        finally:
            lines = (first_line(warning.message, 1000) for warning in caught)
            notes += [line for line in dict.fromkeys(lines) if line not in notes]
