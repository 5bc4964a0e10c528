"""One measurement in a process of its own: `python -m openllama_cli.benchmark.worker JOB` prints a line of JSON.

JOB is JSON: the fields of a `Job`, with "only_load" true to load its model and no more; or "bandwidth_of", a device.

Nothing is warmed up, since every command line is a first run.
"""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.benchmark.job import Job, Ready, Run, peak_resident_bytes, prompts
from openllama_cli.errors import OlcError
from openllama_cli.models.spec import ModelFolder, ModelSpec

if TYPE_CHECKING:
    from openllama_cli.models.loading.load import LoadedModel


def load_model(job: Job) -> "LoadedModel":
    """The job's `LoadedModel`, as `olc complete` loads it for one row and `olc batch` for several."""
    from openllama_cli.models.loading.load import load
    from openllama_cli.models.opened import OpenedModel

    folder = ModelFolder(Path(job.folder), job.model or job.folder)
    dtype: Any = job.dtype
    lean = job.engine != "transformers"
    spec = ModelSpec(model=job.folder, device=job.device, dtype=dtype, quantize=job.quantize)
    return load(OpenedModel.of(folder), spec, one_row=lean and job.rows == 1, lean=lean)


def measure(job: Job) -> dict[str, Any]:
    """Load the model, generate, return the figures. Speeds are tokens per second: prefill_tokens_per_s of all prompts, until
    every row has its first token, decode_tokens_per_s of the tokens after that, tokens_per_s of all new tokens from the start.
    """
    if job.engine == "llama.cpp":
        from openllama_cli.benchmark.llama_cpp import ready as make_ready
    else:
        make_ready = _ready
    ready = make_ready(job)
    rows = prompts(job, ready.vocab)
    started = time.perf_counter()
    times = ready.run(rows)
    first, last = times[job.rows - 1], times[-1]
    generated = job.rows * job.max_tokens
    return {
        "load_s": ready.load_s,
        "time_to_first_token_s": times[0] - started,
        "prefill_tokens_per_s": sum(map(len, rows)) / (first - started),
        "decode_tokens_per_s": (generated - job.rows) / (last - first) if last > first else None,
        "tokens_per_s": generated / (last - started),
        "peak_memory_bytes": ready.peak_memory(),
        "weight_bytes_per_token": ready.weight_bytes_per_token,
        "precision": ready.precision,
    }


def _ready(job: Job) -> Ready:
    """For the decode loop, with its forward pass made, or for `model.generate`."""
    loaded = load_model(job)
    since = time.perf_counter()
    return Ready(
        run={"transformers": _transformers, "score": _score}.get(job.engine, _loop)(loaded, job),
        vocab=loaded.checkpoint.shape.vocab,
        load_s=loaded.load_seconds + time.perf_counter() - since,
        weight_bytes_per_token=_weight_bytes(loaded, job),
        precision=loaded.precision,
        peak_memory=lambda: _peak_memory(loaded),
    )


def _loop(loaded: "LoadedModel", job: Job) -> Run:
    """The decode loop, with its forward pass made."""
    from openllama_cli.generation.decode.config import SamplingConfig
    from openllama_cli.generation.decode.request import Request
    from openllama_cli.generation.session import make_engine

    config = SamplingConfig(max_tokens=job.max_tokens)
    engine = make_engine(loaded, max_rows=job.rows)

    def run(rows: list[list[int]]) -> list[float]:
        requests = (Request(row, prompt, config) for row, prompt in enumerate(rows))
        return [time.perf_counter() for step in engine(requests) if step.scored is not None]

    return run


def _score(loaded: "LoadedModel", job: Job) -> Run:
    """The decode loop that scores prompts, as `olc score` has it, and generates nothing."""
    from openllama_cli.generation.decode.config import SamplingConfig
    from openllama_cli.generation.decode.request import Request
    from openllama_cli.generation.session import make_engine

    config = SamplingConfig(max_tokens=0, logprobs=1)
    engine = make_engine(loaded, max_rows=job.rows)

    def run(rows: list[list[int]]) -> list[float]:
        requests = (Request(row, prompt, config, score=True, unscored=1) for row, prompt in enumerate(rows))
        return [time.perf_counter() for step in engine(requests) if step.prefilled]

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
    return peak_resident_bytes()


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
