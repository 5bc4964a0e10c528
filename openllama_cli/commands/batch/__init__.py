"""`olc batch`: the command line of `openllama_cli.batch`.

Begin with `command`: its options, and how it goes on. `given` refuses what cannot stand together and makes a `Plan` of the
rest; `to_file` and `to_stdout` carry it out, `looks` and `dry_run` show something instead. `run` is one run of either:
annotations, rows, signals and the closing report, by one of the `engines`.
"""

from openllama_cli.commands.batch.command import command

__all__ = ["command"]
