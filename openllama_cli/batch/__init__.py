"""A file of prompts in, a file of completions out, every row once whatever happens to the process: `olc batch`.

Begin with `runner.Runner`, which turns rows (`input`) into results (`output.results`); results go to a crash-safe journal
(`journal`) and, once all are there, to OUTPUT (`output`). `ray` puts many runners on a cluster in place of the one here.
"""
