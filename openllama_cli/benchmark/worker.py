"""One measurement in a process of its own: `python -m openllama_cli.benchmark.worker JOB` prints a line of JSON.

JOB is JSON: the fields of a `Job`, with "only_load" true to load its model and no more; or "bandwidth_of", a device.

Nothing is warmed up, since every command line is a first run.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.errors import OlcError
from openllama_cli.models.spec import ModelFolder, ModelSpec, QuantizeName

if TYPE_CHECKING:
    from openllama_cli.models.loading.load import LoadedModel

# Prompts as token ids → the time of each generated token, of `time.perf_counter`.
Run = Callable[[list[list[int]]], list[float]]


@dataclass(frozen=True)
class Job:
    """What to measure.

    folder: the model's. engine: "loop" or "transformers". rows: the batch size; several rows have prompts of different lengths,
    from half of prompt_tokens to one and a half times as many. max_tokens: of every row; EOS is ignored. model: its name.
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


def load_model(job: Job) -> "LoadedModel":
    """The job's `LoadedModel`, as `olc complete` loads it for one row and `olc batch` for several."""
    from openllama_cli.models.loading.load import load
    from openllama_cli.models.opened import OpenedModel

    folder = ModelFolder(Path(job.folder), job.model or job.folder)
    dtype: Any = job.dtype
    spec = ModelSpec(model=job.folder, device=job.device, dtype=dtype, quantize=job.quantize)
    return load(OpenedModel.of(folder), spec, one_row=job.engine == "loop" and job.rows == 1, lean=job.engine == "loop")


def measure(job: Job) -> dict[str, Any]:
    """Load the model, generate, return the figures. Speeds are tokens per second: prefill_tokens_per_s of all prompts, until
    every row has its first token, decode_tokens_per_s of the tokens after that, tokens_per_s of all new tokens from the start.
    """
    loaded = load_model(job)
    rows = prompts(job, loaded.checkpoint.shape.vocab)
    ready = time.perf_counter()
    run = _transformers(loaded, job) if job.engine == "transformers" else _loop(loaded, job)
    started = time.perf_counter()
    times = run(rows)
    first, last = times[job.rows - 1], times[-1]
    generated = job.rows * job.max_tokens
    tokens = sum(map(len, rows))
    return {
        "load_s": loaded.load_seconds + started - ready,
        "time_to_first_token_s": times[0] - started,
        "prefill_tokens_per_s": tokens / (first - started),
        "decode_tokens_per_s": (generated - job.rows) / (last - first) if last > first else None,
        "tokens_per_s": generated / (last - started),
        "peak_memory_bytes": _peak_memory(loaded),
        "weight_bytes_per_token": _weight_bytes(loaded, job),
        "precision": loaded.precision,
    }


def _loop(loaded: "LoadedModel", job: Job) -> Run:
    """The decode loop, with its forward pass made."""
    from openllama_cli.generation.decode.config import SamplingConfig
    from openllama_cli.generation.decode.loop import Request
    from openllama_cli.generation.session import make_engine

    config = SamplingConfig(max_tokens=job.max_tokens)
    engine = make_engine(loaded, max_rows=job.rows)

    def run(rows: list[list[int]]) -> list[float]:
        requests = (Request(row, prompt, config) for row, prompt in enumerate(rows))
        return [time.perf_counter() for step in engine(requests) if step.scored is not None]

    return run


def _transformers(loaded: "LoadedModel", job: Job) -> Run:
    """`model.generate` on a left-padded batch."""
    import torch

    model: Any = loaded.model
    model.generation_config.eos_token_id = None

    def run(rows: list[list[int]]) -> list[float]:
        times: list[float] = []

        def clock(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            times.extend([time.perf_counter()] * job.rows)
            return torch.zeros(job.rows, dtype=torch.bool, device=ids.device)

        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=loaded.input_device)  # [rows, longest]
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=loaded.input_device)
        model.generate(
            ids, attention_mask=mask, max_new_tokens=job.max_tokens, do_sample=False, pad_token_id=0, stopping_criteria=[clock]
        )
        return times

    return run


def _weight_bytes(loaded: "LoadedModel", job: Job) -> int:
    """Bytes of weights read per token: all but the embedding, of which one row is read."""
    shape = loaded.checkpoint.shape
    matrices = shape.parameters() - (0 if shape.tie else shape.vocab * shape.hidden)
    bits = {"int8": 8.0, "int4": 4.5}.get(job.quantize or "", 8.0 * loaded.dtype.itemsize)
    return int(matrices * bits / 8)


def _peak_memory(loaded: "LoadedModel") -> int:
    """Peak memory of the process, mapped weights included; on a GPU that of its own memory."""
    if loaded.input_device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Measure the job on the command line; an expected failure is printed as JSON too."""
    request = json.loads(sys.argv[1])
    only_load = request.pop("only_load", False)
    try:
        if "bandwidth_of" in request:
            from openllama_cli.devices.machine.measure import bandwidth as measure_bandwidth
            from openllama_cli.system.device import main_device

            answer: dict[str, Any] = {"bandwidth_gb_per_s": measure_bandwidth(str(main_device(request["bandwidth_of"])))}
        elif only_load:
            answer = {"loaded": str(load_model(Job(**request)).dtype)}
        else:
            answer = measure(Job(**request))
    except OlcError as error:
        answer = {"error": [error.cause, error.remedy]}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
