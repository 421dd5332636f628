"""A rank that hangs is found out, named, and ends the others."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT, Launch
from toolkit.training.watch import LOOKS, Looks, Place

HANGS = str(ROOT / "tests/programs/hang_rank_one.py")
HUNG = ["digits/vit_micro", "--recipe.updates", "60", "--wandb", "off", "--rank-timeout"]


@pytest.mark.ranks
def test_a_rank_that_hangs_ends_the_others_and_is_named(launch: Launch, tmp_path: Path) -> None:
    done = launch("cpu2", HANGS, *HUNG, "2", timeout=60)
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert "no rank got any further for 2 s: rank 1 hangs at " in said
    assert "hang_rank_one.py:17 (hang). The same command continues" in said
    state = json.loads(next(tmp_path.glob("runs/single/*/state.json")).read_text())
    assert state == {"status": "failed", "update": 5}


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.ranks
def test_a_rank_whose_process_is_suspended_is_named(launch: Launch) -> None:
    done = launch("cpu2", HANGS, *HUNG, "2", env={"HOW": "stop"}, timeout=90)
    assert done.returncode == 1
    assert "no rank got any further for 2 s: rank 1 gives no sign of life" in done.stderr


def test_the_rank_that_the_others_wait_for_is_the_hung_one() -> None:
    def looks(*places: Place | None, alive: Sequence[int] = (0, 1, 2)) -> Looks:
        seen = Looks(len(places))
        for look in range(LOOKS + 1):
            kept = enumerate(places)
            seen.add(
                [p._replace(look=look if rank in alive else 0) if p else p for rank, p in kept]
            )
        return seen

    waits, works = Place(0, 7, True, "ranks.py:1 (f)"), Place(0, 7, False, "user.py:2 (g)")
    assert looks(waits, works, waits).hung() == [1]
    behind = looks(waits, waits._replace(steps=6), works)
    assert (behind.stuck, behind.hung()) == (True, [1])
    assert looks(waits, works, works, alive=(0, 1)).hung() == [2]
    assert looks(waits, None, waits).hung() == [1]
    assert "rank 1 gives no sign of life." in looks(waits, None, waits).message(3)
    assert looks(waits, waits, waits).hung() == [0, 1, 2]
    moving = looks(waits, works, waits)
    moving.add([waits, works._replace(steps=8), waits])
    assert not moving.stuck
