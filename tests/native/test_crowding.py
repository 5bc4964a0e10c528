"""How many threads decode: all, and half while that is faster."""

import threading
import time

import pytest
import torch

from openllama_cli.native import crowding as crowding_module
from openllama_cli.native.crowding import Crowding


def run(crowding: Crowding, steps: int, full: float, half: float, *, crowded: bool, rows: int = 1) -> list[bool]:
    """Steps that take `full` or `half` seconds. Returns which were of half the threads."""
    taken = []
    for _ in range(steps):
        taken.append(crowding.half)
        crowding.update(rows, half if crowding.half else full, crowded=crowded and not crowding.half)
    return taken


def test_a_quiet_machine_uses_all_threads_and_tries_nothing() -> None:
    assert not any(run(Crowding(), 100, full=1, half=0.5, crowded=False))


def test_a_crowded_machine_keeps_what_is_faster_and_tries_the_other_ever_more_seldom() -> None:
    taken = run(Crowding(), 200, full=3, half=2, crowded=True)
    trials = [step for step, half in enumerate(taken) if not half]
    assert trials == [0, 19, 53, 119, 185]
    taken = run(Crowding(), 200, full=2, half=3, crowded=True)
    assert [step for step, half in enumerate(taken) if half] == [1, 35, 101, 167]


def test_all_threads_come_back_when_the_others_have_gone() -> None:
    crowding = Crowding()
    run(crowding, 20, full=3, half=2, crowded=True)
    assert not any(run(crowding, 200, full=1, half=2, crowded=False)[70:])


def test_a_trial_with_another_number_of_rows_says_nothing() -> None:
    crowding = Crowding()
    crowding.update(16, 3, crowded=True)
    assert crowding.half
    crowding.update(1, 0.5, crowded=True)
    assert not crowding.half


@pytest.mark.parametrize(("waited", "crowded"), [((1.0, 1.0), False), ((1.0, 2.0), True)])
def test_a_step_whose_thread_waits_for_a_processor_is_crowded(
    waited: tuple[float, float], crowded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowding_module, "_waited", iter(waited).__next__)
    crowding = Crowding()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with crowding.step(1) as threads:
            time.sleep(0.01)
        assert threads == 2
        assert crowding.half is crowded
    finally:
        torch.set_num_threads(before)


def test_one_thread_stays_one() -> None:
    found: list[int] = []

    def work() -> None:
        torch.set_num_threads(1)
        with Crowding().step(1) as threads:
            found.append(threads)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [1]
