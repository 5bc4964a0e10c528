"""Where each token starts in a text, as OpenAI's `text_offset` says it."""

from collections.abc import Sequence

from openllama_cli.generation.text.incremental import IncrementalDecoder
from openllama_cli.models.tokenizer.base import Tokenizer, unfinished_bytes


def token_offsets(tokenizer: Tokenizer, prefix: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """Where each token starts in the text of `tokens` after `prefix`, in characters.

    The text from one offset to the next is what the token adds to it. A character of several tokens belongs to the one that
    completes it; bytes that never become a character belong to their own tokens, as the U+FFFD that stand for them.
    """
    found = TokenOffsets(tokenizer, prefix)
    for token in tokens:
        found.push(token)
    return found.close()


def prompt_offsets(tokenizer: Tokenizer, text: str, tokens: Sequence[int]) -> list[int]:
    """Where each token of a prompt starts in its text, from which the tokens were made, or which was made of the tokens."""
    if list(tokens) == tokenizer.encode(text):
        return [start for start, _ in tokenizer.spans(text)]
    return [min(offset, len(text)) for offset in token_offsets(tokenizer, (), tokens)]


class TokenOffsets:
    """`token_offsets` of tokens that come one by one.

    offsets: of the tokens so far. One that lies before the text that is certain does not change any more.
    """

    def __init__(self, tokenizer: Tokenizer, prefix: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._decoder = IncrementalDecoder(tokenizer, prefix)
        self._length = 0
        self._last: list[int] = []
        # Tokens whose last bytes may become a character with later ones, and the U+FFFD that stand for these until then.
        self._waiting: list[int] = []
        self._held = 0
        self.offsets: list[int] = []

    def push(self, token: int) -> None:
        """Add a token."""
        held = self._held
        lost = held > 0 and not _continues(self._tokenizer, self._last, token)
        text = self._decoder.push(token)
        if lost:
            self._settle()
        place = len(self.offsets)
        self.offsets.append(self._length + held if lost else self._length)
        self._length += len(text)
        if lost or not self._decoder.held or text:
            self._waiting = []
        self._held = len(self._decoder.held)
        if self._held:
            self._waiting.append(place)
        self._last = [*self._last[-2:], token]

    def close(self) -> list[int]:
        """All offsets, once no token follows."""
        self._settle()
        return self.offsets

    def _settle(self) -> None:
        """Give tokens whose bytes became no character their shares of the U+FFFD that stand for them."""
        for number, place in enumerate(self._waiting[1:], start=1):
            self.offsets[place] = self._length + min(number, self._held)


def _continues(tokenizer: Tokenizer, before: Sequence[int], token: int) -> bool:
    """Whether a token's bytes go on with the character that the tokens before it began."""
    tail = b"".join(tokenizer.token_bytes(one) or b"|" for one in before[-3:])
    begun = tail[len(tail) - unfinished_bytes(tail) :]
    data = tokenizer.token_bytes(token) or b"|"
    # A decoder finds out at which byte the character is broken, if it is.
    try:
        (begun + data).decode()
    except UnicodeDecodeError as error:
        return error.start >= len(begun) or unfinished_bytes(begun + data) == len(begun + data)
    return True
