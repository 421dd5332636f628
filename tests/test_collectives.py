"""What the ranks say to each other: as much as is stated, and nothing more."""

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, Launch

UPDATES = 10
"""Of which the collectives are counted."""
ROUNDS = {2: [1, 1, 1, 2, 6], 3: [1, 1, 1, 1, 4]}
"""Ranks -> batches of each for the sizes of ``programs/gathered.py``."""


@pytest.mark.ranks
@pytest.mark.parametrize(("schedule", "evaluations"), [("constant", 1), ("adaptive", 0)])
def test_the_collectives_of_updates_readings_and_evaluations_are_counted(
    launch: Launch, tmp_path: Path, schedule: str, evaluations: int
) -> None:
    """After the search: an update has one, a reading two, whatever the schedule.

    An evaluation compares the rates, gathers predictions, labels, probabilities and ids together,
    with the question whether to stop, and tells of a fault on rank 0: an object, so two broadcasts.
    """
    every = "45" if evaluations else "1000"
    counted = [str(ROOT / "benchmarks/collectives.py"), str(tmp_path), "40", str(40 + UPDATES)]
    flags = ["--recipe.updates", "52", "--eval-every", every, "--save-every", "0", "--wandb", "off"]
    done = launch("cpu2", *counted, "digits/vit_micro", *flags, f"schedule:{schedule}")
    assert done.returncode == 0, done.stderr
    events = next(tmp_path.glob("runs/*/*/events.jsonl")).read_text().splitlines()
    start = json.loads(events[0])
    gradients = 4 * UPDATES * start["trained_parameters"]
    expected = {
        "all_reduce of gradients": UPDATES,
        "all_reduce": UPDATES,  # of a reading
        "broadcast": UPDATES + evaluations * 2,  # of a reading; the fault
    }
    if evaluations:
        expected["all_gather"] = evaluations * 2
    for rank in (0, 1):
        told = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert {name: calls for name, (calls, _) in told["calls"].items()} == expected
        assert told["calls"]["all_reduce of gradients"][1] == gradients
        assert told["calls"]["all_reduce"][1] < 100 * UPDATES
        times = told["seconds"]
        assert 0 < times["gradients"] <= times["waited"] <= times["backward pass"]


@pytest.mark.ranks
@pytest.mark.parametrize("ranks", [2, 3])
def test_outputs_gathered_together_are_those_gathered_batch_by_batch(
    launch: Launch, tmp_path: Path, ranks: int
) -> None:
    """To the bit, in each dtype, however the samples divide over the ranks, and in fewer calls."""
    program = str(ROOT / "tests/programs/gathered.py")
    done = launch("cpu2", "--num_processes", str(ranks), program, str(tmp_path))
    assert done.returncode == 0, done.stderr
    for rank in range(ranks):
        told = json.loads((tmp_path / f"rank{rank}.json").read_text())
        for way in ("rare", "full", "frequent"):
            assert all(one["same"] for one in told[way])
            assert [one["batches"] for one in told[way]] == ROUNDS[ranks]
        # After 1, 2 and 4 batches, and the last; or after each.
        made = {2: [1, 1, 1, 2, 3], 3: [1, 1, 1, 1, 3]}
        assert [one["collectives"] for one in told["rare"]] == made[ranks]
        for way in ("full", "frequent"):
            assert [one["collectives"] for one in told[way]] == ROUNDS[ranks]
        # All know of it with the next one, also if one rank alone was asked.
        assert told["agreed"] == {2: [0, 2, 2, 5, 5, 5], 3: [0, 2, 2, 3, None, None]}[ranks]
