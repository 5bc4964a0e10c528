"""From a batch's model and options to a Ray cluster at work: what `olc batch --engine ray` does in place of loading a model."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from openllama_cli.batch.ray.options import RayOptions, plan_workers, worker_bytes
from openllama_cli.batch.ray.worker import Setup
from openllama_cli.errors import UsageError
from openllama_cli.models.spec import ModelSpec

if TYPE_CHECKING:
    from openllama_cli.batch.output.lines import Results
    from openllama_cli.batch.ray.engine import RayRunner
    from openllama_cli.models.checkpoint.inspect import Checkpoint
    from openllama_cli.models.spec import ModelFolder


@dataclass(frozen=True)
class RayModel:
    """The driver's model, whose files every worker must have. spec: as it was asked for here. fingerprint: of its files."""

    folder: "ModelFolder"
    checkpoint: "Checkpoint"
    spec: ModelSpec
    fingerprint: Mapping[str, Any]
    tokenizer_sha256: str

    def setup(self, batch_size: int | None, positions: int, share: int) -> Setup:
        """What a worker is told; see `Setup`."""
        return Setup(
            spec=self._worker_spec(),
            model=self.folder.name,
            fingerprint=self.fingerprint,
            tokenizer_sha256=self.tokenizer_sha256,
            batch_size=batch_size,
            positions=positions,
            share=share,
        )

    def _worker_spec(self) -> ModelSpec:
        """The same model by a name that means the same elsewhere: a whole path, or a Hub id and its commit, from the cache."""
        folder = self.folder
        if folder.origin == "hub":
            return replace(self.spec, model=folder.repo_id, revision=folder.revision, offline=True)
        model = "demo" if folder.origin == "demo" else str(folder.path.absolute())
        return replace(self.spec, model=model, revision=None, offline=True)


@contextlib.contextmanager
def open_runner(
    options: RayOptions,
    model: RayModel,
    *,
    batch_size: int | None,
    positions: int,
    rows: int,
    results: "Results",
    stopping: Callable[[], bool],
    notice: Callable[[str], None],
) -> Iterator["RayRunner"]:
    """Join or start a cluster and decide how many workers it gets; they start when the runner runs, and end with the context.

    batch_size: rows side by side in a worker; None for as many as fit. positions: of the longest row. rows: left to do.
    results, stopping, notice: as in `runner.Runner`. Raises OlcError where there is no cluster, UsageError for --device cuda:N.
    """
    if re.fullmatch(r"cuda:[0-9]+", model.spec.device):
        raise UsageError(
            f"--device {model.spec.device} with --engine ray: Ray gives each worker its own GPU", "use --device cuda or auto"
        )
    from openllama_cli.batch.ray.cluster import connect

    with connect(options) as nodes:
        from openllama_cli.batch.ray.engine import RayRunner

        memory = worker_bytes(model.checkpoint.parameters, model.spec.dtype)
        plan = plan_workers(nodes, options.workers, memory, gpu=model.spec.device in ("auto", "cuda"))
        setup = model.setup(batch_size, positions, plan.per_node)
        runner = RayRunner(setup, plan, rows, results, stopping=stopping, notice=notice)
        where = f"at {options.address}" if options.address else "on this machine"
        each = f"{plan.gpus} GPU" if plan.gpus else f"{plan.cpus} CPU"
        notice(f"Ray {where}: starting {runner.wanted} worker{'s' * (runner.wanted > 1)} ({each} each)")
        with contextlib.closing(runner):
            yield runner
