"""The values that a shell offers after an option, through click's shell completion; never from the network."""

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

from openllama_cli.models.catalogue import CATALOGUE

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def choices(*values: str) -> Complete:
    """One of these words. Unlike click.Choice it validates nothing: the config object does."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _beginning(incomplete, (CompletionItem(value) for value in values))

    return complete


def files(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """File names, which the shell finds itself."""
    return [CompletionItem(incomplete, type="file")]


def folders(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Folder names, which the shell finds itself."""
    return [CompletionItem(incomplete, type="dir")]


def models(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Model aliases, folders, and GGUF files among all files."""
    # Files first: bash drops what comes before them.
    return [*files(ctx, parameter, incomplete), *_aliases(incomplete, CATALOGUE)]


def models_on_hub(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Aliases of models on the Hub: all but the demo model."""
    return _aliases(incomplete, (alias for alias, entry in CATALOGUE.items() if entry.repo_id is not None))


def templates(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of built-in templates, and files."""
    from openllama_cli.prompt_templates import template_names

    built_in = (CompletionItem(name) for name in template_names())
    return [*files(ctx, parameter, incomplete), *_beginning(incomplete, built_in)]


def _aliases(incomplete: str, names: Iterable[str]) -> list[CompletionItem]:
    return _beginning(incomplete, (CompletionItem(name, help=CATALOGUE[name].description) for name in names))


def _beginning(incomplete: str, items: Iterable[CompletionItem]) -> list[CompletionItem]:
    return [item for item in items if item.value.startswith(incomplete)]
