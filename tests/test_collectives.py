"""What the ranks say to each other: as much as is stated, and nothing more."""

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, Launch

UPDATES, BATCHES = 10, 1
"""What is counted: updates, and the batches of each rank in an evaluation of digits."""


@pytest.mark.ranks
@pytest.mark.parametrize(("schedule", "evaluations"), [("constant", 1), ("adaptive", 0)])
def test_the_collectives_of_updates_readings_and_evaluations_are_counted(
    launch: Launch, tmp_path: Path, schedule: str, evaluations: int
) -> None:
    """After the search: an update has one, a reading two, whatever the schedule.

    An evaluation compares the rates, gathers predictions, labels, probabilities and ids of each
    batch and asks whether to stop, and tells of a fault on rank 0: an object, so two broadcasts.
    """
    every = "45" if evaluations else "1000"
    counted = [str(ROOT / "benchmarks/collectives.py"), str(tmp_path), "40", str(40 + UPDATES)]
    flags = ["--recipe.updates", "52", "--eval-every", every, "--save-every", "0", "--wandb", "off"]
    done = launch("cpu2", *counted, "digits/vit_micro", *flags, f"schedule:{schedule}")
    assert done.returncode == 0, done.stderr
    expected = {
        "allreduce_": UPDATES * 2 + evaluations * BATCHES,  # gradients, reading; to stop
        "broadcast_": UPDATES + evaluations * 2,  # reading; the fault
    }
    if evaluations:
        expected["allgather_"] = evaluations * (1 + 4 * BATCHES)
    for rank in (0, 1):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == expected
