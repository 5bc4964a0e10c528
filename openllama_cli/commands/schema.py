"""`olc schema`: the JSON Schemas of olc's JSON outputs."""

import click

from openllama_cli.terminal.streams import out

EXAMPLES = """\b
Examples:
  olc schema
  olc schema record
  olc complete "The sky is" --json | check-jsonschema --schemafile <(olc schema complete) -
"""


@click.command(epilog=EXAMPLES)
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """Print the JSON Schema NAME of a JSON output; without NAME, list the names.

    complete, generate and score are what `--json` prints, trace and check what it prints beside `olc generate --trace` and
    `--check`, replay and diff what it prints of a comparison (of olc diff each line). row is a line of an OUTPUT of
    `olc batch`, batch is its record, and record is what another result was made with.
    """
    from openllama_cli.records.schemas import names, schema

    out("".join(f"{one}\n" for one in names()) if name is None else schema(name))
