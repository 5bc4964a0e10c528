"""`olc batch`: a file of prompts in, a file of completions out. Begin reading in `command`, which checks all that can be
checked before a model is loaded; `run` is one run of it."""

from openllama_cli.commands.batch.command import command

__all__ = ["command"]
