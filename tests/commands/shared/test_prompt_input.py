"""Texts from the command line under a locale that is ASCII."""

import sys

import pytest

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
