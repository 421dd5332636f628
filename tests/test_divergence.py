"""When a run counts as diverged, on one process and on several."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import Launch
from toolkit.config import WEIGHTS, parse
from toolkit.records.result import Result
from toolkit.training import loop
from toolkit.training.build import build
from toolkit.training.divergence import LOST_SHARE, NONFINITE_READINGS, note_end
from toolkit.training.run import Run

QUIET = ["--wandb", "off", "--save-every", "0", "--progress", "False"]
FAULTY = '''
"""Digits with a loss, or only a gradient, that is not finite on one rank, from an update on."""
import os
from toolkit.task import load

class Faulty(type(load("digits"))):
    updates = 0

    def loss(self, model, batch):
        total, count = super().loss(model, batch)
        if model.training:
            self.updates += 1
            if self.updates >= {first} and os.environ.get("RANK", "0") == "{rank}":
                {fault}
        return total, count

TASK = Faulty()
'''
A_LOSS = "total = total * float('nan')"
A_GRADIENT = "total.register_hook(lambda gradient: gradient * float('nan'))"


def ended(tmp_path: Path, *flags: str, hook: Callable[[Run], None] | None = None) -> Result:
    run = build(parse(["digits/vit_micro", *QUIET, *flags]), tmp_path)
    run.after_update.extend([] if hook is None else [hook])
    result = loop.fit(run)
    loop.release(run)
    assert result is not None
    assert (run.folder / WEIGHTS).exists() == (result.status == "done")
    return result


def lose_a_weight_at(update: int) -> Callable[[Run], None]:
    def hook(run: Run) -> None:
        if run.update == update:
            with torch.no_grad():
                next(run.model.parameters()).view(-1)[0] = math.nan

    return hook


@pytest.mark.parametrize(
    ("flags", "at"),
    [
        (("--recipe.updates", "40"), 40),
        (("--recipe.updates", "10"), 5),  # fewer readings than the rule of 20 asks for
        (("--recipe.updates", "60", "--read-every", "10"), 20),
    ],
)
@pytest.mark.long
def test_weights_that_are_not_finite_are_no_result(
    tmp_path: Path, flags: tuple[str, ...], at: int
) -> None:
    result = ended(tmp_path, *flags, "schedule:constant", hook=lose_a_weight_at(at))
    assert (result.status, result.metrics.test) == ("diverged", {})
    assert any(note.startswith("diverged: ") for note in result.notes)


@pytest.mark.long
def test_more_rollbacks_than_a_tenth_of_the_readings_are_no_training(tmp_path: Path) -> None:
    flags = ("--recipe.lr", "1e30", "--recipe.updates", "100")
    result = ended(tmp_path, *flags, "schedule:adaptive", "--schedule.search", "off")
    assert result.status == "diverged"
    assert any(note.startswith("diverged: ") for note in result.notes)


def test_what_may_be_infinite_is_what_was(tmp_path: Path) -> None:
    run = build(parse(["digits/vit_micro", *QUIET, "--recipe.updates", "2"]), tmp_path)
    masked = {"mask": torch.tensor([0.0, -math.inf]), "steps": torch.tensor(3)}
    run.infinite_at_start = frozenset({"mask"})
    note_end(run, masked)
    assert not run.lost
    note_end(run, {**masked, "scale": torch.tensor([math.inf])})
    assert run.lost == "scale is not finite after the last update"
    run.lost = ""
    note_end(run, {"mask": torch.tensor([math.nan, -math.inf])})
    assert run.lost == "mask is not finite after the last update"


@pytest.mark.ranks
@pytest.mark.parametrize("fault", [A_LOSS, A_GRADIENT], ids=["loss", "gradient"])
def test_a_fault_of_one_rank_ends_the_run_alike_on_every_launch(
    launch: Launch, tmp_path: Path, fault: str
) -> None:
    task = tmp_path / "faulty.py"
    flags = [f"{task}/vit_micro", "--recipe.updates", "80", "--recipe.micro-batch", "32", *QUIET]
    found = {}
    for study, file, rank in (("one", "cpu", 0), ("two", "cpu2", 1), ("zero", "zero2", 1)):
        task.write_text(FAULTY.format(first=21, rank=rank, fault=fault))
        extra = ("--num_processes", "2") if file == "zero2" else ()
        schedule = ["schedule:adaptive", "--schedule.search", "off"]
        done = launch(file, *extra, "-m", "toolkit.train", *flags, "--study", study, *schedule)
        assert done.returncode == 0, done.stderr
        result = json.loads(next(tmp_path.glob(f"runs/{study}/*/result.json")).read_text())
        found[study] = result["status"]
        assert any(note.startswith("diverged: ") for note in result["notes"]), result["notes"]
    assert found == dict.fromkeys(found, "diverged")
    assert LOST_SHARE * 80 < NONFINITE_READINGS
