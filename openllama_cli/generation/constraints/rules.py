"""What can be said of a grammar's rules without compiling it."""

import re
from collections.abc import Collection

# Alternatives of a rule: each the rules that it cannot do without, by name, or as the alternatives of a group.
Alternatives = list[list["str | Alternatives"]]

_TOKEN = re.compile(
    r"""(?P<blank>[^\S\n]+|(?://|\#)[^\n]*)
    | (?P<text>"(?:\\.|[^"\\\n])*"i? | /(?:\\.|[^/\\\n])+/[a-z]*)
    | (?P<name>@?[^\W\d](?:\w|-(?!>))*)
    | (?P<directive>%\w+)
    | (?P<number>\d+)
    | (?P<sign>->|::|\.\.|\n|.)""",
    re.VERBOSE,
)


def endless(source: str) -> bool:
    """Whether every text of a grammar in Lark's syntax goes on, as none of its rules that are needed can be written to its end.

    llguidance takes such a grammar, and the text would go on until its limit. source: which it takes. What is not understood
    here, such as rules with parameters, counts as what ends.
    """
    try:
        rules = _Reader(source).rules()
    except _NotUnderstoodError:
        return False
    ending: set[str] = set()
    while True:
        more = {name for name, made in rules.items() if name not in ending and _ends(made, ending, rules)}
        if not more:
            return "start" in rules and "start" not in ending
        ending |= more


def _ends(made: Alternatives, ending: Collection[str], rules: Collection[str]) -> bool:
    """Whether one of them needs nothing but rules that end; what no rule has the name of is a token's."""
    return any(
        all((one in ending or one not in rules) if isinstance(one, str) else _ends(one, ending, rules) for one in sequence)
        for sequence in made
    )


class _NotUnderstoodError(Exception):
    """A grammar has something that is not looked into."""


class _Reader:
    """Reads rules, line by line. Tokens are pairs of their kind and text."""

    def __init__(self, source: str) -> None:
        found = ((match.lastgroup or "", match.group()) for match in _TOKEN.finditer(source))
        self._tokens = [token for token in found if token[0] != "blank"]
        self._at = 0

    def rules(self) -> dict[str, Alternatives]:
        rules: dict[str, Alternatives] = {}
        while self._at < len(self._tokens):
            kind, text = self._next()
            if kind == "directive":  # %ignore, %import, %llguidance
                while self._peek() not in ("", "\n"):
                    self._skip_braces() if self._peek() == "{" else self._next()
            elif kind == "name":
                while (sign := self._next()[1]) != ":":  # Its attributes.
                    if sign in ("::", ""):
                        raise _NotUnderstoodError
                rules[text] = self._alternatives()
            elif text not in ("\n", "!", "?"):
                raise _NotUnderstoodError
        return rules

    def _alternatives(self, closing: str = "\n") -> Alternatives:
        """What stands up to the end of a rule or group."""
        found: Alternatives = [[]]
        while True:
            kind, text = self._next()
            if text == "\n" and (closing != "\n" or self._goes_on()):
                continue
            if text == closing or not kind:
                return found
            if text == "|":
                found.append([])
            elif text == "->":
                self._next()
            elif text in ("(", "["):
                group = self._alternatives(")" if text == "(" else "]")
                self._add(found[-1], group, least=int(text == "("))
            elif kind == "directive" and self._peek() == "{":  # %json and its like
                self._skip_braces()
                self._add(found[-1], [[]])
            elif kind in ("name", "text"):
                self._add(found[-1], text if kind == "name" else [[]])
            elif text == "..":
                self._next()
            elif text not in ("&", "~"):  # Of tokens.
                raise _NotUnderstoodError

    def _add(self, sequence: list["str | Alternatives"], one: "str | Alternatives", least: int = 1) -> None:
        """Add what stands there so often as is said behind it, if it has to stand there at all."""
        sign = self._peek()
        if sign in ("?", "*", "+"):
            least = least if sign == "+" else 0
            self._next()
        elif sign == "{":
            self._next()
            kind, number = self._next()
            least = min(least, int(number) if kind == "number" else 0)
            while number != "}":
                if not kind:
                    raise _NotUnderstoodError
                kind, number = self._next()
        elif sign == "~" and self._tokens[self._at + 1 : self._at + 2] and self._tokens[self._at + 1][0] == "number":
            self._next()
            least = min(least, int(self._next()[1]))
            if self._peek() == "..":
                self._next()
                self._next()
        if least:
            sequence.append(one)

    def _goes_on(self) -> bool:
        """Whether a rule goes on behind blank lines, which are passed over."""
        while self._peek() == "\n":
            self._next()
        return self._peek() == "|"

    def _skip_braces(self) -> None:
        depth = 0
        while True:
            kind, text = self._next()
            depth += (text == "{") - (text == "}")
            if not depth:
                return
            if not kind:
                raise _NotUnderstoodError

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _next(self) -> tuple[str, str]:
        """The next token, empty at the end."""
        token = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        self._at += 1
        return token
