"""Problems of machines that we do not have: what is said, how bad it is, and nothing where nothing is wrong.

Every fix can be typed: its commands parse, and their flags exist.
"""

import functools
import re
import shlex
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import click
import pytest

from openllama_cli import cli
from openllama_cli.devices import advice
from openllama_cli.devices.advice import diagnose
from openllama_cli.devices.machine.facts import Check, DtypeResult, Facts, Nvidia, Problem, TorchBuild
from openllama_cli.devices.planning.placement import look_up
from openllama_cli.devices.planning.recommend import plan_model
from openllama_cli.models.spec import ModelSpec
from tests.support.machines import CACHE, CHECKS, CPU, CPU_BUILD, CUDA_BUILD, GB, OLD_CPU, facts, gpu, measurement, mps
from tests.support.raising import parse

TESLA = Nvidia("470.256", "11.4", ("Tesla T4",))
NEW = Nvidia("570.86", "12.8", ("NVIDIA GeForce RTX 3090",))
NAN = DtypeResult(False, None, False)
WRONG = DtypeResult(False, 0.31, True)
REFUSED = DtypeResult(False, error="BFloat16 is not supported on MPS")
TOO_OLD = TorchBuild("2.13.0", "cuda", "12.8", (), "The NVIDIA driver on your system is too old (found version 11040).")
WITHOUT_FLOAT16 = changed(CPU, instruction_sets=("avx2", "avx512", "avx512_bf16", "avx512_fp16"))


Case = tuple[Facts, tuple[str, ...], str | None, str]


def processor(**changes: Any) -> Facts:
    """A sound machine without a GPU, but for these changes of it and of its processor."""
    of_cpu = {name: changes.pop(name) for name in changes.keys() & WITHOUT_FLOAT16.__dict__}
    return facts(cpu=changed(WITHOUT_FLOAT16, **of_cpu), **changes)


def cached(**changes: Any) -> Facts:
    """A sound machine with a GPU, but for these changes of its cache."""
    return facts(gpu(free=24), cache=changed(CACHE, **changes))


def measured(**results: DtypeResult) -> Facts:
    """A machine with a GPU that computes this in these types."""
    return facts(gpu(free=24), measured={"cuda:0": measurement(**results)})


def case(machine: Facts, *problems: str, model: str | None = None, device: str = "auto") -> Case:
    """A machine, the problems that are found, as "severity code", and what is asked of it."""
    return machine, problems, model, device


MACHINES = {
    "sound GPU": case(facts(gpu(free=24))),
    "sound GPU and model": case(facts(gpu(free=24)), model="7b"),
    "sound processor": case(processor()),
    "Apple": case(facts(mps(), cpu=OLD_CPU, torch=TorchBuild("2.13.0", "metal")), model="3b"),
    "processor without float16": case(facts(), "info float16_slow"),
    "torch broken": case(
        facts(torch=TorchBuild(None, trouble="ImportError: libtorch_cpu.so: no such file"), cpu=changed(CPU, threads=None)),
        "error torch_broken",
    ),
    "CPU build beside a GPU": case(processor(nvidia=NEW), "warning torch_without_cuda"),
    "CPU build, GPU asked for": case(
        processor(nvidia=NEW), "error device_missing", "warning torch_without_cuda", device="cuda"
    ),
    "GPU without driver": case(processor(nvidia=Nvidia(None, None, ())), "warning no_driver", "warning torch_without_cuda"),
    "GPU without driver, CUDA build": case(processor(torch=CUDA_BUILD, nvidia=Nvidia(None, None, ())), "warning no_driver"),
    "old driver by its CUDA": case(processor(torch=changed(CUDA_BUILD, arch_list=()), nvidia=TESLA), "warning driver_too_old"),
    "old driver in torch's words": case(processor(torch=TOO_OLD, nvidia=Nvidia("470.256", None, ())), "warning driver_too_old"),
    "driver of the same major version": case(facts(gpu(free=24), nvidia=Nvidia("525.60", "12.0", ("Tesla T4",)))),
    "hidden GPU": case(processor(torch=CUDA_BUILD, nvidia=NEW, variables={"CUDA_VISIBLE_DEVICES": ""}), "warning gpu_hidden"),
    "GPU that torch does not find": case(processor(torch=CUDA_BUILD, nvidia=NEW), "warning gpu_not_found"),
    "CUDA build without any GPU": case(processor(torch=CUDA_BUILD)),
    "GPU too old for this torch": case(facts(gpu(free=11, capability="3.7")), "error gpu_not_supported"),
    "GPU number that is not there": case(facts(gpu(free=24)), "error device_missing", device="cuda:1"),
    "NaN in the type in use": case(measured(float16=NAN), "error wrong_results"),
    "wrong in a type that is not used": case(measured(bfloat16=WRONG), "warning wrong_results"),
    "a type that the device refuses": case(
        facts(mps(), torch=TorchBuild("2.13.0", "metal"), measured={"mps": measurement(bfloat16=REFUSED)}),
        "warning wrong_results",
    ),
    "wrong in every type": case(
        measured(float32=WRONG, float16=WRONG, bfloat16=WRONG), "error wrong_results", *["warning wrong_results"] * 2
    ),
    "float16 measured slow": case(
        facts(measured={"cpu": measurement(float16=DtypeResult(True, 0.0001, True, 64, 30.0, 20.0, 20.0))}), "info float16_slow"
    ),
    "float16 measured quick": case(facts(measured={"cpu": measurement()})),
    "OMP_NUM_THREADS": case(processor(threads=1, variables={"OMP_NUM_THREADS": "1"}), "warning too_few_threads"),
    "few threads without a reason": case(processor(threads=2), "warning too_few_threads"),
    "threads beyond the container's": case(processor(threads=8, cpu_limit=2.0), "warning too_many_threads"),
    "threads as the container grants": case(processor(threads=2, cpu_limit=1.5)),
    "no AVX2": case(processor(instruction_sets=("avx512_fp16",), kernels="DEFAULT"), "warning no_avx2"),
    "kernels not compiled": case(processor(own_kernels=False), "warning no_kernels"),
    "kernels not compiled, where a GPU computes": case(facts(gpu(free=24), cpu=changed(WITHOUT_FLOAT16, own_kernels=False))),
    "AVX2 switched off": case(processor(kernels="DEFAULT", variables={"ATEN_CPU_CAPABILITY": "default"}), "warning no_avx2"),
    "Arm": case(processor(architecture="aarch64", kernels="DEFAULT", instruction_sets=("neon", "fp16"))),
    "container with less memory": case(processor(memory_limit=8 * GB, memory_left=7 * GB), "warning container_memory"),
    "container with memory enough": case(processor(memory_limit=63 * GB, memory_left=62 * GB)),
    "tokenizer library broken": case(
        facts(gpu(free=24), checks=(Check("sentencepiece", False, "ImportError: …"), *CHECKS[1:])), "error tokenizer_broken"
    ),
    "protobuf and demo broken": case(
        facts(gpu(free=24), checks=(CHECKS[0], Check("protobuf", False, "x"), Check("demo model", False, "y"))),
        "warning protobuf_broken",
        "warning demo_broken",
    ),
    "cache not writable": case(cached(writable=False), "warning cache_not_writable"),
    "cache not writable, download needed": case(cached(writable=False), "error cache_not_writable", model="7b"),
    "disk nearly full": case(cached(free_bytes=2 * GB), "warning disk_nearly_full"),
    "disk too small for this one": case(
        cached(free_bytes=9 * GB, models=1, largest=("org/other", 8 * GB)), "error disk_nearly_full", model="7b"
    ),
    "disk small, model here": case(cached(free_bytes=9 * GB), model="demo"),
    "download that did not end": case(cached(incomplete=("org/half",)), "warning model_incomplete"),
    "offline": case(cached(offline="HF_HUB_OFFLINE"), "info hub_offline"),
    "offline, download needed": case(cached(offline="HF_HUB_OFFLINE"), "error hub_offline", model="7b"),
    "memory too small": case(facts(gpu(free=6)), "error memory_too_small", model="7b", device="cuda"),
    "layers on the CPU": case(facts(gpu(free=11)), "warning layers_on_cpu", model="7b"),
    "layers on disk": case(processor(memory_available=6 * GB), "warning layers_on_disk", model="13b"),
    "context cut": case(facts(gpu(0, free=11), gpu(1, free=10.5)), "warning context_cut", model="13b"),
}


@functools.cache
def problems(name: str) -> tuple[Problem, ...]:
    machine, _, model, device = MACHINES[name]
    return diagnose(machine, plan_model(look_up(model), machine, device) if model else None, device)


@pytest.mark.parametrize("name", MACHINES)
def test_the_problems_of_a_machine(name: str) -> None:
    found = problems(name)
    assert tuple(f"{problem.severity} {problem.code}" for problem in found) == MACHINES[name][1]
    for problem in found:
        assert problem.message
        assert "\n" not in problem.message + problem.fix


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CPU build beside a GPU", ["RTX 3090", CPU_BUILD.version, "without CUDA"]),
        ("old driver by its CUDA", ["470.256", "11.4", "12.8"]),
        ("GPU too old for this torch", ["cuda:0", "3.7", "sm_75"]),
        ("GPU number that is not there", ["cuda:1", "cpu, cuda:0"]),
        ("NaN in the type in use", ["float16 on cuda:0", "NaN", "--dtype float32"]),
        ("wrong in a type that is not used", ["bfloat16 on cuda:0", "31.0%"]),
        ("wrong in every type", ["--device cpu"]),
        ("a type that the device refuses", ["bfloat16 on mps", "not supported on MPS"]),
        ("OMP_NUM_THREADS", ["1 of 8 cores", "OMP_NUM_THREADS=1", "`unset OMP_NUM_THREADS`"]),
        ("threads beyond the container's", ["8 threads", "2 processors", "`OMP_NUM_THREADS=2 olc "]),
        ("container with less memory", ["8.0 GB", "64.0 GB", "7.0 GB", "60.0 GB"]),
        ("disk too small for this one", ["9.0 GB", "13.5 GB", "7b"]),
        ("layers on the CPU", ["10 of 32 layers", "cuda:0"]),
        ("layers on disk", ["of 40 layers on disk"]),
        ("memory too small", ["7b", "cuda:0 is"]),
    ],
)
def test_names_and_numbers_and_what_to_use_instead_are_told(name: str, words: list[str]) -> None:
    problem = problems(name)[0]
    for word in words:
        assert str(word) in f"{problem.message}: {problem.fix}"


# What is not ours to parse.
OTHERS = {"pip", "unset", "nvidia-smi"}


def check(typed: str) -> None:
    """Check what stands between two backticks. Raises click's errors, and UsageError."""
    words = shlex.split(typed)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        del words[0]
    if words[0].startswith("--"):
        words = ["olc", "complete", "x", *words]
    if words[0] == "olc":
        given = parse(words[1:])
        ModelSpec(**{name: given[name] for name in ("model", "device", "dtype") if given.get(name)})
    else:
        assert words[0] in OTHERS


def test_everything_in_backticks_can_be_typed() -> None:
    for fix in sorted({problem.fix for name in MACHINES for problem in problems(name)}):
        commands = re.findall(r"`([^`]+)`", fix)
        assert commands, f"a fix names something to type: {fix}"
        for typed in commands:
            check(typed)
        # Nor does olc, or a flag, stand outside of backticks, where this test would not see it.
        assert not re.search(r"\bolc [a-z]|--[a-z]", re.sub(r"`[^`]+`", "", fix))


def test_every_problem_there_is_has_its_machine() -> None:
    codes = set(re.findall(r'Problem\(\s*[^,]+,\s*"(\w+)"', Path(advice.__file__).read_text()))
    assert len(codes) > 20
    assert codes == {problem.code for name in MACHINES for problem in problems(name)}


@pytest.mark.parametrize(
    "typed", ["olc complete --no-such-flag", "olc nonsense", "olc complete --device toaster", "--quantize", "rm -rf"]
)
def test_what_cannot_be_typed_is_found_by_this_test(typed: str) -> None:
    with pytest.raises((click.ClickException, AssertionError, cli.OlcError)):
        check(typed)
