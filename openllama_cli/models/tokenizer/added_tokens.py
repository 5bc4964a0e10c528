"""Tokens that were added to a SentencePiece model after training: found in a text, they are tokens, not characters."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from openllama_cli.errors import ModelError, first_line
from openllama_cli.models.tokenizer.library import failures_as, without_panic_messages
from openllama_cli.models.tokenizer.settings import AddedToken


class AddedTokens:
    """Finds added tokens in a text by their flags (single_word, lstrip, rstrip), which the `tokenizers` library does itself.

    tokens: none of them special. Raises ModelError where the library refuses them.
    """

    def __init__(self, tokens: Sequence[AddedToken], folder: Path) -> None:
        from tokenizers import AddedToken as Added
        from tokenizers import Tokenizer, models

        def failure(error: BaseException) -> ModelError:
            return ModelError(f"{folder}: its added tokens cannot be used: {first_line(error)}", "mend tokenizer_config.json")

        with without_panic_messages(), failures_as(failure):
            # All other text is one unknown word, between the tokens.
            self._library = Tokenizer(models.WordLevel({"": 0}, unk_token=""))
            self._library.add_tokens([Added(token.content, **token.flags) for token in tokens])
            self._ids = {self._library.token_to_id(token.content): token.id for token in tokens}

    def split(self, text: str) -> Iterator[tuple[int, int, int | None]]:
        """The parts of a text: where each begins and ends, and the id of an added token; None for what lies between them."""
        found = self._library.encode(text, add_special_tokens=False)
        for token, (start, end) in zip(found.ids, found.offsets, strict=True):
            known = self._ids.get(token)
            if known is not None or end > start:
                yield start, end, known
