"""The reader of torch's pickles: what Python's own reads, and nothing that makes another object."""

import os
import pickle
import struct
from typing import Any

import pytest

from openllama_cli.models.checkpoint.stored_pickle import UnknownNameError, read_pickle

VALUES: list[Any] = [
    {},
    {"a": 1, "b": [1, 2, [3]], "c": (), "d": (1,), "e": (1, 2, 3, 4)},
    [None, True, False, 0, 255, 256, 65536, -1, 1 << 40, -(1 << 70), 1.5, "日本", ""],
    {str(number): (number, "shared") for number in range(400)},
]


@pytest.mark.parametrize("value", VALUES, ids=["empty", "nested", "plain values", "more than 256 memos"])
def test_values_are_what_python_reads(value: Any) -> None:
    assert read_pickle(pickle.dumps(value, protocol=2)) == value


@pytest.mark.parametrize(
    ("value", "name"), [(os.system, "posix.system"), (print, "builtins.print"), (complex(1, 2), "builtins.complex")]
)
def test_any_other_name_is_refused_by_its_name(value: Any, name: str) -> None:
    with pytest.raises(UnknownNameError, match=name.replace("builtins", "(__builtin__|builtins)")):
        read_pickle(pickle.dumps(value, protocol=2))


def test_what_ends_early_or_has_other_instructions_is_refused() -> None:
    whole = pickle.dumps(VALUES[1], protocol=2)
    for end in range(len(whole)):
        with pytest.raises((ValueError, IndexError, KeyError, struct.error)):
            read_pickle(whole[:end])
    with pytest.raises(ValueError, match="instruction 0x95"):  # A frame, of protocol 4.
        read_pickle(pickle.dumps(VALUES[1], protocol=4))
