"""The command that is recommended: for machines that we have and do not have."""

from pathlib import Path

import pytest

from openllama_cli.devices.machine.facts import DtypeResult, Facts
from openllama_cli.devices.planning.memory import auto_dtype, main_device
from openllama_cli.devices.planning.placement import look_up
from openllama_cli.devices.planning.recommend import ModelPlan, plan_model
from tests.support.machines import GB, OLD_CPU, cpu_with, facts, gpu, measurement, mps
from tests.support.models.tiny_models import write_tiny_llama

TAIL = ' "Q: What is the largest animal?"'


def plan(name: str, machine: Facts, device: str = "auto") -> ModelPlan:
    return plan_model(look_up(name), machine, device)


@pytest.mark.parametrize(
    ("name", "machine", "device", "command"),
    [
        # What auto does anyway is not spelt out.
        ("7b", facts(), "auto", "olc complete -m 7b"),
        ("7b", facts(gpu(free=24)), "auto", "olc complete -m 7b"),
        ("7b", facts(mps()), "auto", "olc complete -m 7b"),
        ("demo", facts(), "auto", "olc complete -m demo"),
        # Without bfloat16 instructions auto is float32, which takes too much here.
        ("7b", facts(cpu=cpu_with(20, OLD_CPU)), "auto", "olc complete -m 7b --dtype bfloat16"),
        ("3b", facts(cpu=cpu_with(20, OLD_CPU)), "auto", "olc complete -m 3b"),
        # Fits on one of two GPUs: the larger.
        ("3b", facts(gpu(0, free=10), gpu(1, free=12)), "auto", "olc complete -m 3b --device cuda:1"),
        # Needs both.
        ("7b", facts(gpu(0, free=10), gpu(1, free=10)), "auto", "olc complete -m 7b"),
        # Asked for.
        ("7b", facts(gpu(free=24)), "cpu", "olc complete -m 7b --device cpu"),
        ("7b", facts(gpu(free=24)), "cuda", "olc complete -m 7b --device cuda"),
    ],
)
def test_the_best_command(name: str, machine: Facts, device: str, command: str) -> None:
    assert plan(name, machine, device).command == command + TAIL


@pytest.mark.parametrize(
    ("name", "machine", "device", "told"),
    [
        ("7b-v2", facts(), "auto", {"first": "olc models pull 7b-v2"}),
        ("demo", facts(), "auto", {"first": None, "faster": None, "auto_dtype": "bfloat16"}),
        # A large float16 model keeps its type on a processor with bfloat16, as loading does.
        ("7b", facts(), "auto", {"faster": "olc complete -m 7b --quantize int8" + TAIL, "auto_dtype": "float16"}),
        ("7b", facts(), "cpu", {"faster": "olc complete -m 7b --device cpu --quantize int8" + TAIL}),
        ("7b", facts(cpu=OLD_CPU), "auto", {"auto_dtype": "float32"}),
        # Quantized models run on the CPU only.
        ("7b", facts(gpu(free=24)), "auto", {"faster": None}),
        ("3b-v2", facts(cpu=cpu_with(1)), "auto", {"smaller": "demo"}),
        ("7b", facts(gpu(free=11)), "auto", {"smaller": None}),
        (
            "13b",
            facts(cpu=cpu_with(60, memory_limit=8 * GB, memory_left=int(7.5 * GB))),
            "auto",
            {"command": None, "first": None, "smaller": "3b-v2"},
        ),
    ],
)
def test_what_a_plan_tells_besides_its_command(name: str, machine: Facts, device: str, told: dict[str, str | None]) -> None:
    found = plan(name, machine, device)
    assert {key: getattr(found, key) for key in told} == told


def test_a_folder_with_a_space_is_quoted(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "my model")
    assert f"-m '{folder}' " in (plan(str(folder), facts()).command or "")


def test_a_type_that_computes_wrongly_is_not_recommended() -> None:
    broken = measurement(float16=DtypeResult(False, 0.5, True))
    assert "--dtype bfloat16" in (plan("7b", facts(gpu(free=24), measured={"cuda:0": broken})).command or "")


def test_quantized_types_are_recommended_only_where_nothing_else_fits_and_olc_has_them() -> None:
    machine = facts(cpu=cpu_with(9))
    assert plan("7b", machine).command == "olc complete -m 7b --quantize int8" + TAIL
    assert "--quantize" not in (plan("3b", machine).command or "")
    assert [found.available for found in plan("7b", machine).dtypes] == [True] * 5
    # Quantized models run on the CPU only.
    assert [found.available for found in plan("7b", facts(gpu(free=24))).dtypes] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("machine", "device", "main"),
    [
        (facts(), "auto", "cpu"),
        (facts(gpu(0, free=1), gpu(1, free=1)), "auto", "cuda:0"),
        (facts(gpu(0, free=1)), "cuda", "cuda:0"),
        (facts(gpu(0, free=1), gpu(1, free=1)), "cuda:1", "cuda:1"),
        (facts(mps()), "auto", "mps"),
        (facts(gpu(0, free=1)), "cpu", "cpu"),
    ],
)
def test_the_device_that_computes(machine: Facts, device: str, main: str) -> None:
    assert main_device(machine, device) == main
    automatic = auto_dtype("float16", machine, device)
    assert automatic == ("bfloat16" if main == "cpu" else "float16")
