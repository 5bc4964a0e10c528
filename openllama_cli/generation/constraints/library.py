"""llguidance (https://github.com/guidance-ai/llguidance), which is imported when a constraint is first used.

Its parser works on bytes: a derivative-based lexer under an Earley parser, walked over a trie of the vocabulary's tokens.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from openllama_cli.errors import UsageError

# Of the work that a lexer may do beforehand. Its own limit, three times this, is seconds for a hostile pattern.
_LEXER_FUEL = 300_000
BYTES = 256
# What is compiled of a source takes ten times its length in memory, and rows may bring any number of them: those of more
# characters than this are kept as long as few others of this kind come.
_LONG, _LONG_KEPT = 20_000, 4

_P = ParamSpec("_P")
_R = TypeVar("_R")


def remembered(count: int) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """A cache of so many results, of fewer where the arguments are long texts."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        short: Callable[..., _R] = functools.lru_cache(maxsize=count)(function)
        long: Callable[..., _R] = functools.lru_cache(maxsize=_LONG_KEPT)(function)

        @functools.wraps(function)
        def wrapper(*args: _P.args, **named: _P.kwargs) -> _R:
            size = sum(len(one) for one in args if isinstance(one, str))
            return (short if size <= _LONG else long)(*args, **named)

        return wrapper

    return decorate


def library() -> Any:
    """The module. Raises UsageError (code "constraint_package") where it is not installed."""
    try:
        import llguidance
    except ImportError:
        raise UsageError(
            "--regex, --json-schema and --grammar need llguidance, which is not installed",
            "pip install 'llguidance>=1.9,<2'   # the extra `constrain`",
            code="constraint_package",
        ) from None
    return llguidance


class _Tokens:
    """A vocabulary as llguidance takes one, with the 256 bytes and an end of its own behind it.

    No text is an end: where one may be is asked for, and the ids of a model that end a row are not its business.
    """

    bos_token_id: int | None = None
    special_token_ids: Sequence[int] = ()

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self.tokens = [*tokens, *(bytes([byte]) for byte in range(BYTES)), b""]
        self.eos_token_id = len(self.tokens) - 1

    def __call__(self, text: str | bytes) -> list[int]:
        first_byte = self.eos_token_id - BYTES
        return [first_byte + byte for byte in (text.encode() if isinstance(text, str) else text)]


def token_trie(tokens: Sequence[bytes]) -> Any:
    """llguidance's vocabulary of tokens with these bytes; those without any are never allowed. The ids of bytes follow."""
    module = library()
    wrapped = module.TokenizerWrapper(_Tokens(tokens))
    return module.LLTokenizer(wrapped, n_vocab=len(tokens) + BYTES + 1, eos_token=len(tokens) + BYTES)


@functools.cache
def byte_trie() -> Any:
    """A vocabulary of bytes alone: the ids of a text are its bytes."""
    return token_trie(())


def parser(trie: Any, grammar: str) -> Any:
    """A parser at the start of a grammar; one with an error says so (`failure`)."""
    module = library()
    limits = module.LLParserLimits(initial_lexer_fuel=_LEXER_FUEL, verbose_errors=False)
    return module.LLMatcher(trie, grammar, log_level=0, limits=limits)


def failure(one: Any) -> str | None:
    """What a parser fails with, if it does."""
    return one.get_error() if one.is_error() else None
