"""What several commands need: the options that mean the same everywhere, and where prompts and models come from.

`options` turns command-line options into a `ModelSpec` and sampling options, `prompt_input` finds the prompt (argument, file,
stdin, template), `model` opens and loads a model with progress on stderr. Begin reading in `options`.
"""
