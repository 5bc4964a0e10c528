"""Problems of machines that we do not have: what is said, how bad it is, and nothing where nothing is wrong."""

import dataclasses
from typing import Any

import pytest

from openllama_cli.devices.advice import diagnose, stops
from openllama_cli.devices.machine.facts import Check, DtypeResult, Facts, Nvidia, Problem, TorchBuild
from openllama_cli.devices.planning.placement import look_up
from openllama_cli.devices.planning.recommend import plan_model
from tests.support.machines import CACHE, CHECKS, CPU, CPU_BUILD, CUDA_BUILD, GB, OLD_CPU, facts, gpu, measurement, mps


def changed(base: Any, **changes: Any) -> Any:
    return dataclasses.replace(base, **changes)


TESLA = Nvidia("470.256", "11.4", ("Tesla T4",))
NEW = Nvidia("570.86", "12.8", ("NVIDIA GeForce RTX 3090",))
NAN = DtypeResult(False, None, False)
WRONG = DtypeResult(False, 0.31, True)
REFUSED = DtypeResult(False, error="BFloat16 is not supported on MPS")
TOO_OLD = TorchBuild("2.13.0", "cuda", "12.8", (), "The NVIDIA driver on your system is too old (found version 11040).")
WITHOUT_FLOAT16 = changed(CPU, instruction_sets=("avx2", "avx512", "avx512_bf16", "avx512_fp16"))

# name → machine, --model, --device, and the problems as (severity, code).
MACHINES: dict[str, tuple[Facts, str | None, str, list[tuple[str, str]]]] = {
    "sound GPU": (facts(gpu(free=24)), None, "auto", []),
    "sound GPU and model": (facts(gpu(free=24)), "7b", "auto", []),
    "sound processor": (facts(cpu=WITHOUT_FLOAT16), None, "auto", []),
    "Apple": (facts(mps(), cpu=OLD_CPU, torch=TorchBuild("2.13.0", "metal")), "3b", "auto", []),
    "processor without float16": (facts(), None, "auto", [("info", "float16_slow")]),
    "torch broken": (
        facts(torch=TorchBuild(None, trouble="ImportError: libtorch_cpu.so: no such file"), cpu=changed(CPU, threads=None)),
        None,
        "auto",
        [("error", "torch_broken")],
    ),
    "CPU build beside a GPU": (facts(cpu=WITHOUT_FLOAT16, nvidia=NEW), None, "auto", [("warning", "torch_without_cuda")]),
    "CPU build, GPU asked for": (
        facts(cpu=WITHOUT_FLOAT16, nvidia=NEW),
        None,
        "cuda",
        [("error", "device_missing"), ("warning", "torch_without_cuda")],
    ),
    "GPU without driver": (
        facts(cpu=WITHOUT_FLOAT16, nvidia=Nvidia(None, None, ())),
        None,
        "auto",
        [("warning", "no_driver"), ("warning", "torch_without_cuda")],
    ),
    "GPU without driver, CUDA build": (
        facts(cpu=WITHOUT_FLOAT16, torch=CUDA_BUILD, nvidia=Nvidia(None, None, ())),
        None,
        "auto",
        [("warning", "no_driver")],
    ),
    "old driver by its CUDA": (
        facts(cpu=WITHOUT_FLOAT16, torch=changed(CUDA_BUILD, arch_list=()), nvidia=TESLA),
        None,
        "auto",
        [("warning", "driver_too_old")],
    ),
    "old driver in torch's words": (
        facts(cpu=WITHOUT_FLOAT16, torch=TOO_OLD, nvidia=Nvidia("470.256", None, ())),
        None,
        "auto",
        [("warning", "driver_too_old")],
    ),
    "driver of the same major version": (
        facts(gpu(free=24), nvidia=Nvidia("525.60", "12.0", ("Tesla T4",))),
        None,
        "auto",
        [],
    ),
    "hidden GPU": (
        facts(cpu=WITHOUT_FLOAT16, torch=CUDA_BUILD, nvidia=NEW, variables={"CUDA_VISIBLE_DEVICES": ""}),
        None,
        "auto",
        [("warning", "gpu_hidden")],
    ),
    "GPU that torch does not find": (
        facts(cpu=WITHOUT_FLOAT16, torch=CUDA_BUILD, nvidia=NEW),
        None,
        "auto",
        [("warning", "gpu_not_found")],
    ),
    "CUDA build without any GPU": (facts(cpu=WITHOUT_FLOAT16, torch=CUDA_BUILD), None, "auto", []),
    "GPU too old for this torch": (facts(gpu(free=11, capability="3.7")), None, "auto", [("error", "gpu_not_supported")]),
    "GPU number that is not there": (facts(gpu(free=24)), None, "cuda:1", [("error", "device_missing")]),
    "NaN in the type in use": (
        facts(gpu(free=24), measured={"cuda:0": measurement(float16=NAN)}),
        None,
        "auto",
        [("error", "wrong_results")],
    ),
    "wrong in a type that is not used": (
        facts(gpu(free=24), measured={"cuda:0": measurement(bfloat16=WRONG)}),
        None,
        "auto",
        [("warning", "wrong_results")],
    ),
    "a type that the device refuses": (
        facts(mps(), torch=TorchBuild("2.13.0", "metal"), measured={"mps": measurement(bfloat16=REFUSED)}),
        None,
        "auto",
        [("warning", "wrong_results")],
    ),
    "wrong in every type": (
        facts(gpu(free=24), measured={"cuda:0": measurement(float32=WRONG, float16=WRONG, bfloat16=WRONG)}),
        None,
        "auto",
        [("error", "wrong_results"), ("warning", "wrong_results"), ("warning", "wrong_results")],
    ),
    "float16 measured slow": (
        facts(measured={"cpu": measurement(float16=DtypeResult(True, 1e-4, True, 64, 30.0, 20.0, 20.0))}),
        None,
        "auto",
        [("info", "float16_slow")],
    ),
    "float16 measured quick": (facts(measured={"cpu": measurement()}), None, "auto", []),
    "OMP_NUM_THREADS": (
        facts(cpu=changed(WITHOUT_FLOAT16, threads=1), variables={"OMP_NUM_THREADS": "1"}),
        None,
        "auto",
        [("warning", "too_few_threads")],
    ),
    "few threads without a reason": (
        facts(cpu=changed(WITHOUT_FLOAT16, threads=2)),
        None,
        "auto",
        [("warning", "too_few_threads")],
    ),
    "threads beyond the container's": (
        facts(cpu=changed(WITHOUT_FLOAT16, threads=8, cpu_limit=2.0)),
        None,
        "auto",
        [("warning", "too_many_threads")],
    ),
    "threads as the container grants": (facts(cpu=changed(WITHOUT_FLOAT16, threads=2, cpu_limit=1.5)), None, "auto", []),
    "no AVX2": (
        facts(cpu=changed(CPU, instruction_sets=("avx512_fp16",), kernels="DEFAULT")),
        None,
        "auto",
        [("warning", "no_avx2")],
    ),
    "kernels not compiled": (
        facts(cpu=changed(WITHOUT_FLOAT16, own_kernels=False)),
        None,
        "auto",
        [("warning", "no_kernels")],
    ),
    "kernels not compiled, where a GPU computes": (
        facts(gpu(free=24), cpu=changed(WITHOUT_FLOAT16, own_kernels=False)),
        None,
        "auto",
        [],
    ),
    "AVX2 switched off": (
        facts(cpu=changed(WITHOUT_FLOAT16, kernels="DEFAULT"), variables={"ATEN_CPU_CAPABILITY": "default"}),
        None,
        "auto",
        [("warning", "no_avx2")],
    ),
    "Arm": (
        facts(cpu=changed(CPU, architecture="aarch64", kernels="DEFAULT", instruction_sets=("neon", "fp16"))),
        None,
        "auto",
        [],
    ),
    "container with less memory": (
        facts(cpu=changed(WITHOUT_FLOAT16, memory_limit=8 * GB, memory_left=7 * GB)),
        None,
        "auto",
        [("warning", "container_memory")],
    ),
    "container with memory enough": (
        facts(cpu=changed(WITHOUT_FLOAT16, memory_limit=63 * GB, memory_left=62 * GB)),
        None,
        "auto",
        [],
    ),
    "tokenizer library broken": (
        facts(gpu(free=24), checks=(Check("sentencepiece", False, "ImportError: …"), *CHECKS[1:])),
        None,
        "auto",
        [("error", "tokenizer_broken")],
    ),
    "protobuf and demo broken": (
        facts(gpu(free=24), checks=(CHECKS[0], Check("protobuf", False, "x"), Check("demo model", False, "y"))),
        None,
        "auto",
        [("warning", "protobuf_broken"), ("warning", "demo_broken")],
    ),
    "cache not writable": (
        facts(gpu(free=24), cache=changed(CACHE, writable=False)),
        None,
        "auto",
        [("warning", "cache_not_writable")],
    ),
    "cache not writable, download needed": (
        facts(gpu(free=24), cache=changed(CACHE, writable=False)),
        "7b",
        "auto",
        [("error", "cache_not_writable")],
    ),
    "disk nearly full": (
        facts(gpu(free=24), cache=changed(CACHE, free_bytes=2 * GB)),
        None,
        "auto",
        [("warning", "disk_nearly_full")],
    ),
    "disk too small for this one": (
        facts(gpu(free=24), cache=changed(CACHE, free_bytes=9 * GB, models=1, largest=("org/other", 8 * GB))),
        "7b",
        "auto",
        [("error", "disk_nearly_full")],
    ),
    "disk small, model here": (facts(gpu(free=24), cache=changed(CACHE, free_bytes=9 * GB)), "demo", "auto", []),
    "download that did not end": (
        facts(gpu(free=24), cache=changed(CACHE, incomplete=("org/half",))),
        None,
        "auto",
        [("warning", "model_incomplete")],
    ),
    "offline": (facts(gpu(free=24), cache=changed(CACHE, offline="HF_HUB_OFFLINE")), None, "auto", [("info", "hub_offline")]),
    "offline, download needed": (
        facts(gpu(free=24), cache=changed(CACHE, offline="HF_HUB_OFFLINE")),
        "7b",
        "auto",
        [("error", "hub_offline")],
    ),
    "memory too small": (
        facts(gpu(free=6)),
        "7b",
        "cuda",
        [("error", "memory_too_small")],
    ),
    "layers on the CPU": (facts(gpu(free=11)), "7b", "auto", [("warning", "layers_on_cpu")]),
    "layers on disk": (
        facts(cpu=changed(WITHOUT_FLOAT16, memory_available=6 * GB)),
        "13b",
        "auto",
        [("warning", "layers_on_disk")],
    ),
    "context cut": (facts(gpu(0, free=11), gpu(1, free=10.5)), "13b", "auto", [("warning", "context_cut")]),
}


def problems(name: str) -> tuple[Problem, ...]:
    machine, model, device, _ = MACHINES[name]
    plan = plan_model(look_up(model), machine, device) if model else None
    return diagnose(machine, plan, device)


@pytest.mark.parametrize("name", MACHINES)
def test_the_problems_of_a_machine(name: str) -> None:
    found = problems(name)
    expected = MACHINES[name][3]
    assert [(problem.severity, problem.code) for problem in found] == expected
    assert stops(found) == any(severity == "error" for severity, _ in expected)
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
        ("NaN in the type in use", ["float16 on cuda:0", "NaN"]),
        ("wrong in a type that is not used", ["bfloat16 on cuda:0", "31.0%"]),
        ("a type that the device refuses", ["bfloat16 on mps", "not supported on MPS"]),
        ("OMP_NUM_THREADS", ["1 of 8 cores", "OMP_NUM_THREADS=1"]),
        ("threads beyond the container's", ["8 threads", "2 processors"]),
        ("container with less memory", ["8.0 GB", "64.0 GB", "7.0 GB", "60.0 GB"]),
        ("disk too small for this one", ["9.0 GB", "13.5 GB", "7b"]),
        ("layers on the CPU", ["10 of 32 layers", "cuda:0"]),
        ("layers on disk", ["of 40 layers on disk"]),
        ("memory too small", ["7b", "cuda:0 lacks"]),
    ],
)
def test_names_and_numbers_are_in_the_message(name: str, words: list[str]) -> None:
    message = problems(name)[0].message
    for word in words:
        assert str(word) in message


def test_a_fix_for_threads_names_the_cores_there_are() -> None:
    assert "`OMP_NUM_THREADS=2 olc " in problems("threads beyond the container's")[0].fix
    assert "`unset OMP_NUM_THREADS`" in problems("OMP_NUM_THREADS")[0].fix


def test_a_type_that_works_is_what_to_use_in_place_of_one_that_does_not() -> None:
    assert "--dtype float32" in problems("NaN in the type in use")[0].fix
    assert "--device cpu" in problems("wrong in every type")[0].fix
