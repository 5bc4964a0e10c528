"""llama.cpp through llama-cpp-python, measured as olc is: ids in, greedy tokens out, all rows in one batch.

Through its C interface, since the Python class around it runs one sequence only. Everything is as llama.cpp has it by default,
but for the sizes of the context and the batch, which are those of the job. Nothing here imports torch.
"""

import importlib.util
import logging
import os
import time
from typing import TYPE_CHECKING, Any

from openllama_cli.benchmark.gguf import BITS
from openllama_cli.benchmark.job import Job, Ready, peak_resident_bytes, prompt_lengths
from openllama_cli.errors import OlcError

if TYPE_CHECKING:
    import numpy as np

_PACKAGES = {"llama-cpp-python": "llama_cpp", "gguf": "gguf"}
# llama.cpp gives every row a multiple of it.
_CELLS = 256
_ALL_LAYERS = 999


def check_installed() -> None:
    """Raise OlcError with the code "llama_cpp_missing" unless the extra `bench` is installed. Nothing is imported."""
    missing = [name for name, module in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise OlcError(
            f"--against llama.cpp needs {' and '.join(missing)} in olc's Python environment",
            f"pip install {' '.join(missing)}   # the extra `bench`; llama.cpp is compiled for some 10 minutes",
            code="llama_cpp_missing",
        )


def ready(job: Job) -> Ready:
    """Load the job's GGUF file. Raises OlcError if llama.cpp does not."""
    started = time.perf_counter()
    context = Context(job)

    def run(rows: list[list[int]]) -> list[float]:
        times: list[float] = []
        given, position = rows, [0] * len(rows)
        for step in range(job.max_tokens):
            tokens = [int(logits.argmax()) for logits in context.forward(given, position)]
            times += [time.perf_counter()] * len(rows)
            given, position = [[token] for token in tokens], [len(row) + step for row in rows]
        return times

    return Ready(
        run=run,
        vocab=context.vocab,
        load_s=time.perf_counter() - started,
        weight_bytes_per_token=int(context.parameters * BITS[job.dtype] / 8),
        precision=job.dtype,
        peak_memory=peak_resident_bytes,
    )


class Context:
    """A model and room for a job's rows. vocab: of ids. parameters: without those of the embedding, which is looked up.

    Raises OlcError if llama.cpp refuses.
    """

    def __init__(self, job: Job) -> None:
        import llama_cpp

        self._library: Any = llama_cpp
        logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)  # Through which its binding writes to stderr.
        self._library.llama_backend_init()
        of_model = self._library.llama_model_default_params()
        of_model.n_gpu_layers = 0 if job.device == "cpu" else _ALL_LAYERS
        model = self._library.llama_model_load_from_file(job.folder.encode(), of_model)
        if not model:
            raise OlcError(f"llama.cpp cannot load {job.folder}", "remove the file, and olc writes it again")
        lengths = prompt_lengths(job)
        cells = -(-(max(lengths) + job.max_tokens) // _CELLS) * _CELLS
        of_context = self._library.llama_context_default_params()
        of_context.n_ctx, of_context.n_seq_max = cells * job.rows, job.rows
        of_context.n_batch = max(sum(lengths), of_context.n_batch)
        of_context.n_threads = of_context.n_threads_batch = _threads()
        self._context = self._library.llama_init_from_model(model, of_context)
        if not self._context:
            cause = f"llama.cpp cannot run {job.rows} rows of {cells} tokens"
            raise OlcError(cause, "lower --batch-size or --prompt-tokens")
        self._batch = self._library.llama_batch_init(sum(lengths), 0, 1)
        self.vocab = int(self._library.llama_vocab_n_tokens(self._library.llama_model_get_vocab(model)))
        embedding = self.vocab * self._library.llama_model_n_embd(model)
        self.parameters = int(self._library.llama_model_n_params(model) - embedding)

    def forward(self, rows: list[list[int]], position: list[int]) -> "list[np.ndarray[Any, Any]]":
        """Append ids to all rows in one batch. Returns the logits after the last id of each row, float32 [vocab], valid until
        the next call. position: of each row's first id.
        """
        import numpy as np

        batch, count, last = self._batch, 0, []
        for number, row in enumerate(rows):
            for place, token in enumerate(row):
                batch.token[count], batch.pos[count] = token, position[number] + place
                batch.n_seq_id[count], batch.seq_id[count][0] = 1, number
                batch.logits[count] = place == len(row) - 1
                count += 1
            last.append(count - 1)
        batch.n_tokens = count
        if self._library.llama_decode(self._context, batch) != 0:
            raise OlcError(f"llama.cpp cannot run a batch of {count} tokens", "lower --batch-size or --prompt-tokens")
        found = (self._library.llama_get_logits_ith(self._context, place) for place in last)
        return [np.ctypeslib.as_array(pointer, (self.vocab,)) for pointer in found]


def _threads() -> int:
    """As many as torch takes for olc: what OMP_NUM_THREADS says, else the physical cores that this process may use."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("OMP_NUM_THREADS") or min(psutil.cpu_count(logical=False) or allowed, allowed))
