"""Help texts whose options stand in groups: what most people need first, then each kind under its own heading."""

from typing import Any

import click

_REST = "Options"


class GroupedOption(click.Option):
    """An option that the help lists under a heading of its own. group: the heading."""

    def __init__(self, *args: Any, group: str = _REST, **settings: Any) -> None:
        self.group = group
        super().__init__(*args, **settings)


class GroupedCommand(click.Command):
    """A command whose help has a section for each group of its options, after those without one."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {_REST: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "group", _REST), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)
