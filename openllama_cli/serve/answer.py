"""From the steps of a request's rows to OpenAI's answer, in one document or as a stream.

Both are made of the same pieces: a streamed answer, joined, is the unstreamed one.
"""

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from openllama_cli.generation.choices.scores import ScoredChoice, best
from openllama_cli.generation.constraints.config import told as matched
from openllama_cli.generation.decode.config import TEXT_ENDS
from openllama_cli.generation.decode.request import FinishReason, Scored
from openllama_cli.generation.text.completion import (
    Completion,
    Timings,
    best_of,
    logprobs_of,
    openai_reason,
    told,
    trace_document,
)
from openllama_cli.generation.text.offsets import TokenOffsets, prompt_offsets
from openllama_cli.generation.text.stream import TextStep
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.serve.engine import Facts
from openllama_cli.serve.request import CompletionRequest, Prompt

# A token and where it starts in the text of its choice.
Entry = tuple[Scored, int]


@dataclass
class Piece:
    """What a step adds to a choice.

    prompt: an echoed prompt's tokens. tokens: generated ones whose text is certain now. listed: those of them that `logprobs`
    has, which leaves out what lies in a stop string. traces: of `tokens`, if they are asked for.
    """

    text: str = ""
    prompt: list[Entry] = field(default_factory=list)
    tokens: list[Entry] = field(default_factory=list)
    listed: list[Entry] = field(default_factory=list)
    traces: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def __bool__(self) -> bool:
        return bool(self.text or self.prompt or self.tokens or self.finish_reason)

    def join(self, other: "Piece") -> None:
        """Add what came after."""
        self.text += other.text
        self.prompt += other.prompt
        self.tokens += other.tokens
        self.listed += other.listed
        self.traces += other.traces
        self.finish_reason = other.finish_reason or self.finish_reason


class Row:
    """One row as its steps come."""

    def __init__(self, prompt: Prompt, asked: CompletionRequest, tokenizer: Tokenizer) -> None:
        self._prompt, self._asked, self._tokenizer = prompt, asked, tokenizer
        self._wanted = asked.logprobs or asked.tokens
        self._offsets = TokenOffsets(tokenizer, prompt.shown)
        self._start = len(prompt.text) if asked.echo else 0
        self._length = 0
        self._given = 0
        self._traces: list[dict[str, Any]] = []
        self.completion = Completion(prompt.shown)

    def add(self, step: TextStep) -> Piece:
        """What a step adds to the answer. Raises the step's error, if it has one."""
        if step.prefilled:
            self.completion.add(replace(step, prompt=step.prompt[self._prompt.hidden :]))
            if step.healed.tokens:
                self._offsets = TokenOffsets(self._tokenizer, self.completion.prompt)
            return self._echo()
        self.completion.add(step)
        self._length += len(step.text)
        piece = Piece(step.text, finish_reason=step.finish_reason)
        if self._wanted:
            if step.scored is not None:
                self._offsets.push(step.scored.token)
                if step.trace is not None:
                    position = len(self.completion.prompt) + len(self._traces)
                    self._traces.append(trace_document(step.trace, position, self._tokenizer))
            if step.finish_reason is not None:
                self._offsets.close()
            for scored, offset in self._certain(ended=step.finish_reason is not None):
                entry = (scored, self._start + min(offset, self._length))
                piece.tokens.append(entry)
                piece.traces += self._traces[self._given : self._given + 1]
                if offset < self._length or step.finish_reason not in TEXT_ENDS:
                    piece.listed.append(entry)
        return piece

    def _echo(self) -> Piece:
        if not self._asked.echo:
            return Piece()
        text, scored = self._prompt.text, self.completion.prompt_scored
        if not scored:
            return Piece(text)
        return Piece(text, list(zip(scored, prompt_offsets(self._tokenizer, text, self.completion.prompt), strict=True)))

    def _certain(self, *, ended: bool) -> Iterator[Entry]:
        """The next tokens that start in text that is certain; once the row has ended, all that are left."""
        while self._given < len(self.completion.scored):
            offset = max(0, self._offsets.offsets[self._given] - self.completion.healed.characters)
            if offset >= self._length and not ended:
                return
            yield self.completion.scored[self._given], offset
            self._given += 1


class Answer:
    """OpenAI's answer to a request. facts: of the model. recorded: whether it has a record. timings: once the first prompt
    runs."""

    def __init__(self, asked: CompletionRequest, tokenizer: Tokenizer, facts: Facts, *, recorded: bool = False) -> None:
        self._asked, self._tokenizer = asked, tokenizer
        self._context, self._description = facts.context, facts.description
        self._where = facts.surroundings if recorded else None
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": facts.name,
        }
        self._rows = [Row(prompt, asked, tokenizer) for prompt in asked.running for _ in range(asked.best_of)]
        self._pieces = [Piece() for _ in self._rows]
        self._open = len(self._rows)
        self._opened: set[int] = set()
        self.timings: Timings | None = None

    def begin(self) -> None:
        """The first prompt is about to run."""
        self.timings = Timings(0.0, len(self._asked.prompts[0].tokens))

    def time(self, step: TextStep) -> None:
        """A step came just now."""
        assert self.timings is not None
        self.timings.add(step)

    @property
    def finished(self) -> bool:
        """Whether all rows have ended."""
        return self._open == 0

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once."""
        return sum(len(prompt.shown) for prompt in self._asked.prompts)

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far; those of the answers that were chosen."""
        if self._asked.choosing is not None:
            return sum(best(scored).tokens for scored in self._chosen) if self.finished else 0
        return sum(len(row.completion.scored) for row in self._rows)

    def add(self, step: TextStep) -> Piece:
        """A step of a row. Raises the step's error, if it has one."""
        piece = self._rows[step.row].add(step)
        self._open -= step.finish_reason is not None
        if not self._asked.stream:
            self._pieces[step.row].join(piece)
        return piece

    def document(self) -> dict[str, Any]:
        """The answer once all rows have ended."""
        if self._asked.choosing is not None:
            answers = self._asked.choosing.answers(self._chosen)
            return {**self._head, "choices": answers, "usage": self._usage(), "olc": self._olc()}
        choices = [self._choice(place, row, self._pieces[row]) for place, row in enumerate(self._kept())]
        return {**self._head, "choices": choices, "usage": self._usage(), "olc": self._olc()}

    def chunks(self, pieces: Sequence[tuple[int, Piece]]) -> Iterator[dict[str, Any]]:
        """Chunks of a stream: for each row what its steps have added. Its last one, or that of the usage, has `olc`."""
        usage = self._asked.include_usage
        for place, (row, piece) in enumerate(pieces):
            last = self.finished and place == len(pieces) - 1
            chunk = {**self._head, "choices": [self._choice(row, row, piece)]}
            yield {**chunk, **({"usage": None} if usage else {"olc": self._olc()} if last else {})}
        if usage and self.finished:
            yield {**self._head, "choices": [], "usage": self._usage(), "olc": self._olc()}

    def _kept(self) -> list[int]:
        """The rows that are answered: of each prompt's the best, in the order of their choices."""
        kept: list[int] = []
        for start in range(0, len(self._rows), self._asked.best_of):
            made = [row.completion for row in self._rows[start : start + self._asked.best_of]]
            kept += [start + place for place in best_of(made, self._asked.n)]
        return kept

    @cached_property
    def _chosen(self) -> list[list[ScoredChoice]]:
        """Of each prompt the choices, once all rows have ended."""
        assert self._asked.choosing is not None
        return self._asked.choosing.scored([row.completion for row in self._rows])

    def _choice(self, index: int, row: int, piece: Piece) -> dict[str, Any]:
        asked = self._asked
        own: dict[str, Any] = {"finish_reason": piece.finish_reason, "seed": asked.seeds[row // asked.best_of]}
        own |= told(piece.finish_reason)
        if piece.finish_reason is not None:
            own |= matched(asked.sampling.constraint, self._rows[row].completion.text)
            own["room"] = self._context - len(asked.prompts[row // asked.best_of].tokens)
        if asked.tokens:
            if row not in self._opened:
                own["prompt_ids"] = list(self._rows[row].completion.prompt)
            own |= {"prompt": [self._entry(entry) for entry in piece.prompt]} if piece.prompt else {}
            own["tokens"] = [self._entry(entry) for entry in piece.tokens]
            for entry, trace in zip(own["tokens"], piece.traces, strict=False):
                entry["trace"] = trace
            self._opened.add(row)
        return {
            "index": index,
            "text": piece.text,
            "finish_reason": None if piece.finish_reason is None else openai_reason(piece.finish_reason),
            "logprobs": logprobs_of([*piece.prompt, *piece.listed], self._tokenizer) if asked.logprobs else None,
            "olc": own,
        }

    def _entry(self, entry: Entry) -> dict[str, Any]:
        scored, offset = entry
        return {
            "id": scored.token,
            "text": self._tokenizer.text(scored.token),
            "offset": offset,
            "logprob": scored.logprob,
            "entropy": scored.entropy,
            "rank": scored.rank,
            "top": [[token, self._tokenizer.text(token), value] for token, value in scored.top],
        }

    def _usage(self) -> dict[str, int]:
        prompt, generated = self.prompt_tokens, self.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}

    def _olc(self) -> dict[str, Any]:
        seeds = set(self._asked.seeds)
        seed = seeds.pop() if len(seeds) == 1 else None
        timings = self.timings.as_dict() if self.timings is not None else None
        made = {} if self._where is None else {"record": self._record(self._where)}
        return {**self._description, "seed": seed, "timings": timings, **made}

    def _record(self, where: dict[str, Any]) -> dict[str, Any]:
        """What it takes to make the answer again, once all rows have ended."""
        from openllama_cli.records import results

        asked = self._asked
        rows = [row.completion for row in self._rows]
        if asked.choosing is not None:
            return results.chosen(where, asked.choosing.choices, [prompt.text for prompt in asked.prompts], rows)
        return results.completed(
            where,
            asked.sampling,
            [(prompt.text, prompt.tokens) for prompt in asked.prompts],
            rows,
            seeds=asked.seeds,
            draws=asked.draws,
            kept=self._kept() if asked.best_of > asked.n else (),
            echo=asked.echo,
        )
