"""What is measured, and what an engine hands over to be measured."""

import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass

from openllama_cli.models.spec import QuantizeName

# Prompts as token ids → the time of each generated token, of `time.perf_counter`.
Run = Callable[[list[list[int]]], list[float]]


@dataclass(frozen=True)
class Job:
    """What to measure.

    folder: the model's; a GGUF file for llama.cpp. engine: "loop", "score" (the loop scores the prompts), "transformers" or
    "llama.cpp". dtype: as `ModelSpec` has it; of llama.cpp the type in its file, such as "Q8_0". rows: the batch size;
    several rows have prompts of different lengths, from half of prompt_tokens to one and a half times as many. max_tokens: of
    every row; EOS is ignored. model: its name.
    """

    folder: str
    engine: str
    dtype: str
    device: str
    prompt_tokens: int
    max_tokens: int
    rows: int
    quantize: QuantizeName | None = None
    model: str | None = None


@dataclass(frozen=True)
class Ready:
    """A loaded model that waits for the prompts.

    vocab: ids to draw prompts from. load_s: all that came before, importing the engine included. weight_bytes_per_token: read
    for each token of one row. precision: the types of weights and activations, for people. peak_memory: bytes so far.
    """

    run: Run
    vocab: int
    load_s: float
    weight_bytes_per_token: int
    precision: str
    peak_memory: Callable[[], int]


def prompt_lengths(job: Job) -> list[int]:
    """Tokens of each row's prompt."""
    if job.rows == 1:
        return [job.prompt_tokens]
    return [max(1, job.prompt_tokens // 2 + job.prompt_tokens * row // job.rows) for row in range(job.rows)]


def prompts(job: Job, vocab: int) -> list[list[int]]:
    """Random token ids, the same for every job."""
    import random

    rng = random.Random(0)
    return [[1, *(rng.randrange(3, vocab) for _ in range(length - 1))] for length in prompt_lengths(job)]


def peak_resident_bytes() -> int:
    """Of this process so far, with the pages of mapped files that it has read."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
