"""Prompts completed in one batch: what the commands and `Model` run on."""

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from openllama_cli.api.results import Completion
from openllama_cli.errors import GenerationError
from openllama_cli.generation import session
from openllama_cli.generation.decode.config import SamplingConfig

if TYPE_CHECKING:
    from openllama_cli.generation.forward.transformers_forward import Forward
    from openllama_cli.generation.text.completion import Completion as Row
    from openllama_cli.generation.text.completion import Timings
    from openllama_cli.generation.text.scoring import Prepared
    from openllama_cli.generation.text.stream import TextStep
    from openllama_cli.models.loading.load import LoadedModel
    from openllama_cli.models.tokenizer.base import Tokenizer


class Runnable:
    """A loaded model and its forward pass, for `Run`."""

    def __init__(self, loaded: "LoadedModel", *, notice: session.Notice | None = None) -> None:
        self.loaded = loaded
        self._notice = notice
        self._forward_seconds = 0.0

    @property
    def name(self) -> str:
        """How the model was named: an alias or Hub id, or its folder."""
        return self.loaded.folder.name

    @property
    def tokenizer(self) -> "Tokenizer":
        """`encode` (with BOS in front unless `bos=False`), `decode`, `piece`, …"""
        return self.loaded.tokenizer

    @cached_property
    def forward(self) -> "Forward":
        """The forward pass of olc's decode loop, made when it is first needed: on a GPU that takes a second."""
        started = time.perf_counter()
        forward = session.choose_forward(self.loaded, self._notice)
        self._forward_seconds = time.perf_counter() - started
        return forward

    @property
    def load_seconds(self) -> float:
        """How long loading took, with compiling kernels and capturing graphs for the forward pass on a GPU."""
        return self.loaded.load_seconds + self._forward_seconds


class Run:
    """Prompts, each completed `samples` times, in one batch of at most `batch_size` at a time: what the commands run on too.

    prompts: token ids with BOS. engine: olc's decode loop, or transformers' `model.generate`. score_prompt: also score the
    prompts' tokens. branches: of each prompt. These, speculate, unscored, stride and trace: see
    `generation.decode.request.Request`. seeds: of each prompt, if not that of `sampling`. draws: which random numbers each row
    draws, if not those of its place.

    rows: what each has come to so far, the samples of a prompt side by side. forward: the name of the forward pass.
    """

    rows: "list[Row]"
    timings: "Timings"

    def __init__(
        self,
        model: Runnable,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        *,
        samples: int = 1,
        engine: session.EngineName = "loop",
        batch_size: int = 16,
        score_prompt: bool = False,
        unscored: int = 0,
        stride: int | None = None,
        branches: Sequence[Sequence[Sequence[int]]] = (),
        speculate: int = 0,
        trace: int | None = None,
        seeds: Sequence[int | None] = (),
        draws: Sequence[int] = (),
    ) -> None:
        from openllama_cli.generation.decode.request import Request
        from openllama_cli.generation.forward.cache import PrefixCache
        from openllama_cli.generation.text.completion import Completion as Row

        self.model, self.prompts, self.sampling = model, prompts, sampling
        # transformers runs the model by itself.
        forward = model.forward if engine == "loop" else None
        self.forward = "model.generate" if forward is None else f"{forward.name} forward pass"
        # All samples have the same prompt: it runs through the model once.
        prefixes = PrefixCache() if samples > 1 or len(branches) > 1 else None
        self._engine = session.make_engine(model.loaded, engine, forward=forward, max_rows=batch_size, prefixes=prefixes)
        self._prompts = [
            Request(
                row,
                prompts[row // samples],
                replace(sampling, seed=seeds[row // samples]) if seeds else sampling,
                score_prompt,
                draws_as=draws[row] if draws else None,
                speculate=speculate,
                unscored=unscored,
                stride=stride,
                lead=int(tuple(prompts[row // samples][:1]) == (model.tokenizer.bos_id,)),
                branches=branches[row // samples] if branches else (),
                trace=trace,
            )
            for row in range(len(prompts) * samples)
        ]
        self.rows = [Row(prompt.tokens) for prompt in self._prompts]

    @property
    def room(self) -> int:
        """How many tokens the context has for a completion of the longest prompt."""
        return self.model.loaded.checkpoint.shape.context - max(map(len, self.prompts))

    @classmethod
    def scoring(cls, model: Runnable, prepared: "Prepared", *, top: int = 1) -> "Run":
        """One prepared text, scored. top: how many of the most likely tokens are told in the place of each, at least one."""
        config = SamplingConfig(max_tokens=0, logprobs=max(top, 1))
        return cls(model, [prepared.tokens], config, score_prompt=True, unscored=prepared.first, stride=prepared.stride)

    def steps(self) -> "Generator[TextStep, None, None]":
        """Run, and yield what happens to the rows as it does; a row that fails raises its error."""
        from openllama_cli.generation.text.completion import Timings
        from openllama_cli.generation.text.stream import stream

        self.timings = Timings(self.model.load_seconds, len(self._prompts[0].tokens) if self._prompts else 0)
        try:
            with closing(stream(self._engine, self.model.tokenizer, self._prompts)) as steps:
                for step in steps:
                    self.timings.add(step)
                    self.rows[step.row].add(step)
                    yield step
        except GenerationError as error:
            if error.code == "non_finite_logits" and str(self.model.loaded.dtype) == "torch.float32":
                remedy = f"{self.model.loaded.folder.name} runs in float32 already, so its weights are damaged: get them again"
                raise GenerationError(error.cause, remedy, code=error.code) from error
            raise

    def finish(self) -> "Run":
        """Run to the end."""
        for _ in self.steps():
            pass
        return self

    def result(self, prompt: str, row: "Row", *, echo: bool = False) -> Completion:
        """A finished row. prompt: its text."""
        from openllama_cli.generation.text.completion import alternatives

        assert row.finish_reason is not None
        scored = [*(row.prompt_scored if echo else ()), *row.shown]
        with_logprobs = self.sampling.logprobs is not None
        constraint = self.sampling.constraint
        return Completion(
            prompt=prompt,
            text=(prompt if echo else "") + row.text,
            tokens=[*(row.prompt if echo else ()), *(entry.token for entry in row.shown)],
            logprobs=[entry.logprob for entry in scored] if with_logprobs else None,
            top_logprobs=[alternatives(self.model.tokenizer, entry) for entry in scored] if with_logprobs else None,
            finish_reason=row.finish_reason,
            seed=None if self.sampling.greedy else self.sampling.seed,
            complete=None if constraint is None else constraint.matches(row.text),
        )
