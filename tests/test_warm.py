"""The tests' own launcher: it tells what a real one tells, and leaves nothing behind."""

import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT, Launch, WarmLauncher

PROGRAM = str(ROOT / "tests/programs/end_as_told.py")
pytestmark = pytest.mark.ranks


def ended(pid: int) -> bool:
    """Whether a process ends within seconds."""
    for _ in range(100):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:  # nobody has asked for it
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def ranks_of(folder: Path) -> list[tuple[int, float]]:
    """Process id and a random number of each rank."""
    told = (file.read_text().split() for file in sorted(folder.glob("rank*.txt")))
    return [(int(pid), float(number)) for pid, number in told]


@pytest.mark.parametrize(
    ("config", "how", "code"),
    [
        ("cpu", ["0"], 0),
        ("cpu", ["3"], 1),
        ("cpu2", ["0", "0"], 0),
        ("cpu2", ["sleep", "3"], 1),
        ("cpu2", ["kill", "sleep"], 1),
    ],
)
def test_codes_are_a_launchers_and_one_rank_ends_all(
    launch: Launch, tmp_path: Path, config: str, how: list[str], code: int
) -> None:
    done = launch(config, PROGRAM, str(tmp_path), *how, timeout=60)
    assert done.returncode == code, done.stderr
    ranks = ranks_of(tmp_path)
    assert len({pid for pid, _ in ranks}) == len({number for _, number in ranks}) == len(how)
    assert all(ended(pid) for pid, _ in ranks)
    said = [f"rank {rank} of {len(how)}" for rank in range(len(how))]
    assert sorted(done.stdout.splitlines()) == said


@pytest.mark.full  # of the tests themselves
def test_what_goes_wrong_ends_the_launch_and_the_next_one_works(
    launch: Launch, tmp_path: Path
) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        launch("cpu2", PROGRAM, str(tmp_path), "sleep", "sleep", timeout=10)
    asleep = ranks_of(tmp_path)
    assert len(asleep) == 2
    assert all(ended(pid) for pid, _ in asleep)
    assert launch("cpu2", PROGRAM, str(tmp_path), "0", "0", timeout=60).returncode == 0


def test_what_a_library_reads_at_its_import_is_refused(warm: WarmLauncher, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cold=True"):
        warm.run([], tmp_path, {"HF_HUB_OFFLINE": "1"}, 60)
