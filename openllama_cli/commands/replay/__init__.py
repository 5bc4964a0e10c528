"""`olc replay`: what was made with a record is made again from it, and compared.

Begin with `command`. `batch` runs rows of a batch as `olc batch` does; `lines` and `batch_lines` say what came of it.
"""

from openllama_cli.commands.replay.command import command

__all__ = ["command"]
