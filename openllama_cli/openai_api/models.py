"""A server's list of models, which one is meant, and errors that say why there is none."""

from collections.abc import Mapping
from typing import Any

from openllama_cli.errors import ModelError, OlcError, UsageError
from openllama_cli.openai_api import answer
from openllama_cli.openai_api.address import KEY_VARIABLES

# As many models as an error names.
_SHOWN = 8


def listing(data: bytes) -> dict[str, dict[str, Any]]:
    """The models of an answer to /v1/models, by their names. Raises BadAnswerError for what is not such a list."""
    found = answer.parse(data)
    try:
        return {entry["id"]: entry for entry in found["data"] if isinstance(entry["id"], str)}
    except (LookupError, TypeError):
        raise answer.BadAnswerError("the answer is not a list of models") from None


def choose_model(url: str, models: Mapping[str, Any] | None, model: str | None) -> str:
    """The name of the model that is meant. models: those of the server; None where it does not list them, and is believed.

    Raises UsageError where none was named and it has several, ModelError where it does not have the one that was named.
    """
    if models is None:
        if model is None:
            raise UsageError(f"{url} does not list its models", "check the address, or name the model: -m NAME", code="model")
        return model
    names = (", ".join(list(models)[:_SHOWN]) + (", …" if len(models) > _SHOWN else "")) or "none"
    if model is None:
        if len(models) == 1:
            return next(iter(models))
        raise UsageError(f"{url} has {len(models)} models: {names}", "name the one to use: -m NAME", code="model")
    if model not in models:
        remedy = f"use -m {next(iter(models))}" if len(models) == 1 else "name one of these: -m NAME"
        raise ModelError(f"{url} has no model {model}; it has {names}", remedy)
    return model


def unavailable(url: str, reason: str) -> OlcError:
    """The error of a server that cannot be reached."""
    return OlcError(f"no server answers at {url}: {reason}", "start it, or correct --server", code="server_unavailable")


def key_refused(url: str, message: str) -> OlcError:
    """The error of a server that wants a key, or another one. message: its own."""
    said = f": {message}" if message else ""
    return OlcError(f"{url} refuses access{said}", f"export {KEY_VARIABLES[0]} with a key for it", code="server_key")


def not_completions(url: str, why: str) -> OlcError:
    """The error of something that is no completions server."""
    return OlcError(
        f"{url} is not a completions server: {why}",
        "check the address; it is the one that OpenAI's clients call base_url",
        code="server_answer",
    )
