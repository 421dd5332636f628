"""Edge and guard on the recorded runs of ten workloads, and on streams of losses that died."""

import gzip
import json
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driving import drive, edge_of, run_of
from toolkit.schedules import Adaptive
from toolkit.schedules.adaptive import guard
from toolkit.schedules.reading import Reading

STARTS = (-4, -2, 0, 2, 4)
"""Half decades from the tuned LR to the user's."""
NAME = re.compile(r"(\w+)_T(\d+)_s(\d+)_k(-?\d+)\.json")
CHANCE_AND_NOISE = 0.06
DEAD = [(2.45, 1.91, 2.31), (2.40, 2.05, 2.305), (2.45, 1.80, 2.30), (2.38, 1.95, 2.303)]
"""Mean losses of three epochs: a descent, and all of it lost again."""


def records(folder: Path) -> Iterator[tuple[str, dict[tuple[str, int, int, int], dict]]]:
    """Name of a workload, and by (kind, updates, seed, half decades of the LR) its runs."""
    for file in sorted(folder.glob("wind_tunnel/*.json.gz")):
        with gzip.open(file, "rt") as text:
            found = [(NAME.fullmatch(name), run) for name, run in json.load(text)["files"].items()]
        runs = {(m[1], int(m[2]), int(m[3]), int(m[4])): run for m, run in found if m}
        yield file.name.removesuffix(".json.gz"), runs


def tuned_of(runs: dict[tuple[str, int, int, int], dict]) -> int:
    """Half decades of the LR that is best for whole runs of 1,000 updates, or of 400."""
    for kind in ("cos", "lin"):
        for total in (1000, 400):
            rows: dict[int, list[float]] = {}
            for (k, t, _, exponent), run in runs.items():
                if (k, t) == (kind, total):
                    rows.setdefault(exponent, []).append(run["acc"] or 0.0)
            if len(rows) > 2:
                return max(rows, key=lambda e: sum(rows[e]) / len(rows[e]))
    raise AssertionError("no whole runs")


def test_the_edge_does_not_depend_on_where_the_search_begins(real_data: Path) -> None:
    near = cells = 0
    for _, runs in records(real_data):
        tuned = tuned_of(runs)
        for seed in sorted({key[2] for key in runs if key[0] == "const"}):
            row = {
                key[3]: run["losses"]
                for key, run in runs.items()
                if key[0] == "const" and key[2] == seed
            }

            def loss(made: int, factor: float, lr: float, row: dict = row) -> float:
                exponent = round(2 * math.log10(factor * lr))
                if exponent > max(row):  # the highest recorded did harm
                    return math.nan if made > 1 else row[max(row)][0]
                losses = row[exponent]
                value = losses[made - 1] if made <= len(losses) else None
                return math.nan if value is None else value

            found = {}
            for start in STARTS:
                lr = 10 ** ((tuned + start) / 2)
                trial = lambda made, factor, lr=lr, loss=loss: loss(made, factor, lr)  # noqa: E731
                trace = drive(Adaptive(), trial, lr=lr, updates=31)
                assert trace[-1][0].began <= 30
                found[start] = math.log10(edge_of(trace))
            near += sum(abs(found[start] - found[0]) < 0.51 for start in STARTS)
            cells += len(STARTS)
    assert cells > 50
    assert near >= 0.95 * cells


def up_to_the_tuned_lr(
    folder: Path,
) -> Iterator[tuple[tuple[str, str, int, int, int], dict, float]]:
    """Whole runs of at least 300 updates: (workload, kind, updates, seed, half decades of the LR),
    the run, and the best accuracy at any LR."""
    for name, runs in records(folder):
        tuned = tuned_of(runs)
        for (kind, total, seed, exponent), run in runs.items():
            losses = run["losses"]
            if kind not in ("lin", "cos") or exponent > tuned or None in losses:
                continue
            if len(losses) != total or total < 300:
                continue
            best = max(r["acc"] or 0 for key, r in runs.items() if key[:3] == (kind, total, seed))
            yield (name, kind, total, seed, exponent), run, best


def stream(means: tuple[float, ...], per_epoch: int) -> list[float]:
    noise = random.Random(0)
    each = [means[min(epoch, 2)] for epoch in range(12) for _ in range(per_epoch)]
    return [mean + CHANCE_AND_NOISE * noise.gauss(0, 1) for mean in each]


@pytest.mark.parametrize("means", DEAD)
def test_a_run_that_falls_back_to_chance_is_rolled_back(means: tuple[float, ...]) -> None:
    losses = stream(means, 400)
    trace = drive(Adaptive(search="off"), losses, run_of(len(losses)))
    back = [i for i, (*_, decision) in enumerate(trace) if decision.action == "rollback"]
    assert back
    assert 800 < back[0] < 800 + 12 * 32
    assert "have lost half of the descent from" in trace[back[0]][2].reason
    assert trace[back[0]][0].guard.factor == 0.5


def test_one_that_falls_back_at_once_goes_back_to_the_untouched_model() -> None:
    losses = stream((2.45, 1.91, 2.31), 100)[: 32 * 20]
    trace = drive(Adaptive(search="off"), losses, run_of(4000))
    actions = [decision.action for *_, decision in trace]
    assert "rollback" in actions
    assert "snapshot" not in actions  # since the untouched model's, before the first update


def test_no_healthy_recorded_run_is_rolled_back(real_data: Path) -> None:
    judged = 0
    for key, run, _ in up_to_the_tuned_lr(real_data):
        judged += 1
        state, size = guard.Guard(), max(8, min(key[2] // 60, 32))
        for update, loss in enumerate(run["losses"], 1):
            state, _ = guard.observe(state, Reading.of(update, 0.0, loss), size)
        assert state.rollbacks == 0, key
    assert judged > 50
