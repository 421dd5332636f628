"""The benchmark of the loop: its turns, its arithmetic, what it refuses. Nothing is timed."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from tests.conftest import ROOT
from toolkit import Reading
from toolkit.schedules import Adaptive, Facts

SCRIPT = ROOT / "benchmarks/overhead.py"


@pytest.fixture(scope="module", autouse=True)
def neighbours() -> Iterator[None]:
    """The scripts import one another."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


def taken(bare: float = 2.0, constant: float = 2.0, adaptive: float = 2.0, free: float = 4.0):
    """Two repetitions of two turns of 10 updates, with the seconds of a turn of each side."""
    from turns import Taken

    seconds = {"bare": bare, "constant": constant, "adaptive": adaptive}
    even = dict.fromkeys(seconds, 1.0)
    turns = {side: [one, one] for side, one in seconds.items()}
    return [Taken(turns, {**even, "adaptive": free}, even, even, even)] * 2


class Ends:
    """The other end of a side's connection: allows so many turns."""

    def __init__(self, turns: int) -> None:
        self.told: list[float] = []
        self.turns = turns

    def send(self, spent) -> None:
        self.told.append(spent.seconds)

    def recv(self) -> bool:
        return len(self.told) <= self.turns


class Texts:
    """Texts of as many tokens as their number says, and one more."""

    fill = {"input_ids": 7}  # noqa: RUF012
    lengths = torch.arange(1, 101).numpy()

    def __len__(self) -> int:
        return 100

    def __getitems__(self, ids: list[int]):
        longest = max(ids) + 1
        tokens = {name: torch.ones(len(ids), longest) for name in ("input_ids", "attention_mask")}
        return {"id": torch.tensor(ids), **tokens}


def test_a_turn_is_so_many_updates_and_is_told_when_it_is_over() -> None:
    from turns import Gate, OverError

    ends, clock = Ends(2), iter(range(100))
    gate = Gate(ends, turn=3, free=2, clock=lambda: next(clock))
    assert [gate.pass_by() for _ in range(8)] == [-2, -1, 0, 1, 2, 3, 4, 5]
    with pytest.raises(OverError):
        gate.pass_by()
    assert ends.told == [1, 1, 1]
    assert gate.megabytes > 10


def test_a_side_that_is_a_batch_ahead_has_trained_on_the_same_texts() -> None:
    from turns import Gate, Gated, Workload, batches_of_turns

    from toolkit.recipe import Recipe

    workload = Workload("", 2, 3, False, {"max_length": 128})
    ids = batches_of_turns(Texts(), workload, Recipe(lr=1, updates=9, global_batch=4), seed=0)
    split = Gated(Texts(), Gate(Ends(99), 2, 1), ids)
    assert split.__getitems__([5, 6])["id"].tolist() == [5, 6]  # before its turns as it asks
    seen = [tuple(split.__getitems__([0])["id"].tolist()) for _ in range(8)]
    assert seen[6:] == seen[:2]
    assert set(seen[:6]) == set(seen[1:7])


def test_the_trainers_example_pads_texts_to_the_most() -> None:
    from turns import Gate, Gated

    batch = Gated(Texts(), Gate(Ends(9), 1, 1), longest=128).__getitems__([9, 19])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 128)
    assert batch["input_ids"][0, 20:].unique().item() == 7
    assert batch["attention_mask"][0, 20:].unique().item() == 0
    assert batch["id"].tolist() == [9, 19]


def test_a_limit_is_met_up_to_its_value_and_missed_above() -> None:
    from overhead import limits
    from turns import Workload

    workload = Workload("", 10, 2, False)
    rows = [*limits("LSTM", workload, taken(bare=2.0, constant=1.96, adaptive=2.058))]
    assert "| time of constant / bare | 0.980 | 0.980 to 0.980 | 1.02 | yes |" in rows
    assert "| time of adaptive / constant | 1.050 | 1.050 to 1.050 | 1.02 | no |" in rows
    # Nobody was the Trainer, and nobody gave memory back.
    assert not [row for row in rows if "Trainer" in row or "0.95 |" in row]


def test_a_whole_run_has_the_search_and_the_rest_at_the_speed_of_the_turns() -> None:
    from overhead import whole_runs

    # 40 updates in 16 s and 960 at 0.21 s, where constant takes 0.2 s.
    assert whole_runs(taken(adaptive=2.1, free=16.0), 10) == [pytest.approx(217.6 / 200)] * 2


@pytest.mark.parametrize("change", [0.9, 1.0, 1.5, math.nan])
def test_the_search_of_adaptive_is_over_before_its_first_turn(change) -> None:
    from overhead import ALL
    from turns import BUDGET, FREE

    schedule, searched = Adaptive(), []
    able = frozenset({"restore", "rewind"})
    memory, _ = schedule.start(1e-3, Facts(BUDGET, 10.0, "random", able))
    for update in range(1, 2 * FREE):
        reading = Reading.of(update, 0.01 * update, change**update)
        memory, decision = schedule.observe(memory, reading)
        if decision.action in ("trial", "restore"):
            searched.append(update)
    assert searched
    assert max(searched) < FREE
    assert all(one.updates <= BUDGET for one in ALL.values())


def test_overhead_is_what_an_update_takes_more_than_in_the_bare_loop() -> None:
    from overhead import overheads, table
    from turns import Workload

    made = taken(bare=2.0, constant=2.001)
    assert overheads(made, "constant", 10) == [pytest.approx(100)] * 2
    (row,) = [line for line in table("LSTM", Workload("", 10, 2, False), made) if "| const" in line]
    assert row.startswith("| constant | 200.100 | +100 | 1.000 | 1.000 to 1.000 | 1 | 1 | 1 |")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["IMDB"], "IMDB: no folder imdb in $TOOLKIT_DATA, which has the real texts"),
        (["cifar"], "cifar: workloads are one parameter, vit_micro, ResNet-18, LSTM, MiniLM, "),
        (["--scale", "9", "vit_micro"], "--scale: 7,360 updates of vit_micro, of at most 1,000"),
        (["--sides", "ours"], "--sides: ours: sides are bare, Fabric, Accelerate, "),
        (["--repeats", "1"], "--repeats: an interval takes at least 2"),
    ],
)
def test_what_cannot_be_made_is_said_in_a_line(arguments, line, monkeypatch, capsys) -> None:
    import overhead

    monkeypatch.delenv("TOOLKIT_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["overhead.py", *arguments])
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    assert overhead.main() == 2
    told = capsys.readouterr()
    assert told.err.startswith(line)
    assert told.err.count("\n") == 1
    assert not told.out


@pytest.mark.full
@pytest.mark.processes
@pytest.mark.slow
def test_a_table_comes_from_real_loops_and_kept_repetitions_are_not_made_again(tmp_path) -> None:
    import overhead

    command = [sys.executable, str(SCRIPT), "--repeats", "2", "--scale", "0.1", "--keep", "kept"]
    command += ["--sides", "adaptive", "one parameter"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def made() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )

    first = made()
    assert first.returncode == 0, first.stderr
    (row,) = [line for line in first.stdout.splitlines() if line.startswith("| adaptive")]
    _, megabytes, event_bytes = [float(cell.replace(",", "")) for cell in row.split("|")[-4:-1]]
    assert megabytes > 100
    assert 100 < event_bytes < 1000
    assert made().stdout == first.stdout
    file = tmp_path / "kept/one_parameter-1.json"
    asked = json.loads(file.read_text())["asked"]
    with pytest.raises(overhead.KeptError, match="is of other sides, turns or code"):
        overhead.kept_or_made(overhead.Asked(*asked)._replace(sources={}), file.parent)


SIDES_THAT_WAIT = """
import os, sys, time
import turns

def play(side, workload, seed, root, connection):
    turns.end_with_parent()
    print(os.getpid(), flush=True)
    connection.send(turns.Spent(0.0, 0))
    connection.recv()
    if sys.argv[1] == "side":
        os._exit(1)
    time.sleep(600)

turns.play, turns.PRELOADED = play, ()
turns.repetition(turns.Workload("", 1, 1, True), dict.fromkeys("abc", ""), 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="sides are forked")
@pytest.mark.parametrize("dies", ["side", "parent"])
def test_whichever_process_dies_no_other_waits_for_it(dies: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent)}
    command = [sys.executable, "-c", SIDES_THAT_WAIT, dies]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as parent:
        assert parent.stdout is not None
        sides = [int(parent.stdout.readline()) for _ in "abc"]
        if dies == "parent":
            parent.kill()
        # Their output ends with the last of them.
        _, error = parent.communicate(timeout=60)
    assert parent.returncode != 0
    assert ("Error" in error) == (dies == "side")
    assert len(set(sides)) == 3
