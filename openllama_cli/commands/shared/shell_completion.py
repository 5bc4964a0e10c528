"""What a shell may complete after an option, for click's shell completion: a look at this disk, never at the network."""

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

from openllama_cli.models.catalogue import CATALOGUE

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def choices(*values: str) -> Complete:
    """One of these words. Unlike click.Choice it checks nothing: that is left to who knows the option's meaning."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _beginning(incomplete, (CompletionItem(value) for value in values))

    return complete


def files(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A file's name, which the shell finds itself."""
    return [CompletionItem(incomplete, type="file")]


def folders(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A folder's name, which the shell finds itself."""
    return [CompletionItem(incomplete, type="dir")]


def models(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """An alias or a folder."""
    # Folders first: bash throws away what stands before them.
    return [*folders(ctx, parameter, incomplete), *_aliases(incomplete, CATALOGUE)]


def models_on_hub(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """An alias of a model that is not part of olc."""
    return _aliases(incomplete, (alias for alias, entry in CATALOGUE.items() if entry.repo_id is not None))


def templates(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The name of a ready template, or a file."""
    from openllama_cli.prompt_templates import template_names

    ready = (CompletionItem(name) for name in template_names())
    return [*files(ctx, parameter, incomplete), *_beginning(incomplete, ready)]


def _aliases(incomplete: str, names: Iterable[str]) -> list[CompletionItem]:
    return _beginning(incomplete, (CompletionItem(name, help=CATALOGUE[name].description) for name in names))


def _beginning(incomplete: str, items: Iterable[CompletionItem]) -> list[CompletionItem]:
    return [item for item in items if item.value.startswith(incomplete)]
