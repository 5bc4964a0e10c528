"""`olc batch`: the command line of `openllama_cli.batch`.

Begin with `command`, which checks all that can be checked before a model is loaded; `run` is one run: the model or the Ray
cluster, annotations, progress and the closing report.
"""

from openllama_cli.commands.batch.command import command

__all__ = ["command"]
