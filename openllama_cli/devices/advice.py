"""From facts to problems: what is wrong, how severe it is, and what to type.

Every fix is a command or a flag that exists: tests/devices/test_advice.py parses each of them.
"""

import shlex
from collections.abc import Iterator

from openllama_cli.devices.machine.accelerators import cuda_kernels_run
from openllama_cli.devices.machine.cpu import FLOAT16
from openllama_cli.devices.machine.facts import DtypeResult, Facts, Problem, Severity
from openllama_cli.devices.planning.memory import auto_dtype, main_device
from openllama_cli.devices.planning.recommend import PROMPT, ModelPlan
from openllama_cli.models.catalogue import CATALOGUE
from openllama_cli.system.memory import size

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
_ON_CPU = f'`olc complete --device cpu "{PROMPT}"`'


def diagnose(facts: Facts, plan: ModelPlan | None = None, device: str = "auto") -> tuple[Problem, ...]:
    """Everything that is wrong, errors first. plan: of the named model. device: what `--device` says."""
    found = [
        *_torch(facts, device),
        *_nvidia(facts),
        *_gpus(facts),
        *_smoke(facts, plan, device),
        *_cpu(facts, device),
        *_memory(facts),
        *_parts(facts),
        *_hub(facts, plan),
        *(_model(plan) if plan is not None else ()),
    ]
    return tuple(sorted(found, key=lambda problem: _SEVERITIES.index(problem.severity)))


def has_device(facts: Facts, device: str) -> bool:
    """Whether `--device` names something that torch can use here."""
    return device in ("auto", "cpu") or main_device(facts, device) in {gpu.device for gpu in facts.accelerators}


def _torch(facts: Facts, device: str) -> Iterator[Problem]:
    if facts.torch.version is None:
        message = f"torch cannot be imported: {facts.torch.trouble}"
        yield Problem("error", "torch_broken", message, "`pip install --force-reinstall torch`")
    elif not has_device(facts, device):
        there = ", ".join(["cpu", *(gpu.device for gpu in facts.accelerators)])
        message = f"--device {device}: torch {facts.torch.version} does not see this device, only {there}"
        yield Problem("error", "device_missing", message, f'`olc complete --device auto "{PROMPT}"`')


def _nvidia(facts: Facts) -> Iterator[Problem]:
    """An NVIDIA GPU that the system has and torch cannot use."""
    nvidia, build = facts.nvidia, facts.torch
    if nvidia is None or build.version is None or any(gpu.device.startswith("cuda") for gpu in facts.accelerators):
        return
    name = nvidia.gpus[0] if nvidia.gpus else "an NVIDIA GPU"
    if nvidia.driver is None:
        message = f"{name} is installed, but its driver is not loaded"
        fix = "install NVIDIA's driver (https://www.nvidia.com/drivers); afterwards `nvidia-smi` lists the GPU"
        yield Problem("warning", "no_driver", message, fix)
    if build.kind != "cuda":
        message = f"{name} is installed, but torch {build.version} is built without CUDA, so olc uses the CPU"
        fix = "`pip install --force-reinstall torch` (for another CUDA version: https://pytorch.org/get-started/locally/)"
        yield Problem("warning", "torch_without_cuda", message, fix)
        return
    if nvidia.driver is None:
        return
    if _driver_too_old(facts):
        supports = f"supports CUDA up to {nvidia.cuda}" if nvidia.cuda else "is too old"
        message = f"the NVIDIA driver {nvidia.driver} {supports}, but torch {build.version} is built for CUDA {build.toolkit}"
        fix = f"update the driver (https://www.nvidia.com/drivers); until then {_ON_CPU}"
        yield Problem("warning", "driver_too_old", message, fix)
    elif "CUDA_VISIBLE_DEVICES" in facts.variables:
        message = f"CUDA_VISIBLE_DEVICES={facts.variables['CUDA_VISIBLE_DEVICES']} hides {name} from torch"
        yield Problem("warning", "gpu_hidden", message, "`unset CUDA_VISIBLE_DEVICES`")
    else:
        why = f" ({build.trouble})" if build.trouble else ""
        message = f"torch {build.version} is built for CUDA {build.toolkit}, but does not find a GPU{why}"
        yield Problem("warning", "gpu_not_found", message, f"check whether `nvidia-smi` does; until then {_ON_CPU}")


def _driver_too_old(facts: Facts) -> bool:
    """A driver supports every CUDA of its major version, and none of a later one."""
    assert facts.nvidia is not None, "there is a GPU"
    trouble = (facts.torch.trouble or "").lower()
    if "too old" in trouble or "driver version is insufficient" in trouble:
        return True
    driver, toolkit = facts.nvidia.cuda, facts.torch.toolkit
    return bool(driver and toolkit) and int(str(driver).split(".")[0]) < int(str(toolkit).split(".")[0])


def _gpus(facts: Facts) -> Iterator[Problem]:
    if facts.torch.kind != "cuda":
        return
    for gpu in facts.accelerators:
        if gpu.capability and not cuda_kernels_run(gpu.capability, facts.torch.arch_list):
            kernels = ", ".join(facts.torch.arch_list)
            message = (
                f"this torch ({kernels}) has no kernels for {gpu.device} ({gpu.name}, compute capability {gpu.capability})"
            )
            fix = f"{_ON_CPU}, or a torch with kernels for it: https://pytorch.org/get-started/previous-versions/"
            yield Problem("error", "gpu_not_supported", message, fix)


def _smoke(facts: Facts, plan: ModelPlan | None, device: str) -> Iterator[Problem]:
    """Dtypes with wrong results or none. An error if it is the one that a completion would use."""
    main = main_device(facts, device)
    used = plan.best.dtype if plan else auto_dtype("float16", facts, device)
    for where, measured in facts.measured.items():
        for dtype, result in measured.dtypes.items():
            if result.ok:
                continue
            severity: Severity = "error" if (where, dtype) == (main, used) else "warning"
            sound = next((name for name, other in measured.dtypes.items() if other.ok), None)
            fix = f'`olc complete --device {where} --dtype {sound} "{PROMPT}"`' if sound and "xpu" not in where else _ON_CPU
            yield Problem(severity, "wrong_results", f"{dtype} on {where}: {_symptom(result)}", fix)


def _symptom(result: DtypeResult) -> str:
    if result.error is not None:
        return f"torch does not support matmul ({result.error})"
    if not result.finite:
        return "a matmul gives NaN or infinite values"
    return f"a matmul has a relative error of {result.relative_error:.1%}"


def _cpu(facts: Facts, device: str) -> Iterator[Problem]:
    cpu, cores = facts.cpu, facts.cpu.usable_cores
    limited = f'`OMP_NUM_THREADS={cores} olc complete "{PROMPT}"`'
    variable = next((name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in facts.variables), None)
    if cpu.threads is not None and cpu.cpu_limit is not None and cpu.threads > cpu.cpu_limit + 0.99:
        message = (
            f"torch uses {cpu.threads} threads, but this container may use only {cpu.cpu_limit:g} processors, so they compete"
        )
        yield Problem("warning", "too_many_threads", message, limited)
    elif cpu.threads is not None and cpu.threads < cores and (variable or cpu.threads * 2 <= cores):
        reason = f", because {variable}={facts.variables[variable]}" if variable else ""
        message = f"torch uses {cpu.threads} of {cores} cores{reason}"
        yield Problem("warning", "too_few_threads", message, f"`unset {variable}`" if variable else limited)
    if cpu.architecture.lower() in ("x86_64", "amd64") and cpu.kernels == "DEFAULT":
        if "avx2" in cpu.instruction_sets and "ATEN_CPU_CAPABILITY" in facts.variables:
            message = f"ATEN_CPU_CAPABILITY={facts.variables['ATEN_CPU_CAPABILITY']} keeps torch from using AVX2"
            yield Problem("warning", "no_avx2", message, "`unset ATEN_CPU_CAPABILITY`")
        else:
            fix = f'expect low speed; the smallest OpenLLaMA is `olc complete -m 3b-v2 "{PROMPT}"`'
            yield Problem("warning", "no_avx2", f"{cpu.name} has no AVX2, so torch uses its slowest kernels", fix)
    if main_device(facts, device) == "cpu" and cpu.own_kernels is False:
        message = "olc's kernels for this processor were not compiled at installation: generation is half as fast without them"
        fix = "with a C compiler (AMX: GCC 12 or Clang 16), in olc's source folder: `pip install --force-reinstall --no-deps .`"
        yield Problem("warning", "no_kernels", message, fix)
    # olc's own kernels multiply float16 as fast as bfloat16.
    if main_device(facts, device) == "cpu" and cpu.threads is not None and not cpu.own_kernels:
        yield from _float16(facts)


def _float16(facts: Facts) -> Iterator[Problem]:
    best = auto_dtype("float16", facts, "cpu")
    results = facts.measured["cpu"].dtypes if "cpu" in facts.measured else {}
    speeds = {name: results[name].prefill_gflop_per_s for name in ("float16", best) if name in results}
    half, other = speeds.get("float16"), speeds.get(best)
    fix = f"use `--dtype auto`, which computes in {best} here"
    if half and other:
        if other > 3 * half:
            message = f"torch's float16 matmul takes {other / half:.0f} times as long as {best} on this processor"
            yield Problem("info", "float16_slow", message, fix)
    elif not FLOAT16 & set(facts.cpu.instruction_sets):
        message = "this processor has no float16 arithmetic, so torch's float16 matmul is slow"
        yield Problem("info", "float16_slow", message, fix)


def _memory(facts: Facts) -> Iterator[Problem]:
    cpu = facts.cpu
    if cpu.memory_limit is None or cpu.memory_left is None:
        return
    message = f"this container is limited to {size(cpu.memory_limit)} of the machine's {size(cpu.memory_total)} of memory"
    if cpu.memory_left < cpu.memory_available:
        message += f", and has {size(cpu.memory_left)} left; Transformers assumes {size(cpu.memory_available)}"
        fix = "check whether a model fits before loading it: `olc devices --model 3b-v2`"
        yield Problem("warning", "container_memory", message, fix)


def _parts(facts: Facts) -> Iterator[Problem]:
    for check in facts.checks:
        if check.ok:
            continue
        if check.name == "sentencepiece":
            message = f"the tokenizer library does not work: {check.detail}"
            yield Problem("error", "tokenizer_broken", message, "`pip install --force-reinstall sentencepiece`")
        elif check.name == "protobuf":
            message = f"protobuf, which `olc tokenize --check` needs, does not work: {check.detail}"
            yield Problem("warning", "protobuf_broken", message, "`pip install --force-reinstall protobuf`")
        else:
            message = f"the built-in demo model cannot be used: {check.detail}"
            fix = f'`pip install --force-reinstall openllama-cli`, or `olc complete -m 3b-v2 "{PROMPT}"`'
            yield Problem("warning", "demo_broken", message, fix)


def _hub(facts: Facts, plan: ModelPlan | None) -> Iterator[Problem]:
    """The model cache and the network. An error only if the named model is not downloaded yet."""
    cache = facts.cache
    known = plan.known if plan is not None and plan.known.path is None else None
    severity: Severity = "error" if known else "warning"
    name = known.name if known else "3b-v2"
    elsewhere = f"`HF_HOME=~/models olc models pull {shlex.quote(name)}`, with a writable folder"
    needed = known.download_bytes if known else min(entry.download_bytes for entry in CATALOGUE.values() if entry.shape)
    if not cache.writable:
        yield Problem(severity, "cache_not_writable", f"the model cache {cache.path} is not writable", elsewhere)
    elif cache.free_bytes is not None and cache.free_bytes < needed * 1.02:
        message = f"{size(cache.free_bytes)} are free in the model cache ({cache.path}), but {name} needs {size(needed)}"
        fix = f"`HF_HOME=~/models olc models pull {shlex.quote(name)}`, with a folder on a larger disk"
        if cache.largest is not None:
            fix = f"`olc models rm {shlex.quote(cache.largest[0])}` frees {size(cache.largest[1])}; or {fix}"
        yield Problem(severity, "disk_nearly_full", message, fix)
    for repo_id in cache.incomplete:
        message = f"{repo_id} is incomplete in the cache: a download did not finish"
        yield Problem("warning", "model_incomplete", message, f"`olc models pull {shlex.quote(repo_id)}`")
    if cache.offline is not None:
        message = f"{cache.offline} is set: only cached models can be used"
        if known:
            message = f"{cache.offline} is set, but {name} is not in the cache"
        yield Problem("error" if known else "info", "hub_offline", message, f"`unset {cache.offline}`")


def _model(plan: ModelPlan) -> Iterator[Problem]:
    """The named model, if it does not fit completely."""
    best, name = plan.best, plan.known.name
    smaller = f'`olc complete -m {plan.smaller} "{PROMPT}"`'
    if best.verdict == "does_not_fit":
        yield Problem("error", "memory_too_small", f"{name} in {best.dtype} {best.verdict_text}", smaller)
    elif best.verdict == "fits_with_disk":
        message = f"{name} in {best.dtype} {best.verdict_text}: they are read again for every token, which takes seconds"
        yield Problem("warning", "layers_on_disk", message, smaller)
    elif best.verdict == "fits_in_part":
        tokens = f"{best.tokens:,} of {plan.known.shape.context:,} tokens of context"
        message = f"only {tokens} fit next to the weights of {name} in {best.dtype}"
        yield Problem("warning", "context_cut", message, smaller)
    elif best.verdict == "fits_with_cpu":
        message = f"{name} in {best.dtype} {best.verdict_text}: they are copied to {best.main_device} for every token"
        fix = f'a smaller model is faster: `olc complete -m {plan.smaller or "3b-v2"} "{PROMPT}"`'
        yield Problem("warning", "layers_on_cpu", message, fix)
