"""`olc devices`: what this machine can run, what is wrong with it, and what to type."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.options import device_option
from openllama_cli.models.spec import ModelSpec
from openllama_cli.terminal.progress import TerminalProgress
from openllama_cli.terminal.streams import is_terminal, out, out_json
from openllama_cli.terminal.tables import fields, size, table
from openllama_cli.terminal.views.findings import show_findings

if TYPE_CHECKING:
    from openllama_cli.devices.machine.facts import Accelerator, Cache, Cpu, DtypeResult, Facts
    from openllama_cli.devices.planning.memory import DtypePlan
    from openllama_cli.devices.planning.recommend import ModelPlan
    from openllama_cli.devices.report import Report

EXAMPLES = """
Examples:

\b
  olc devices
  olc devices --quick
  olc devices --model 7b-v2
  olc devices --model ./llama-7b --device cuda
  olc devices --json | jq -r '.problems[] | .message, .fix'
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "-m",
    "--model",
    metavar="MODEL",
    help="Plan this model too: alias (3b-v2), folder, or Hub id that is cached.",
    shell_complete=suggest.models,
)
@device_option
@click.option("--quick", is_flag=True, help="Measure nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def command(ctx: click.Context, model: str | None, device: str, quick: bool, as_json: bool) -> None:
    """Show what this machine can run, what is wrong with it, and what to type.

    Tests every device in every type: a matrix product against float64, its speed for prompts (64 rows) and for single tokens
    (decode), and the bandwidth of the memory. --device tests that one only.

    With --model: where `device_map="auto"` would put each layer, weights and KV cache against the free memory, and the command
    that runs the model best here. Nothing is downloaded. Exit code 1 if a problem would stop a completion.

    --json: {"versions", "devices", "backends", "checks", "cache", "model",
    "problems": [{"severity", "code", "message", "fix"}]}.
    """
    ModelSpec(model=model, device=device)  # A wrong option is said before torch is imported.
    from openllama_cli.devices.advice import stops
    from openllama_cli.devices.machine.probe import MachineProbe
    from openllama_cli.devices.report import document, examine

    progress = TerminalProgress()
    # `--quantize` counts once model options have it.
    quantize = "quantize" in {field.name for field in dataclasses.fields(ModelSpec)}
    report = examine(MachineProbe(), model=model, device=device, measure=not quick, quantize=quantize, progress=progress)
    if as_json:
        out_json(document(report))
    else:
        _show(report)
    ctx.exit(1 if stops(report.problems) else 0)


def _show(report: "Report") -> None:
    """The report for people."""
    facts = report.facts
    fields(_versions(facts))
    _gap()
    fields(_machine(facts))
    if facts.accelerators:
        _gap()
        rows = [_accelerator(gpu, facts) for gpu in facts.accelerators]
        table(("device", "name", "free", "memory", "bandwidth", "capability"), rows, right=("free", "memory", "bandwidth"))
    if facts.measured:
        _gap()
        _speeds(facts)
    if report.plan is not None:
        _gap()
        _model(report.plan)
    _gap()
    if report.problems:
        show_findings([(one.severity, one.code, one.message, one.fix) for one in report.problems])
    elif is_terminal(sys.stdout):
        out("no problems found\n", style="green")


def _gap() -> None:
    out("\n")


def _versions(facts: "Facts") -> list[tuple[str, str]]:
    """Versions: a line each in a pipe, together on a terminal."""
    known = [(name.replace("_", " "), version or "not installed") for name, version in facts.versions.items()]
    known = [(name, version) for name, version in known if (name, version) != ("driver", "not installed")]
    if not is_terminal(sys.stdout):
        return known
    return [("versions", ", ".join(f"{name} {version}" for name, version in known))]


def _machine(facts: "Facts") -> list[tuple[str, str]]:
    cpu, cache = facts.cpu, facts.cache
    memory = f"{size(cpu.memory_available)} of {size(cpu.memory_total)} free"
    if cpu.memory_limit is not None:
        memory += f"; this container: {size(cpu.memory_left or 0)} of {size(cpu.memory_limit)}"
    bandwidth = facts.measured["cpu"].bandwidth_gb_per_s if "cpu" in facts.measured else None
    if bandwidth is not None:
        memory += f", read at {bandwidth:.0f} GB/s"
    return [
        ("processor", cpu.name),
        ("cores", _cores(cpu)),
        ("instructions", ", ".join(cpu.instruction_sets) or "none that speed up matrix products"),
        *_kernels(cpu),
        ("memory", memory),
        ("distributed", ", ".join(name for name, there in facts.backends.items() if there) or "no backend"),
        *((check.name, check.detail if check.ok else f"broken: {check.detail}") for check in facts.checks),
        ("models", _cache(cache)),
        ("Hub", _hub(cache)),
    ]


def _kernels(cpu: "Cpu") -> list[tuple[str, str]]:
    if cpu.own_kernels is None:
        return []
    return [("kernels", "olc's own, for AMX" if cpu.own_kernels else "torch's, since olc's own are not compiled")]


def _cores(cpu: "Cpu") -> str:
    words = f"{cpu.physical_cores} physical, {cpu.logical_cores} logical"
    if cpu.allowed_cores < cpu.logical_cores:
        words += f", {cpu.allowed_cores} allowed"
    if cpu.cpu_limit is not None:
        words += f", a container's limit of {cpu.cpu_limit:g}"
    return words if cpu.threads is None else f"{words}; torch uses {cpu.threads} threads"


def _cache(cache: "Cache") -> str:
    count = "1 model" if cache.models == 1 else f"{cache.models or 'no'} models"
    free = f", {size(cache.free_bytes)} free" if cache.free_bytes is not None else ""
    return f"{count} in {cache.path}{free}{'' if cache.writable else ', not writable'}"


def _hub(cache: "Cache") -> str:
    token = {None: "no token", "saved": "a saved token"}.get(cache.token, f"a token in {cache.token}")
    return f"{cache.endpoint}, {token}" + (f", offline ({cache.offline})" if cache.offline else "")


def _accelerator(gpu: "Accelerator", facts: "Facts") -> Sequence[str]:
    bandwidth = facts.measured[gpu.device].bandwidth_gb_per_s if gpu.device in facts.measured else None
    speed = f"{bandwidth:.0f} GB/s" if bandwidth is not None else ""
    return gpu.device, gpu.name, size(gpu.memory_free), size(gpu.memory_total), speed, gpu.capability or ""


def _speeds(facts: "Facts") -> None:
    """Every device in every type."""
    rows = [
        (device, dtype, _outcome(result), *_figures(result))
        for device, measured in facts.measured.items()
        for dtype, result in measured.dtypes.items()
    ]
    columns = ("device", "type", "result", "error", "prefill", "decode", "decode by oneDNN")
    table(columns, rows, right=columns[3:], optional=("decode by oneDNN", "error"))


def _outcome(result: "DtypeResult") -> str:
    if result.ok:
        return "right"
    return result.error or ("wrong" if result.finite else "NaN")


def _figures(result: "DtypeResult") -> tuple[str, str, str, str]:
    """Error, prefill, decode in the faster way (which olc takes), and by oneDNN (which torch takes on a CPU)."""
    speeds = [speed for speed in (result.decode_gb_per_s, result.decode_plain_gb_per_s) if speed is not None]
    by_onednn = result.decode_gb_per_s if result.decode_plain_gb_per_s is not None else None
    return (
        f"{result.relative_error:.0e}" if result.relative_error is not None else "",
        f"{result.prefill_gflop_per_s:.0f} GFLOP/s" if result.prefill_gflop_per_s is not None else "",
        f"{max(speeds):.1f} GB/s" if speeds else "",
        f"{by_onednn:.1f} GB/s" if by_onednn is not None else "",
    )


def _model(plan: "ModelPlan") -> None:
    shape = plan.known.shape
    state = str(plan.known.path) if plan.known.path else f"not downloaded ({size(plan.known.download_bytes)})"
    pairs = [
        ("model", f"{plan.known.name}, {shape.parameters() / 1e9:.2f} B parameters in {shape.layers} layers, {state}"),
        ("KV cache", f"a row is one of a batch with the whole context, {shape.context:,} tokens; rows: how many of them fit"),
    ]
    fields(pairs)
    _gap()
    columns = ("type", "weights", "KV/token", "KV/row", "rows", "tokens/s", "verdict")
    rows = [_dtype(dtype) for dtype in plan.dtypes]
    table(columns, rows, right=columns[1:-1], optional=("tokens/s", "KV/token", "rows"))
    _gap()
    _placement(plan)
    _gap()
    lines = [("first", plan.first)] if plan.first else []
    lines.append(("run", plan.command or "nothing: it does not fit"))
    if plan.faster:
        lines.append(("faster (8 bits)", plan.faster))
    if plan.smaller:
        lines.append(("smaller", f"{plan.smaller} fits"))
    fields(lines)


def _dtype(plan: "DtypePlan") -> Sequence[str]:
    speed = f"≤ {plan.tokens_per_s_at_most:.3g}" if plan.tokens_per_s_at_most is not None else ""
    cells = (size(plan.weights_bytes), size(plan.cache_bytes_per_token), size(plan.cache_bytes_per_row))
    return plan.dtype, *cells, str(plan.rows), speed, plan.verdict_text


def _placement(plan: "ModelPlan") -> None:
    """Which parts go where in the best type, neighbors on the same device in one line."""
    runs: list[list[str]] = []
    for part in plan.best.parts:
        if part.module == "model.rotary_emb":  # A table of a hundred numbers.
            continue
        if not runs or runs[-1][0] != part.device:
            runs.append([part.device])
        runs[-1].append(part.module.removeprefix("model."))
    loads = {load.device: load for load in plan.best.devices}
    rows = []
    for device, *modules in runs:
        load = loads.pop(device, None)
        cells = ("", "", "") if load is None else (size(load.weights_bytes), size(load.cache_bytes), _free(load.free_bytes))
        rows.append((device, _modules(modules), *cells))
    columns = (f"{plan.best.dtype} on", "parts", "weights", "KV/row", "free")
    table(columns, rows, right=columns[2:])


def _free(count: int | None) -> str:
    return "" if count is None else size(count)


def _modules(names: Sequence[str]) -> str:
    """ "embed_tokens, layers 0-11, norm, lm_head"."""
    layers = [name.removeprefix("layers.") for name in names if name.startswith("layers.")]
    words = []
    for name in names:
        if not name.startswith("layers."):
            words.append(name)
        elif name == f"layers.{layers[0]}":
            words.append(f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]}-{layers[-1]}")
    return ", ".join(words)
