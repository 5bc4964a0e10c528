"""`olc devices` as it is typed: what reaches stdout, how wide it is, and how it exits."""

import json
import re
from pathlib import Path

import pytest

from openllama_cli.terminal.streams import visible
from tests.conftest import Olc
from tests.support.machines import measurement
from tests.support.models.tiny_models import VOCAB, write_adapter
from tests.support.terminals import on_a_terminal, without_color


def test_quick_in_a_pipe_is_tab_separated_sections(olc: Olc) -> None:
    run = olc("devices", "--quick")
    assert run.code == 0
    sections = [section.splitlines() for section in run.text.strip().split("\n\n")]
    assert sections[0][0].startswith("olc\t")
    assert any(line.startswith("processor\t") for line in sections[1])
    assert "\x1b" not in run.text


def test_json_is_one_document_with_its_keys(olc: Olc) -> None:
    run = olc("devices", "--quick", "--json", "-m", "7b")
    found = json.loads(run.text)
    assert list(found) == ["versions", "devices", "backends", "checks", "cache", "model", "problems"]
    assert found["model"]["name"] == "7b"
    assert found["devices"][0]["device"] == "cpu"
    assert (run.code == 1) == any(problem["severity"] == "error" for problem in found["problems"])


def test_a_folder_is_planned_and_the_command_that_is_shown_runs(olc: Olc, tmp_model: Path) -> None:
    run = olc("devices", "--quick", "-m", str(tmp_model))
    assert run.code == 0
    command = re.search(r'^run\tolc (.+) "(.*)"$', run.text, re.MULTILINE)
    assert command is not None
    assert olc(*command[1].split(), command[2], "-n", "2").code == 0


def test_an_adapter_is_planned_as_its_model_with_it(olc: Olc, tmp_model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", tmp_model, rows=VOCAB + 2)
    model = json.loads(olc("devices", "--quick", "-m", str(adapter), "--json").text)["model"]
    plain = json.loads(olc("devices", "--quick", "-m", str(tmp_model), "--json").text)["model"]
    assert model["parameters"] == plain["parameters"] + 2 * 2 * 32
    assert f"-m {adapter} " in model["command"]
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "openlm-research/open_llama_3b"})
    )
    assert "first\tolc models pull openlm-research/open_llama_3b\n" in olc("devices", "--quick", "-m", str(adapter)).text


def test_a_problem_that_would_stop_a_completion_exits_with_1(olc: Olc) -> None:
    run = olc("devices", "--quick", "--device", "cuda:7")
    assert run.code == 1
    problems = run.text.strip().split("\n\n")[-1].splitlines()
    assert problems[0] == "severity\tcode\tmessage\tfix"
    assert all(line.count("\t") == 3 for line in problems)
    assert "error\tdevice_missing\t" in run.text


@pytest.mark.parametrize(("width", "environment"), [(60, {"NO_COLOR": "1"}), (100, {})])
def test_a_terminal_gets_lines_that_fit_and_color_unless_it_is_not_wanted(width: int, environment: dict[str, str]) -> None:
    text = on_a_terminal("devices", "--quick", "-m", "13b", columns=width, **environment)
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]m", text)) != ("NO_COLOR" in environment)
    lines = without_color(text).splitlines()
    # A command is never cut by a line break: the terminal wraps what is longer than a line.
    assert max(len(line) for line in lines if not line.startswith("olc ")) <= width
    whole = "\n".join(lines)
    assert visible(whole) == whole
    for word in ("processor", "distributed", "bfloat16", "olc models pull 13b"):
        assert word in whole


@pytest.mark.slow
def test_the_processor_is_measured(olc: Olc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openllama_cli.devices.machine.measure._WORKING_SET", 120_000_000)  # two copies of the matrix
    devices = json.loads(olc("devices", "--json").text)["devices"]
    assert sum(device["measured_s"] for device in devices) > 0
    # On a machine with much else to do the time may end before the last type.
    assert {"bfloat16"} <= devices[0]["dtypes"].keys() <= {"float32", "float16", "bfloat16"}
    assert devices[0]["dtypes"]["bfloat16"]["ok"]


def test_measurements_are_shown(olc: Olc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openllama_cli.devices.machine.probe.MachineProbe.measure", lambda *_: measurement())
    assert "cpu\tbfloat16\tright\t1e-04\t300 GFLOP/s\t" in olc("devices", "--device", "cpu").text
