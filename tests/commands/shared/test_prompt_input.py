"""Texts from the command line under a locale that is ASCII."""

import sys

import click
import pytest
from click.testing import CliRunner

from openllama_cli.commands.shared.choice_options import ChoiceOptions, choice_options
from openllama_cli.commands.shared.prompt_input import argument
from openllama_cli.errors import UsageError


def test_a_text_is_read_as_utf8_whatever_the_locale_and_else_the_locale_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    as_python_reads_it = "größer".encode().decode("ascii", "surrogateescape")
    assert argument(as_python_reads_it) == as_python_reads_it
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    monkeypatch.setenv("LC_ALL", "C")
    assert argument(as_python_reads_it) == "größer"
    with pytest.raises(UsageError, match="LC_ALL=C") as refused:
        argument("gr\udcf6")
    assert refused.value.code == "locale"


def test_choices_their_prefix_and_what_calibrates_them_are_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[ChoiceOptions] = []

    @click.command()
    @click.option("--escape", is_flag=True)
    @choice_options
    def command(choosing: ChoiceOptions, *, escape: bool) -> None:
        found.append(choosing)

    typed = "größer".encode().decode("ascii", "surrogateescape")
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    options = ["--choices", f"{typed},x", "--choices-prefix", f"{typed}\\n", "--calibrate-with", typed]
    for escape, end in ((["--escape"], "\n"), ([], "\\n")):
        CliRunner().invoke(command, [*options, *escape], catch_exceptions=False)
        chosen = found.pop()
        assert chosen.named == ("--choices", ("größer", "x"))
        assert (chosen.prefix, chosen.calibrate_with) == (f"größer{end}", "größer")
