"""The wind tunnel: six small workloads on which schedules are judged by whole runs.

``record`` makes grids of cosine and linear over the base LR, to find the tuned one; ``judge`` makes
runs of each rule from it and from base LRs a hundred times off, on seeds of their own; ``table``
prints what the rules lose beside the tuned schedule, from the records alone. All runs are the
toolkit's own, on one thread; one that is in the records is not made again.

usage: python benchmarks/tunnel.py record|judge|table [--only WORKLOAD,...] [--updates N,...]
                                                      [--rules RULE,...]
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
TASK = HERE / "tunnel_tasks.py"
RECORDS = HERE / "results" / "tunnel"
WORKLOADS = ("plateau", "batchnorm", "transformer", "noise", "pretrained", "stream")
BESIDE = "noise"
"""What a training loss cannot see: reported beside the others, not among them."""
TUNED_BY = {300: "linear", 1000: "cosine", 4000: "linear"}
"""The schedule that a rule is compared with, by length of run."""
GRIDS = ((1000, "cosine"), (300, "linear"), (4000, "linear"))
START = {"plateau": -3, "batchnorm": -2, "transformer": -4, "noise": -5, "pretrained": -5}
"""Where a grid begins, in half decades; elsewhere at -3."""
TUNING_SEEDS, JUDGING_SEEDS = {300: (0, 1, 2), 1000: (0, 1, 2), 4000: (0,)}, (10, 11, 12)
BASES = (0.01, 1.0, 100.0)
KEPT = 50
"""Losses kept of a run: means of so many parts."""
GONE = ("gone",)
"""In place of arguments: no longer in the toolkit, its runs stand in the records alone."""
JUDGED = "adaptive-validation"
EVALUATIONS = 40
"""Evaluations of a run whose schedule sees them; others are evaluated at their end."""
PRODIGY = ("--recipe.optimizer", "prodigy", "schedule:linear", "--schedule.warmup", "0.04")
RULES = {
    "adaptive": ("schedule:adaptive",),
    JUDGED: ("schedule:adaptive", "--schedule.judge", "validation"),
    "adaptive without growth": ("schedule:adaptive", "--schedule.growth", "False"),
    "prodigy at 1": PRODIGY,
    "cosine at the user's LR": ("schedule:cosine",),
    "search until November 2026": GONE,
}
"""What is judged: the arguments behind the workload and its budget."""
IGNORES_BASE = ("prodigy at 1",)
"""Rules that have a base LR of their own, 1."""


class Cell(NamedTuple):
    """One run: what it trains and how."""

    workload: str
    rule: str
    updates: int
    seed: int
    lr: float
    argv: tuple[str, ...]

    @property
    def key(self) -> str:
        """Its name in the records of its workload."""
        return f"{self.rule}/{self.updates}/{self.seed}/{self.lr:.4g}"


class Records:
    """The finished runs of one workload: accuracy, what was found, and losses by cell.

    Args:
        workload: its name.
        complete: whether to make the runs that are missing.
    """

    def __init__(self, workload: str, complete: bool) -> None:
        self.file = RECORDS / f"{workload}.json"
        self.complete = complete
        self.runs: dict[str, dict[str, Any]] = (
            json.loads(self.file.read_text()) if self.file.exists() else {}
        )

    def of(self, cell: Cell) -> dict[str, Any]:
        """The record of a cell.

        Raises:
            KeyError: if there is none and it is not to be made, or cannot be any more.
        """
        if cell.key not in self.runs:
            if not self.complete or cell.argv == GONE:
                raise KeyError(cell.key)
            self.runs[cell.key] = made = run(cell)
            self._write()
            print(f"{cell.workload}/{cell.key}: {made['accuracy']:.2f}", flush=True)
        return self.runs[cell.key]

    def _write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(self.runs.items())]
        partial = self.file.with_suffix(".partial")
        partial.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        partial.rename(self.file)


def run(cell: Cell) -> dict[str, Any]:
    """Train one cell through the toolkit's own loop."""
    from toolkit.config import parse
    from toolkit.training import loop
    from toolkit.training.build import build

    argv = [f"{TASK}/{cell.workload}", "--recipe.updates", str(cell.updates)]
    argv += ["--recipe.lr", repr(cell.lr), "--seed", str(cell.seed)]
    every = cell.updates // (EVALUATIONS if cell.rule == JUDGED else 1)
    argv += ["--eval-every", str(every), "--save-every", "0", "--keep-weights", "False"]
    argv += ["--wandb", "off", "--progress", "False", *cell.argv]
    with tempfile.TemporaryDirectory() as folder:
        prepared = build(parse(argv), Path(folder))
        result = loop.fit(prepared)
        events = (prepared.folder / "events.jsonl").read_text().splitlines()
        loop.release(prepared)
    assert result is not None  # nobody stops it
    readings = [e for e in map(json.loads, events) if "loss" in e and "kind" not in e]
    reached = result.metrics.test.get("accuracy") or 0.0
    record = {"accuracy": round(reached, 3), "losses": _thin([e["loss"] for e in readings])}
    trials = [e for e in readings if e["action"] in ("trial", "restore")]
    if trials:
        chosen = next((e["lr"] for e in readings if e["update"] > trials[-1]["update"]), None)
        record |= {"searched": trials[-1]["update"], "reason": trials[-1]["reason"], "lr": chosen}
    return record | {"rollbacks": result.rollbacks}


def _thin(losses: list[float | None]) -> list[float | None]:
    """Means of ``KEPT`` parts; None where a loss was not finite."""
    part = max(1, len(losses) // KEPT)
    parts = [losses[first : first + part] for first in range(0, len(losses), part)]
    finite = [[loss for loss in part if loss is not None] for part in parts]
    return [
        round(fmean(kept), 4) if len(kept) == len(part) else None
        for kept, part in zip(finite, parts, strict=True)
    ]


def grid(records: Records, workload: str, updates: int, schedule: str) -> dict[int, float]:
    """Mean accuracy by half decade of the LR, extended until the best has two on each side."""
    found: dict[int, float] = {}

    def at(k: int) -> float:
        cells = [
            Cell(workload, schedule, updates, seed, 10 ** (k / 2), (f"schedule:{schedule}",))
            for seed in TUNING_SEEDS[updates]
        ]
        found[k] = fmean(records.of(cell)["accuracy"] for cell in cells)
        return found[k]

    at(START.get(workload, -3))
    while missing := [
        k for k in (1, -1, 2, -2) if max(found, key=found.__getitem__) + k not in found
    ]:
        at(max(found, key=found.__getitem__) + missing[0])
    return found


def tuned(records: Records, workload: str, updates: int) -> float:
    """The base LR at which the reference is best."""
    found = grid(records, workload, updates, TUNED_BY[updates])
    return float(10 ** (max(found, key=found.__getitem__) / 2))


def cells(records: Records, workload: str, rule: str, updates: int) -> Iterator[tuple[float, Cell]]:
    """The runs by which a rule is judged, with the base LR's factor beside the tuned one."""
    best = tuned(records, workload, updates)
    for base in (1.0,) if rule in IGNORES_BASE else BASES:
        for seed in JUDGING_SEEDS:
            lr = 1.0 if rule in IGNORES_BASE else best * base
            yield base, Cell(workload, rule, updates, seed, lr, RULES[rule])


def reference(records: Records, workload: str, updates: int) -> dict[int, float]:
    """Accuracy of the tuned schedule on the judging seeds."""
    kind, best = TUNED_BY[updates], tuned(records, workload, updates)
    of = {
        seed: Cell(workload, kind, updates, seed, best, (f"schedule:{kind}",))
        for seed in JUDGING_SEEDS
    }
    return {seed: records.of(cell)["accuracy"] for seed, cell in of.items()}


def losses(records: Records, workload: str, rule: str, updates: int) -> dict[float, float]:
    """Points that a rule loses beside the tuned schedule, by factor of the base LR."""
    found = dict[float, list[float]]()
    for base, cell in cells(records, workload, rule, updates):
        beside = reference(records, workload, updates)[cell.seed]
        found.setdefault(base, []).append(records.of(cell)["accuracy"] - beside)
    return {base: fmean(values) for base, values in found.items()}


class Summary(NamedTuple):
    """What a rule loses beside the tuned schedule, over cells of a workload and a base LR."""

    mean: float
    worst: float
    within: float
    """Share of the cells that lose at most a point."""
    spread: float
    """Highest less lowest mean over base LRs."""


def summary(lost: Mapping[str, Mapping[float, float]]) -> Summary:
    """Over all workloads but ``BESIDE``; ``lost`` is by workload and factor of the base LR."""
    rows = [row for name, row in lost.items() if name != BESIDE] or [*lost.values()]
    flat = [loss for row in rows for loss in row.values()]
    means = [fmean(row[base] for row in rows) for base in rows[0]]
    within = sum(loss >= -1 for loss in flat) / len(flat)
    return Summary(fmean(flat), min(flat), within, max(means) - min(means))


def table(
    rules: Sequence[str], lengths: Sequence[int], names: Sequence[str], complete: bool = False
) -> Iterator[str]:
    """The rules against the tuned schedule, a line each, as Markdown; without those that lack runs.

    Args:
        rules: of ``RULES``.
        lengths: of the runs, in updates.
        names: of ``WORKLOADS``.
        complete: whether to make the runs that are missing.
    """
    yield "| updates | rule | mean | worst | within 1 | between base LRs | by workload |"
    yield "|---|---|---|---|---|---|---|"
    for updates in lengths:
        for rule in rules:
            try:
                lost = {n: losses(Records(n, complete), n, rule, updates) for n in names}
            except KeyError:
                continue
            found = summary(lost)
            each = ", ".join(f"{name} {fmean(row.values()):+.1f}" for name, row in lost.items())
            yield (
                f"| {updates} | {rule} | {found.mean:+.2f} | {found.worst:+.1f} "
                f"| {found.within:.0%} | {found.spread:.2f} | {each} |"
            )


def main() -> None:
    """Carry out one command."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("record", "judge", "table"))
    parser.add_argument("--only", default=",".join(WORKLOADS))
    parser.add_argument("--updates", default="1000,300,4000")
    parser.add_argument("--rules", default=",".join(RULES))
    options = parser.parse_args()
    lengths = [int(n) for n in options.updates.split(",")]
    if options.command == "record":
        for updates, kind in GRIDS:
            for name in options.only.split(",") if updates in lengths else ():
                found = grid(Records(name, complete=True), name, updates, kind)
                print(name, updates, kind, {k: round(v, 2) for k, v in sorted(found.items())})
        return
    complete = options.command == "judge"
    for line in table(options.rules.split(","), lengths, options.only.split(","), complete):
        print(line, flush=True)


if __name__ == "__main__":
    main()
