"""Prompt templates: TOML files with a Jinja template, and the settings that go with it.

    description = "one line"
    heading = "Questions and answers.\\n\\n"   # Jinja; stands once in front, also of the examples of a few-shot prompt
    template = "Q: {{ question }}\\nA:"      # Jinja, in a sandbox; an undefined name is an error
    separator = "\\n\\n"                     # between the examples of a few-shot prompt
    choices = ["yes", "no"]                 # the answers that there are
    choices_prefix = " "                    # between a prompt and its answer
    stop = ["\\n"]                           # texts that end the completion
    max_tokens = 64
    [defaults]                              # values for variables that are not given
    context = ""

The built-in ones are in prompts/, which ships with the package. Begin with `files.load_template`, which gives a checked
`template.PromptTemplate`. A template comes from a file that the user names: Jinja's `sandbox` keeps it from Python's internals
and from changing values, and its output, its memory and its time are bounded.
"""

from openllama_cli.prompt_templates.files import (
    load_template,
    prompts_folder,
    template_content,
    template_names,
    template_of,
)
from openllama_cli.prompt_templates.template import PromptTemplate

__all__ = ["PromptTemplate", "load_template", "prompts_folder", "template_content", "template_names", "template_of"]
