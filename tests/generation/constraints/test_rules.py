"""Grammars whose texts never end are told from those that do, in all that llguidance's dialect of Lark has."""

import pytest

from openllama_cli.errors import UsageError
from openllama_cli.generation.constraints.config import Constraint

# What stands behind a rule named `on` that goes on without end, and makes no text of it needed.
ENDING = [
    'start: "a" | on',
    'start: "a" // on\n\n  | on',
    'start: on? "a"',
    'start: on* "a" [on on]',
    'start: "a" (on | ) on{0,2} on~0..1 on{,3}',
    'start: ("a" "b"){2} | (on "a")+',
    'start: [on] "on" /on/ -> on',
    '?start: ON\nON: "o" /n/i & ~/x/',
    'start: %json {"type": "string", "pattern": "}", "minLength": 0}',
    'start: %lark {\n  start: on\n  on: "a"\n}',
    "start: INT\n%import common.INT\n%ignore / +/",
    'start: a-b\na-b[suffix="b"]: /a/',
    'start: "a".."c"~2..3 // : on',
    'start: one::0x0\none::_: on %if is_zeros(_) | "a"',
    '%llguidance {"no_forcing": true}\nstart:',
]
ENDLESS = [
    "start: on",
    'start: "a" on | on "b"',
    'start: "a" (on | start)+',
    "start: on{2} | on~1..2 | on{1,}",
    'start: two\n!two: "x" three\n  | on\nthree: two "y"',
    '?start: ("a" | "b") [ "c" ] (start)',
    'start: %json {"a": {}} on',
    "start[capture]: on -> a",
]


@pytest.mark.parametrize("grammar", ENDING)
def test_a_grammar_that_may_end_is_taken(grammar: str) -> None:
    Constraint("grammar", grammar + '\non: "x" on\n')


@pytest.mark.parametrize("grammar", ENDLESS)
def test_a_grammar_that_never_ends_is_refused(grammar: str) -> None:
    with pytest.raises(UsageError) as caught:
        Constraint("grammar", grammar + '\non: "x" on\n')
    assert caught.value.code == "constraint_unsatisfiable"
    assert caught.value.cause == "--grammar cannot be met: its rules go on without end"
