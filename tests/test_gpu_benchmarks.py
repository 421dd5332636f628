"""The benchmarks for a GPU: what of them can be told without one."""

import runpy
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.conftest import ROOT

FOLDER = ROOT / "benchmarks/gpu"
SCRIPTS = ("no_sync", "table", "time_to_94")


@pytest.fixture(autouse=True)
def neighbours() -> Iterator[None]:
    """The scripts import one another, and add to the path."""
    before = [*sys.path]
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path[:] = before


def of(script: str) -> dict[str, Any]:
    """What a script defines."""
    return runpy.run_path(str(FOLDER / f"{script}.py"), run_name=script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_tells_its_flags(script, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit, match="0"):
        of(script)["main"]()
    assert capsys.readouterr().out.startswith(f"usage: {script} [-h]")


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_a_gpu_each_ends_in_a_line(script, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert of(script)["main"]() == 2
    told = capsys.readouterr()
    assert told.err == "no CUDA device: this benchmark is for a GPU\n"
    assert not told.out


def test_the_table_has_the_same_workloads_on_the_device_and_no_side_for_the_hosts_memory() -> None:
    scope = of("table")
    known, sides_of = scope["overhead"].ALL, scope["overhead"].sides_of
    on_gpu = scope["on_gpu"](known)
    assert [one.target for one in on_gpu.values()] == [one.target for one in known.values()]
    for one, here in zip(on_gpu.values(), known.values(), strict=True):
        assert one.device == "cuda"
        assert one.turn >= here.turn
        assert one.updates <= 1000
        lost = {*sides_of(here, [], "")} - {*sides_of(one, [], "")}
        assert lost <= {"constant giving memory back"}


def test_the_time_to_a_target_is_that_of_training_at_the_first_evaluation_that_reaches_it() -> None:
    reached = of("time_to_94")["reached"]
    events = [
        {"kind": kind, "split": "validation", "accuracy": score, "train_seconds": seconds}
        for score, seconds in ((93.9, 10.0), (94.0, 20.0), (93.0, 30.0), (95.0, 40.0))
        for kind in ("evaluation", "timing")
    ]
    assert reached([*events, {"kind": "evaluation", "split": "test", "accuracy": 99.0}], 94) == 20
    assert reached(events, 96) == float("inf")


@pytest.mark.long
def test_all_of_an_update_is_made_where_waiting_is_an_error(monkeypatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    of("no_sync")["train"]("digits/vit_micro", "constant", 5, 2)
    # The update, and the LR of the next.
    assert modes == ["error", "default"] * 10


@pytest.mark.gpu
def test_the_host_does_not_wait_between_readings(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["no_sync", "digits/vit_micro"])
    assert of("no_sync")["main"]() == 0, capsys.readouterr().out
