"""The Python face of olc: `load` a model, then `complete`, `stream` or `score` text with it. See docs/python.md.

    model = load("3b-v2", quantize="int8")
    model.complete("The largest animal is", max_tokens=16).text

The commands `complete` and `generate` run on the same `Model`, through `Run`. Importing this module costs no torch; `load`
does. Every expected failure is an `OlcError` with a `code`, a cause and a `remedy`, which name an argument as the command
line spells it: `top_p` is `--top-p`.
"""

import logging
import math
import secrets
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

from openllama_cli.errors import GenerationError, UsageError
from openllama_cli.generation import session
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.models.loading.ranks import one_process_only
from openllama_cli.models.opened import OpenedModel, check_context, open_model
from openllama_cli.models.spec import ModelSpec, QuantizeName
from openllama_cli.system.device import DtypeName
from openllama_cli.system.progress import NullProgress, Progress

if TYPE_CHECKING:
    from openllama_cli.generation.decode.loop import FinishReason
    from openllama_cli.generation.forward.transformers_forward import Forward
    from openllama_cli.generation.text.completion import Completion as Row
    from openllama_cli.generation.text.completion import Timings
    from openllama_cli.generation.text.stream import TextStep
    from openllama_cli.models.loading.load import LoadedModel
    from openllama_cli.models.tokenizer.base import Tokenizer

_log = logging.getLogger("openllama_cli")


class Sampling(TypedDict, total=False):
    """How tokens are chosen and when a completion ends: the fields of `SamplingConfig`, which says what each means."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: str | list[str] | tuple[str, ...]
    logprobs: int | None


@dataclass(frozen=True)
class Completion:
    """What a prompt was completed with. With `echo` the prompt comes first in `text`, `tokens` and the log-probabilities.

    prompt: as it was given.
    text: without the stop string that ended it.
    tokens: ids, without the EOS that ended them; those of a stop string are included.
    logprobs: the natural log-probability of each token, before temperature and filters; None for BOS, which nothing predicts.
        None altogether unless `logprobs` was given.
    top_logprobs: for each token the most likely ones in its place and itself, by their texts (` the`, `bytes:\\xe6` for a part
        of a character), with their log-probabilities.
    finish_reason: "eos" (the model ended the text), "stop" (a stop string), "length" (`max_tokens`) or "context" (it is full).
    seed: repeats a sampled text; None if greedy.
    """

    prompt: str
    text: str
    tokens: list[int]
    logprobs: list[float | None] | None
    top_logprobs: list[dict[str, float]] | None
    finish_reason: "FinishReason"
    seed: int | None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Piece:
    """One step of `Model.stream`.

    text: what has become certain with it: empty while a character is incomplete or a stop string may have begun.
    token, logprob, top_logprobs: of the token generated, as in `Completion`; None where the text ends without one.
    finish_reason: of the last piece, else None.
    """

    text: str
    token: int | None
    logprob: float | None
    top_logprobs: dict[str, float] | None
    finish_reason: "FinishReason | None"


@dataclass(frozen=True)
class Score:
    """How likely a model finds a text.

    tokens: ids, without BOS and the context. logprobs: natural, one a token; None for the first token of a model that has no
    BOS, where nothing predicts it.
    """

    tokens: list[int]
    logprobs: list[float | None]

    @property
    def total(self) -> float:
        """The log-probability of the text: the sum over its tokens."""
        return math.fsum(value for value in self.logprobs if value is not None)

    @property
    def perplexity(self) -> float:
        """exp of minus the mean log-probability of a token; nan where no token is predicted."""
        count = sum(value is not None for value in self.logprobs)
        return math.exp(-self.total / count) if count else math.nan


def load(
    model: str | None = None,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: DtypeName = "auto",
    quantize: QuantizeName | None = None,
    offline: bool = False,
    progress: bool | Progress = True,
) -> "Model":
    """Find a model, download it if it is not here yet, and load it. Imports torch and transformers.

    model, revision, device, dtype, quantize, offline: see `ModelSpec`. Without a model: OLC_MODEL, else the default set with
    `olc models default`, else the demo model that comes with olc.
    progress: True draws bars on a terminal or in a notebook; or an object with the methods of `Progress`.

    Raises OlcError.
    """
    one_process_only("olc.load")
    spec = ModelSpec(model, revision=revision, device=device, dtype=dtype, quantize=quantize, offline=offline)
    shown: Progress = progress if not isinstance(progress, bool) else TqdmProgress() if progress else NullProgress()
    try:
        opened = open_model(spec, progress=shown, notice=_log.warning)
        return Model(session.load_model(opened, spec, progress=shown, notice=_log.warning), notice=_log.warning)
    finally:
        shown.finish()


class Model:
    """A loaded model: what `load` returns."""

    def __init__(self, loaded: "LoadedModel", *, notice: session.Notice | None = None) -> None:
        self.loaded = loaded
        self._notice = notice
        self._forward_seconds = 0.0

    def __repr__(self) -> str:
        return f"<olc model {self.name}: {self.loaded.precision} on {self.loaded.device}>"

    @property
    def name(self) -> str:
        """How the model was named: an alias or Hub id, or its folder."""
        return self.loaded.folder.name

    @property
    def tokenizer(self) -> "Tokenizer":
        """`encode` (with BOS in front unless `bos=False`), `decode`, `piece`, …"""
        return self.loaded.tokenizer

    @property
    def context(self) -> int:
        """The number of tokens that a prompt and its completion may have together."""
        return self.loaded.checkpoint.shape.context

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

    @overload
    def complete(self, prompt: str, *, n: None = None, echo: bool = False, **sampling: Unpack[Sampling]) -> Completion: ...
    @overload
    def complete(self, prompt: str, *, n: int, echo: bool = False, **sampling: Unpack[Sampling]) -> list[Completion]: ...
    @overload
    def complete(
        self, prompt: list[str] | tuple[str, ...], *, n: None = None, echo: bool = False, **sampling: Unpack[Sampling]
    ) -> list[Completion]: ...
    @overload
    def complete(
        self, prompt: list[str] | tuple[str, ...], *, n: int, echo: bool = False, **sampling: Unpack[Sampling]
    ) -> list[list[Completion]]: ...
    def complete(
        self,
        prompt: str | list[str] | tuple[str, ...],
        *,
        n: int | None = None,
        echo: bool = False,
        **sampling: Unpack[Sampling],
    ) -> Completion | list[Completion] | list[list[Completion]]:
        """Complete a prompt, or several in one batch. A list of prompts gives a list, and so does `n`:

            complete("a") → Completion          complete(["a", "b"]) → [Completion, Completion]
            complete("a", n=2) → [Completion, Completion]          complete(["a", "b"], n=2) → [[…, …], […, …]]

        n: completions of each prompt; without a temperature they are sampled at 1.0. echo: put the prompt in front.
        sampling: greedy and 64 tokens unless told otherwise; a sampling option without a temperature samples at 1.0. Draws
        depend on the seed and on the place in the list, not on what else is in the batch (in float32: exactly).

        Raises OlcError, before any work if a prompt and `max_tokens` exceed the context.
        """
        samples = 1 if n is None else n
        config = choose_sampling(sampling, samples=samples)
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        tokens = [self._encode(text, config.max_tokens) for text in texts]
        run = Run(self, tokens, config, samples=samples, score_prompt=echo and config.logprobs is not None).finish()
        made = [run.result(texts[place // samples], row, echo=echo) for place, row in enumerate(run.rows)]
        if n is None:
            return made[0] if isinstance(prompt, str) else made
        lists = [made[place : place + n] for place in range(0, len(made), n)]
        return lists[0] if isinstance(prompt, str) else lists

    def stream(self, prompt: str, **sampling: Unpack[Sampling]) -> Generator[Piece, None, None]:
        """Complete a prompt, piece by piece as the text becomes certain; joined, their texts are `complete(prompt).text`.

        Raises OlcError. Leaving the loop early stops the work.
        """
        from openllama_cli.generation.text.completion import alternatives

        config = choose_sampling(sampling)
        with closing(Run(self, [self._encode(prompt, config.max_tokens)], config).steps()) as steps:
            for step in steps:
                scored = step.scored if step.finish_reason != "eos" else None
                if scored is not None:
                    top = None if config.logprobs is None else alternatives(self.tokenizer, scored)
                    yield Piece(step.text, scored.token, scored.logprob, top, step.finish_reason)
                elif step.text or step.finish_reason is not None:
                    yield Piece(step.text, None, None, None, step.finish_reason)

    def score(self, text: str, context: str | None = None) -> Score:
        """The log-probability of each token of a text, from one forward pass.

        context: what stands before the text, directly; it is not scored itself. A token in which both have a part counts
        to the text. Raises OlcError, also for a text that has no tokens or is longer than the model's context.
        """
        tokens = self._encode((context or "") + text, 0)
        before = self.tokenizer.encode(context or "")
        start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(tokens, before, strict=False)))
        if start == len(tokens):
            raise UsageError("the text to score has no tokens", "give a non-empty text", code="empty_prompt")
        run = Run(self, [tokens], SamplingConfig(max_tokens=0, logprobs=0), score_prompt=True).finish()
        return Score(tokens[start:], [scored.logprob for scored in run.rows[0].prompt_scored[start:]])

    def _encode(self, text: str, max_tokens: int) -> list[int]:
        tokens = self.tokenizer.encode(text)
        opened = OpenedModel(self.loaded.folder, self.loaded.checkpoint, self.tokenizer)
        check_context(opened, len(tokens), max_tokens)
        return tokens


class Run:
    """Prompts, each completed `samples` times, in one batch of at most `batch_size` at a time: what the commands run on too.

    prompts: token ids with BOS. engine: olc's decode loop, or transformers' `model.generate`. score_prompt: also score the
    prompts' tokens. speculate: see `generation.decode.loop.draft`.

    rows: what each has come to so far, the samples of a prompt side by side. forward: the name of the forward pass.
    """

    rows: "list[Row]"
    timings: "Timings"

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        *,
        samples: int = 1,
        engine: session.EngineName = "loop",
        batch_size: int = 16,
        score_prompt: bool = False,
        speculate: int = 0,
    ) -> None:
        from openllama_cli.generation.decode.loop import Request
        from openllama_cli.generation.forward.cache import PrefixCache
        from openllama_cli.generation.text.completion import Completion as Row

        self.model, self.sampling = model, sampling
        # transformers runs the model by itself.
        forward = model.forward if engine == "loop" else None
        self.forward = "model.generate" if forward is None else f"{forward.name} forward pass"
        # All samples have the same prompt: it runs through the model once.
        prefixes = PrefixCache() if samples > 1 else None
        self._engine = session.make_engine(model.loaded, engine, forward=forward, max_rows=batch_size, prefixes=prefixes)
        self._prompts = [
            Request(row, prompts[row // samples], sampling, score_prompt, speculate=speculate)
            for row in range(len(prompts) * samples)
        ]
        self.rows = [Row(prompt.tokens) for prompt in self._prompts]

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
        return Completion(
            prompt=prompt,
            text=(prompt if echo else "") + row.text,
            tokens=[*(row.prompt if echo else ()), *(entry.token for entry in row.shown)],
            logprobs=[entry.logprob for entry in scored] if with_logprobs else None,
            top_logprobs=[alternatives(self.model.tokenizer, entry) for entry in scored] if with_logprobs else None,
            finish_reason=row.finish_reason,
            seed=None if self.sampling.greedy else self.sampling.seed,
        )


def choose_sampling(given: Mapping[str, Any], *, samples: int = 1) -> SamplingConfig:
    """The sampling options that were given, with a seed where one is needed and none was given: it is reported, so that a
    text one likes can be had again. samples: completions of each prompt. Raises UsageError.
    """
    settings = {name: value for name, value in given.items() if value is not None}
    if samples < 1:
        raise UsageError(f"--num-samples {samples} is out of range", "give 1 or more")
    if samples > 1:
        settings.setdefault("temperature", 1.0)
    config = SamplingConfig.from_given(settings)
    if samples > 1 and config.greedy:
        cause = f"--num-samples {samples} at temperature {config.temperature:g} would give {samples} identical texts"
        raise UsageError(cause, "give --temperature 0.8")
    return config if config.greedy or config.seed is not None else replace(config, seed=secrets.randbits(31))


class TqdmProgress:
    """A progress bar on a terminal or in a notebook; nothing elsewhere. tqdm comes with transformers."""

    def __init__(self) -> None:
        self._bar: Any = None

    def start(self, label: str, total_bytes: int | None) -> None:
        """Begin a bar; one that is under way ends."""
        from tqdm.auto import tqdm

        self.finish()
        self._bar = tqdm(desc=label, total=total_bytes, unit="B", unit_scale=True, leave=False, disable=None)

    def advance(self, count: int) -> None:
        """Add to the bytes done."""
        if self._bar is not None:
            self._bar.update(count)

    def finish(self) -> None:
        """End the bar and clear its line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
