"""`load`, and the `Model` that it returns."""

import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any, Unpack, overload

from openllama_cli.api.choosing import ChoiceRun
from openllama_cli.api.results import Choice, Completion, Piece, Sampling
from openllama_cli.api.run import Run, Runnable
from openllama_cli.errors import UsageError
from openllama_cli.generation import session
from openllama_cli.generation.choices.branches import branch, branch_neutral
from openllama_cli.generation.choices.config import Choices, Normalize
from openllama_cli.generation.choices.scores import best
from openllama_cli.generation.decode.config import SamplingConfig, choose_sampling
from openllama_cli.generation.text.scoring import Score, prepare
from openllama_cli.generation.text.token_ids import resolve
from openllama_cli.models.loading.ranks import one_process_only
from openllama_cli.models.opened import check_context, open_model
from openllama_cli.models.spec import ModelSpec, QuantizeName
from openllama_cli.system.device import DtypeName
from openllama_cli.system.progress import NullProgress, Progress

_log = logging.getLogger("openllama_cli")


def load(
    model: str | None = None,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: DtypeName = "auto",
    quantize: QuantizeName | None = None,
    offline: bool = False,
    adapters: str | Sequence[str] = (),
    progress: bool | Progress = True,
) -> "Model":
    """Find a model, download it if it is not here yet, and load it. Imports torch and transformers.

    model, revision, device, dtype, quantize, offline, adapters: see `ModelSpec`. Without a model: OLC_MODEL, else the default
    set with `olc models default`, else the demo model that comes with olc.
    progress: True draws bars on a terminal or in a notebook; or an object with the methods of `Progress`.

    Raises OlcError.
    """
    one_process_only("olc.load")
    merged = (adapters,) if isinstance(adapters, str) else tuple(adapters)
    spec = ModelSpec(model, revision, device, dtype, offline, quantize, merged)
    shown: Progress = progress if not isinstance(progress, bool) else TqdmProgress() if progress else NullProgress()
    try:
        opened = open_model(spec, progress=shown, notice=_log.warning)
        return Model(session.load_model(opened, spec, progress=shown, notice=_log.warning), notice=_log.warning)
    finally:
        shown.finish()


class Model(Runnable):
    """A loaded model: what `load` returns."""

    def __repr__(self) -> str:
        return f"<olc model {self.name}: {self.loaded.precision} on {self.loaded.device}>"

    @property
    def context(self) -> int:
        """The number of tokens that a prompt and its completion may have together."""
        return self.loaded.checkpoint.shape.context

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
        config = self._options(choose_sampling(sampling, samples=samples))
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

        config = self._options(choose_sampling(sampling))
        with closing(Run(self, [self._encode(prompt, config.max_tokens)], config).steps()) as steps:
            for step in steps:
                scored = step.scored if step.finish_reason != "eos" else None
                if scored is not None:
                    top = None if config.logprobs is None else alternatives(self.tokenizer, scored)
                    yield Piece(step.text, scored.token, scored.logprob, top, step.finish_reason)
                elif step.text or step.finish_reason is not None:
                    yield Piece(step.text, None, None, None, step.finish_reason)

    def score(self, text: str, context: str | None = None, *, stride: int | None = None, top: int = 1) -> Score:
        """How likely a text is: the log-probability of each of its tokens.

        context: what stands before the text, directly; it is not scored itself. A token in which both have a part counts to
        the text. stride: a text that does not fit into the model's context is scored in overlapping windows, each this many
        tokens further; half the context unless told otherwise, and at a quarter of it more exact and twice the work. top: how
        many of the most likely tokens are told in the place of each.

        Raises OlcError, also for a text that has no tokens.
        """
        prepared = prepare(self.tokenizer, text, context or "", positions=self.context, stride=stride)
        run = Run.scoring(self, prepared, top=top).finish()
        return Score.of(self.tokenizer, text, prepared, run.rows[0].prompt_scored)

    @overload
    def choose(
        self,
        prompt: str,
        choices: Sequence[str],
        *,
        prefix: str | None = None,
        normalize: Normalize = "sum",
        calibrate_with: str | None = None,
    ) -> Choice: ...
    @overload
    def choose(
        self,
        prompt: list[str] | tuple[str, ...],
        choices: Sequence[str],
        *,
        prefix: str | None = None,
        normalize: Normalize = "sum",
        calibrate_with: str | None = None,
    ) -> list[Choice]: ...
    def choose(
        self,
        prompt: str | list[str] | tuple[str, ...],
        choices: Sequence[str],
        *,
        prefix: str | None = None,
        normalize: Normalize = "sum",
        calibrate_with: str | None = None,
    ) -> Choice | list[Choice]:
        """The choice that the model prefers after a prompt, with the probability of each; of several prompts a list.

        A prompt runs once, and its choices in one more pass. prefix: stands between a prompt and each choice; a space, or
        nothing where the prompt is empty or ends in whitespace, unless it is given. normalize: what is compared: the
        log-likelihood ("sum"), or this per "token" or "byte" of the choice. calibrate_with: a prompt that says nothing about
        the answer; how likely it makes each choice is subtracted. See `Choices`.

        Raises OlcError, before any work for choices that are empty, equal or the same tokens, and for a prompt that has no
        room for them in the context.
        """
        if isinstance(choices, str):
            raise UsageError("the choices are one text", 'give a list, such as ["yes", "no"]', code="choices_count")
        asked = Choices(tuple(choices), prefix, normalize, calibrate_with)
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        branched = [branch(self.tokenizer, text, asked, self.context) for text in texts]
        neutral = branch_neutral(self.tokenizer, asked, self.context)
        if not texts:
            return []
        scored = ChoiceRun(self, asked, branched, neutral).finish()
        made = [Choice(text, best(one).text, best(one).probability, one) for text, one in zip(texts, scored, strict=True)]
        return made[0] if isinstance(prompt, str) else made

    def _options(self, config: SamplingConfig) -> SamplingConfig:
        return resolve(config, self.tokenizer, self.loaded.checkpoint.shape.vocab)

    def _encode(self, text: str, max_tokens: int) -> list[int]:
        tokens = self.tokenizer.encode(text)
        check_context(self.loaded, len(tokens), max_tokens)
        return tokens


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
