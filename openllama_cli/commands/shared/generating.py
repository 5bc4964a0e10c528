"""The rows that `olc generate` shows, by the model loaded here or by olc's own server: two ways to the same outputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from openllama_cli.errors import UsageError
from openllama_cli.generation.decode.config import TEXT_ENDS

if TYPE_CHECKING:
    from openllama_cli.api import Run
    from openllama_cli.generation.decode.request import FinishReason
    from openllama_cli.serve.client.asked import Asked
    from openllama_cli.serve.client.find import FoundServer


class Token(NamedTuple):
    """An id and its log-probability; None for BOS, which nothing predicts."""

    id: int
    logprob: float | None


@dataclass(frozen=True)
class GeneratedRow:
    """A prompt and what followed it.

    prompt_tokens: scored, if they are to be shown; else empty. tokens: without a final EOS, with those of a stop string.
    offsets: where each of them starts in the text. room: how many tokens the context has for it.
    """

    prompt: str
    prompt_tokens: Sequence[Token]
    text: str
    tokens: Sequence[Token]
    offsets: Sequence[int]
    finish_reason: "FinishReason"
    room: int

    def pieces(self) -> list[tuple[str, float | None]]:
        """The text that each token adds, with its log-probability; without the tokens that lie in what was cut off."""
        ends = [*self.offsets[1:], len(self.text)]
        return [
            (self.text[start:end], token.logprob)
            for token, start, end in zip(self.tokens, self.offsets, ends, strict=False)
            if start < len(self.text) or self.finish_reason not in TEXT_ENDS
        ]

    def document(self, *, echo: bool, logprobs: bool) -> dict[str, Any]:
        """For JSON: tokens and logprobs are cut at EOS, with `echo` the prompt's in front, BOS included (null)."""
        tokens = [*self.prompt_tokens, *self.tokens]
        return {
            "prompt": self.prompt,
            "text": (self.prompt if echo else "") + self.text,
            "tokens": [token.id for token in tokens],
            "logprobs": [token.logprob for token in tokens] if logprobs else None,
            "finish_reason": self.finish_reason,
        }


def loaded_rows(run: "Run", texts: Sequence[str], *, echo: bool) -> list[GeneratedRow]:
    """The rows of a run that has ended."""
    from openllama_cli.generation.text.completion import completion_offsets

    rows = []
    for text, row in zip(texts, run.rows, strict=True):
        assert row.finish_reason is not None
        tokens = [Token(entry.token, entry.logprob) for entry in row.shown]
        offsets = completion_offsets(run.model.tokenizer, row, row.shown)
        prompt = [Token(entry.token, entry.logprob) for entry in row.prompt_scored] if echo else []
        cut = [min(offset, len(row.text)) for offset in offsets]
        rows.append(GeneratedRow(text, prompt, row.text, tokens, cut, row.finish_reason, run.room))
    return rows


def served_rows(server: "FoundServer", asked: "Asked") -> tuple[list[GeneratedRow], dict[str, Any]]:
    """The rows that a server makes, and its `olc`. Raises NotServedError, or for a server that was named OlcError."""
    from openllama_cli.serve.client.completions import ask

    if not server.olc:
        server.connection.close()
        raise UsageError(
            f"{server.connection.name} is not olc's own server, and others do not tell token ids",
            "use `olc complete`, or leave out --server",
            code="server_kind",
        )
    rows, answer = [], ask(server, asked)
    for prompt, choice in zip(asked.prompts, answer["choices"], strict=True):
        own, start = choice["olc"], len(prompt) if asked.echo else 0
        entries = own["tokens"][:-1] if own["finish_reason"] == "eos" else own["tokens"]
        rows.append(
            GeneratedRow(
                prompt,
                [Token(entry["id"], entry["logprob"]) for entry in own.get("prompt", ())],
                choice["text"][start:],
                [Token(entry["id"], entry["logprob"]) for entry in entries],
                [entry["offset"] - start for entry in entries],
                own["finish_reason"],
                own["room"],
            )
        )
    return rows, answer.get("olc", {})
