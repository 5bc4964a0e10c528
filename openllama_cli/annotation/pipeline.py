"""Loading a pipeline, or making a language's blank one, with what it complains of kept as notes."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openllama_cli.annotation.find import INSTALL_SPACY, Choice, install_command
from openllama_cli.errors import OlcError

# Languages whose tokenizer is a package of its own, which an extra of spaCy brings.
_OWN_TOKENIZER = {"ja": "Japanese", "ko": "Korean", "th": "Thai"}


@dataclass
class Pipeline:
    """A loaded pipeline.

    nlp: spaCy's `Language`. name: as people know it, such as "en_core_web_sm 3.8.0" or "the blank pipeline for en".
    identity: name and version of pipeline and spaCy, for machines. trained: whether it is more than a tokenizer.
    notes: what it and spaCy said, a line each; more may come while it runs.
    """

    nlp: Any
    name: str
    identity: dict[str, str]
    trained: bool
    notes: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path | None:
        """Where its files lie; None for a blank one."""
        return Path(self.nlp.path) if self.nlp.path is not None else None

    @property
    def has_vectors(self) -> bool:
        """Whether it has word vectors. Without them spaCy would answer with the state of its network, which is none."""
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
            raise OlcError(
                f"spaCy is installed but cannot be imported: {_first_line(error)}",
                f"{INSTALL_SPACY} --force-reinstall",
                code="spacy_missing",
            ) from error
        if choice.package is None and choice.folder is None:
            return _blank(choice.language, notes)
        named = str(choice.package or choice.folder)
        try:
            nlp = spacy.load(choice.package or choice.folder or "")
        except Exception as error:
            # A pipeline is other people's files and code: whatever it raises is about it.
            raise OlcError(
                f"the pipeline {named} cannot be loaded: {_first_line(error)}",
                "install what it names, or download or train it again for this spaCy " + version_of_spacy(),
                code="pipeline",
            ) from error
    meta = nlp.meta
    name, version = f"{meta['lang']}_{meta['name']}", str(meta["version"])
    identity = {"pipeline": name, "version": version, "spacy": version_of_spacy()}
    return Pipeline(nlp, f"{name} {version}", identity, trained=True, notes=notes)


def _blank(language: str, notes: list[str]) -> Pipeline:
    import spacy

    try:
        nlp = spacy.blank(language)
    except ImportError as error:
        name = _OWN_TOKENIZER.get(language)
        raise OlcError(
            f"spaCy's {name or language} tokenizer needs a package that is not installed",
            f'pip install "spacy[{language}]"' if name else f"install what it names: {_first_line(error)}",
            code="spacy_missing",
        ) from error
    nlp.add_pipe("sentencizer")
    _add_lookup_lemmas(nlp)
    found = ["tokens", "sentences"]
    if language in ("ja", "ko"):  # their tokenizers look every word up
        found += ["parts of speech", "lemmas"]
    elif "lemmatizer" in nlp.pipe_names:
        found.append("lemmas from a table")
    notes.insert(
        0,
        f"no trained pipeline for {language} is installed; a blank one finds {', '.join(found[:-1])} and {found[-1]}. "
        f"For more: {install_command(language)}",
    )
    identity = {"pipeline": f"blank:{language}", "version": version_of_spacy(), "spacy": version_of_spacy()}
    return Pipeline(nlp, f"the blank pipeline for {language}", identity, trained=False, notes=notes)


def _add_lookup_lemmas(nlp: Any) -> None:
    """Lemmas by table, where spacy-lookups-data is installed and has one of the language."""
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
        # Deprecations are for those who write spaCy, not for those who use olc.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        try:
            yield
        finally:
            for line in (_first_line(warning.message) for warning in caught):
                if line not in notes:
                    notes.append(line)


def version_of_spacy() -> str:
    """Such as "3.8.18"."""
    from spacy.about import __version__

    return __version__


def _first_line(problem: BaseException | str) -> str:
    text = str(problem).strip() or type(problem).__name__
    return text.splitlines()[0].strip()
