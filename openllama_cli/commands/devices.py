"""`olc devices`: what this machine can run, what is wrong with it, and how to fix it."""

import sys
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import click

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.options import device_option
from openllama_cli.models.spec import ModelSpec
from openllama_cli.system.memory import size
from openllama_cli.terminal.figures import count
from openllama_cli.terminal.progress import TerminalProgress
from openllama_cli.terminal.streams import is_terminal, out, out_json
from openllama_cli.terminal.tables import fields, table
from openllama_cli.terminal.views.findings import show_findings

if TYPE_CHECKING:
    from openllama_cli.devices.machine.facts import Cpu, DtypeResult, Facts
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
    help="Also plan this model: an alias (3b-v2), a folder or GGUF file, or a cached Hub id.",
    shell_complete=suggest.models,
)
@device_option
@click.option("--quick", is_flag=True, help="Skip the measurements.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def command(ctx: click.Context, model: str | None, device: str, quick: bool, as_json: bool) -> None:
    """Show what this machine can run, what is wrong with it, and how to fix it.

    Tests every device in every dtype: matmul against float64, its speed in prefill (64 rows) and decode (one row), and the
    memory bandwidth. --device tests only that device.

    With --model: where `device_map="auto"` would put each layer, weights and KV cache against the free memory, and the command
    that runs the model best here. Nothing is downloaded. The exit code is 1 if a problem would stop a completion.

    --json: {"versions", "devices", "backends", "checks", "cache", "model",
    "problems": [{"severity", "code", "message", "fix"}]}.
    """
    ModelSpec(model=model, device=device)  # A wrong option fails before torch is imported.
    from openllama_cli.devices.machine.probe import MachineProbe
    from openllama_cli.devices.report import document, examine
    from openllama_cli.models.hub.environment import check_seconds

    check_seconds()
    report = examine(MachineProbe(), model=model, device=device, measure=not quick, progress=TerminalProgress())
    if as_json:
        out_json(document(report))
    else:
        _show(report)
    ctx.exit(1 if any(problem.severity == "error" for problem in report.problems) else 0)


def _show(report: "Report") -> None:
    """The report for people."""
    facts = report.facts
    there = {name: version for name, version in facts.versions.items() if version or name != "driver"}
    versions = [(name.replace("_", " "), version or "not installed") for name, version in there.items()]
    # A line per version in a pipe, one line on a terminal.
    in_one = [("versions", ", ".join(f"{name} {version}" for name, version in versions))]
    fields(in_one if is_terminal(sys.stdout) else versions)
    out("\n")
    fields(_machine(facts))
    if facts.accelerators:
        rows = [
            (
                gpu.device,
                gpu.name,
                size(gpu.memory_free),
                size(gpu.memory_total),
                _bandwidth(facts, gpu.device),
                gpu.capability or "",
            )
            for gpu in facts.accelerators
        ]
        out("\n")
        table(("device", "name", "free", "memory", "bandwidth", "capability"), rows, right=("free", "memory", "bandwidth"))
    if facts.measured:
        results = [
            (device, dtype, *_measurement(result))
            for device, measured in facts.measured.items()
            for dtype, result in measured.dtypes.items()
        ]
        columns = ("device", "type", "result", "error", "prefill", "decode", "decode by oneDNN")
        out("\n")
        table(columns, results, right=columns[3:], optional=("decode by oneDNN", "error"))
    if report.plan is not None:
        out("\n")
        _show_plan(report.plan)
    out("\n")
    if report.problems:
        show_findings([(one.severity, one.code, one.message, one.fix) for one in report.problems])
    elif is_terminal(sys.stdout):
        out("no problems found\n", style="green")


def _machine(facts: "Facts") -> list[tuple[str, str | None]]:
    cpu, cache = facts.cpu, facts.cache
    cores = f"{cpu.physical_cores} physical, {cpu.logical_cores} logical"
    if cpu.allowed_cores < cpu.logical_cores:
        cores += f", {cpu.allowed_cores} allowed"
    if cpu.cpu_limit is not None:
        cores += f", container limit {cpu.cpu_limit:g}"
    if cpu.threads is not None:
        cores += f"; torch uses {cpu.threads} threads"
    memory = f"{size(cpu.memory_available)} of {size(cpu.memory_total)} free"
    if cpu.memory_limit is not None:
        memory += f"; this container: {size(cpu.memory_left or 0)} of {size(cpu.memory_limit)}"
    if bandwidth := _bandwidth(facts, "cpu"):
        memory += f", read at {bandwidth}"
    models = "1 model" if cache.models == 1 else f"{cache.models or 'no'} models"
    free = f", {size(cache.free_bytes)} free" if cache.free_bytes is not None else ""
    token = {None: "no token", "saved": "a saved token"}.get(cache.token, f"a token in {cache.token}")
    return [
        ("processor", cpu.name),
        ("cores", cores),
        ("instructions", ", ".join(cpu.instruction_sets) or "none that speed up matmul"),
        ("kernels", _kernels(cpu)),
        ("memory", memory),
        ("distributed", ", ".join(name for name, there in facts.backends.items() if there) or "no backend"),
        *((check.name, check.detail if check.ok else f"broken: {check.detail}") for check in facts.checks),
        ("models", f"{models} in {cache.path}{free}{'' if cache.writable else ', not writable'}"),
        ("Hub", f"{cache.endpoint}, {token}" + (f", offline ({cache.offline})" if cache.offline else "")),
    ]


def _kernels(cpu: "Cpu") -> str | None:
    """Whose kernels multiply on the processor; None where that is not known."""
    if cpu.own_kernels is None:
        return "torch's: olc's own need Linux on x86 with AVX2 and torch 2.11" if cpu.threads is not None else None
    return f"olc's own, for {cpu.tier}" if cpu.own_kernels else "torch's: olc's own are not compiled"


def _bandwidth(facts: "Facts", device: str) -> str:
    measured = facts.measured.get(device)
    return "" if measured is None or measured.bandwidth_gb_per_s is None else f"{measured.bandwidth_gb_per_s:.0f} GB/s"


def _measurement(result: "DtypeResult") -> tuple[str, ...]:
    """Result, error, prefill, decode in the faster way (which olc uses), and by oneDNN (which torch uses on a CPU)."""
    speeds = [speed for speed in (result.decode_gb_per_s, result.decode_plain_gb_per_s) if speed is not None]
    by_onednn = result.decode_gb_per_s if result.decode_plain_gb_per_s is not None else None
    return (
        "right" if result.ok else result.error or ("wrong" if result.finite else "NaN"),
        f"{result.relative_error:.0e}" if result.relative_error is not None else "",
        f"{result.prefill_gflop_per_s:.0f} GFLOP/s" if result.prefill_gflop_per_s is not None else "",
        f"{max(speeds):.1f} GB/s" if speeds else "",
        f"{by_onednn:.1f} GB/s" if by_onednn is not None else "",
    )


def _show_plan(plan: "ModelPlan") -> None:
    known, shape = plan.known, plan.known.shape
    state = str(known.path) if known.path else f"not downloaded ({size(known.download_bytes)})"
    fields(
        [
            ("model", f"{known.name}, {count(shape.parameters())} parameters in {shape.layers} layers, {state}"),
            ("KV cache", f"per row at full context, {shape.context:,} tokens; rows: how many such rows of a batch fit"),
        ]
    )
    out("\n")
    columns: Sequence[str] = ("type", "weights", "KV/token", "KV/row", "rows", "tokens/s", "verdict")
    rows = [_dtype(dtype) for dtype in plan.dtypes]
    if not any(dtype.tokens_per_s_at_most for dtype in plan.dtypes):  # Without measurements there are none.
        place = columns.index("tokens/s")
        columns = [*columns[:place], *columns[place + 1 :]]
        rows = [[*row[:place], *row[place + 1 :]] for row in rows]
    table(columns, rows, right=columns[1:-1], optional=[name for name in ("tokens/s", "KV/token", "rows") if name in columns])
    out("\n")
    columns = (f"{plan.best.dtype} on", "parts", "weights", "KV/row", "free")
    table(columns, _placement(plan), right=columns[2:])
    out("\n")
    fields(
        [
            ("first", plan.first),
            ("run", plan.command or "nothing: it does not fit"),
            ("faster (8 bits)", plan.faster),
            ("smaller", f"{plan.smaller} fits" if plan.smaller else None),
        ],
        commands=("first", "run", "faster (8 bits)"),
    )


def _dtype(plan: "DtypePlan") -> Sequence[str]:
    speed = f"≤ {plan.tokens_per_s_at_most:.3g}" if plan.tokens_per_s_at_most is not None else ""
    cells = (size(plan.weights_bytes), size(plan.cache_bytes_per_token), size(plan.cache_bytes_per_row))
    return plan.dtype, *cells, str(plan.rows), speed, plan.verdict_text


def _placement(plan: "ModelPlan") -> list[Sequence[str]]:
    """Which parts go where in the best dtype; neighbors on the same device share a row."""
    loads = {load.device: load for load in plan.best.devices}
    rows: list[Sequence[str]] = []
    parts = [part for part in plan.best.parts if part.module != "model.rotary_emb"]  # A table of a hundred numbers.
    for device, neighbors in groupby(parts, key=lambda part: part.device):
        names = _names([part.module.removeprefix("model.") for part in neighbors])
        load = loads.pop(device, None)
        held = (None, None, None) if load is None else (load.weights_bytes, load.cache_bytes, load.free_bytes)
        rows.append((device, names, *("" if count is None else size(count) for count in held)))
    return rows


def _names(modules: Sequence[str]) -> str:
    """ "embed_tokens, layers 0-11, norm, lm_head"."""
    layers = [name.removeprefix("layers.") for name in modules if name.startswith("layers.")]
    words = [name for name in modules if not name.startswith("layers.") or name == f"layers.{layers[0]}"]
    span = "" if not layers else f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]}-{layers[-1]}"
    return ", ".join(span if name.startswith("layers.") else name for name in words)
