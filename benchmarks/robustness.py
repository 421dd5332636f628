"""What a wrong base LR costs: the tables of ``lr_robustness``, from its runs.

::

    toolkit sweep lr_robustness-tuning            # then: python benchmarks/robustness.py tuned
    toolkit sweep lr_robustness                   # and -tries, -edge, -growth, -again, ...
    python benchmarks/robustness.py same          # do its runs of adaptive still decide the same?
    python benchmarks/robustness.py               # the tables, of whatever is finished

The rules stand in ``toolkit/studies/robustness.py``. Of an unfinished study it takes what both
sides of a difference have, and says how many seeds that is.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np

from toolkit import replay
from toolkit.config import RUNS
from toolkit.errors import RunError
from toolkit.records import recorded_losses
from toolkit.records.events import entrant
from toolkit.records.result import RESULT, Result, read_result
from toolkit.stats.paired import compare
from toolkit.stats.tuning import best_rate, tuning_cost
from toolkit.studies import robustness as study
from toolkit.studies.rules import SEARCH_SEEDS

SHORT = {
    study.RESNET: "ResNet-8",
    study.LSTM: "LSTM",
    study.TRANSFORMER: "transformer",
    study.MINILM: "MiniLM",
}
PRODIGY, AVERAGED = "cosine (prodigy)", "constant (schedule-free)"
ENOUGH = 3
"""Workloads of four on which a target must be met."""


class Score(NamedTuple):
    """A finished run.

    Attributes:
        target: the workload.
        entrant: its schedule, as reports call it.
        lr: the base LR.
        seed: what it is paired by.
        test, validation: the metric, 0 if diverged.
        diverged: whether its weights were lost.
    """

    target: str
    entrant: str
    lr: float
    seed: int
    test: float
    validation: float
    diverged: bool = False


class Scores:
    """The runs of a study.

    Args:
        runs: in any order.
    """

    def __init__(self, runs: Iterable[Score]) -> None:
        self._cells: dict[tuple[str, str], dict[float, dict[int, Score]]] = defaultdict(
            lambda: defaultdict(dict)
        )
        for run in runs:
            self._cells[run.target, run.entrant][_key(run.lr)][run.seed] = run

    def at(self, target: str, name: str, lr: float) -> dict[int, float]:
        """Seed -> test score; empty where there are no runs."""
        cell = self._cells[target, name].get(_key(lr), {})
        return {seed: run.test for seed, run in cell.items()}

    def lost(self, target: str, name: str, lr: float) -> dict[int, float]:
        """Seed -> points above cosine at the tuned LR, where both have runs."""
        reference = self.at(target, "cosine", study.base_lr(target))
        mine = self.at(target, name, lr)
        return {seed: mine[seed] - reference[seed] for seed in sorted(mine.keys() & reference)}

    def by_rate(self, target: str, name: str) -> dict[float, dict[int, Score]]:
        """LR, ascending -> seed -> run."""
        return dict(sorted(self._cells[target, name].items()))


def read(folder: Path, metric: str | None = None) -> Scores:
    """The finished runs of a study's folder.

    Args:
        folder: there may be none.
        metric: which; by default the task's headline metric.
    """
    results = (read_result(file.parent) for file in sorted(folder.glob(f"*/{RESULT}")))
    return Scores(_score(result, metric) for result in results)


def _score(result: Result, metric: str | None) -> Score:
    def value(metrics: Mapping[str, float | None]) -> float:
        return 0.0 if result.diverged else metrics[metric or next(iter(metrics))] or 0.0

    settings = result.recipe_settings
    name = entrant(result.schedule, result.sees, settings.get("optimizer", ""))
    lr, metrics = settings["lr"], result.metrics
    scores = value(metrics.test), value(metrics.validation)
    return Score(result.pair, name, lr, result.seed, *scores, result.diverged)


def _key(lr: float) -> float:
    return float(f"{lr:.6g}")


def chosen(runs: Scores) -> Iterator[str]:
    """The LRs that the tuning half chose, a line each."""
    for target in study.WORKLOADS:
        for name in ("cosine", AVERAGED):
            found = runs.by_rate(target, name)
            seeds = {len(cell) for cell in found.values()}
            if not found or seeds != {len(SEARCH_SEEDS)}:
                yield f"{SHORT[target]}, {name}: not finished"
                continue
            grid = [[run.validation for _, run in sorted(found[lr].items())] for lr in found]
            lr, interior = best_rate([*found], np.array(grid))
            means = ", ".join(
                f"{k:g}: {fmean(row):.2f}" for k, row in zip(found, grid, strict=True)
            )
            border = "" if interior else "; AT THE BORDER: widen the grid"
            yield f"{SHORT[target]}, {name}: {lr:g} ({means}){border}"


def curves(runs: Scores) -> Iterator[str]:
    """Points above tuned cosine by schedule and factor of the base LR, means over seeds."""
    yield "| workload | schedule | " + " | ".join(f"x{f:g}" for f in study.FACTORS) + " | seeds |"
    yield "|---|---|" + "---|" * (len(study.FACTORS) + 1)
    for target in study.WORKLOADS:
        for name in (*study.ENTIRE, *study.FEW, AVERAGED, PRODIGY):
            cells = [runs.lost(target, name, lr) for lr in _lrs(target, name)]
            if any(cells):
                means = " | ".join(f"{fmean(c.values()):+.2f}" if c else "" for c in cells)
                seeds = min(len(cell) for cell in cells if cell)
                yield f"| {SHORT[target]} | {name} | {means} | {seeds} |"


def _lrs(target: str, name: str) -> list[float]:
    """The base LRs of an entrant, one for each factor; prodigy's stands under x1."""
    if name == PRODIGY:
        return [1.0 if factor == 1 else 0.0 for factor in study.FACTORS]
    base = study.averaged_lr(target) if name == AVERAGED else study.base_lr(target)
    return [base * factor for factor in study.FACTORS]


class Standing(NamedTuple):
    """``adaptive`` on a workload, in points above cosine at the tuned LR.

    Attributes:
        mean: over base LRs, of the means over seeds.
        worst: the lowest of these means.
        spread: the highest less the lowest.
        tuned: at the tuned LR, with the paired 95 % interval.
        prodigy: above prodigy at 1.
        tries: number of random tries -> above the best of cosine's.
        seeds: of the base LR with the fewest.
    """

    mean: float
    worst: float
    spread: float
    tuned: tuple[float, float, float]
    prodigy: float
    tries: Mapping[int, float]
    seeds: int


def standing(runs: Scores, tries: Scores, target: str) -> Standing | None:
    """How ``adaptive`` stands on a workload; None before there are two seeds of all it needs."""
    cells = [runs.lost(target, "adaptive", study.base_lr(target) * f) for f in study.FACTORS]
    seeds = min(map(len, cells))
    other = runs.lost(target, PRODIGY, 1.0)
    if seeds < 2 or not other:
        return None
    means = [fmean(cell.values()) for cell in cells]
    mean = fmean(means)
    at_tuned = cells[study.FACTORS.index(1.0)]
    paired = compare([*at_tuned.values()], [0.0] * len(at_tuned))
    reference = fmean(runs.at(target, "cosine", study.base_lr(target)).values())
    return Standing(
        mean,
        min(means),
        max(means) - min(means),
        (paired.mean, paired.low, paired.high),
        mean - fmean(other.values()),
        {k: mean + reference - score for k, score in best_of_tries(tries, target).items()},
        seeds,
    )


def best_of_tries(tries: Scores, target: str) -> dict[int, float]:
    """Number of random tries -> expected test score of the one that is best in validation."""
    by_seed: dict[int, list[Score]] = defaultdict(list)
    for cell in tries.by_rate(target, "cosine").values():
        for seed, run in cell.items():
            by_seed[seed].append(run)
    whole = [found for found in by_seed.values() if len(found) == study.TRIES]
    if not whole:
        return {}
    validation, test = (
        np.array([[getattr(run, split) for run in found] for found in whole]).T
        for split in ("validation", "test")
    )
    cost = tuning_cost(validation, test)
    return {k: score.value for k, score in zip(cost.tries, cost.scores, strict=True)}


def standings(found: Mapping[str, Standing]) -> Iterator[str]:
    """A line a workload, as Markdown."""
    tried = sorted({k for one in found.values() for k in one.tries})
    head = [f"after {k} {'try' if k == 1 else 'tries'}" for k in tried]
    names = ["workload", "mean", "worst base LR", "spread", "at the tuned LR", "prodigy", *head]
    yield "| " + " | ".join([*names, "seeds"]) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for target, one in found.items():
        numbers = [f"{value:+.2f}" for value in (one.mean, one.worst)]
        numbers += [f"{one.spread:.2f}", "{:+.2f} ({:+.2f} to {:+.2f})".format(*one.tuned)]
        numbers += [f"{one.prodigy:+.2f}"]
        numbers += [f"{one.tries[k]:+.2f}" if k in one.tries else "" for k in tried]
        yield f"| {SHORT[target]} | " + " | ".join(numbers) + f" | {one.seeds} |"


def targets(found: Sequence[Standing]) -> Iterator[tuple[str, str, bool]]:
    """What was asked, what came out, and whether it is met."""
    near = sum(one.mean >= -1 and one.worst >= -2 for one in found)
    yield "mean within 1, each base LR within 2", f"{near} of {len(found)}", near >= ENOUGH
    tuned = sum(one.tuned[0] >= -0.5 and one.tuned[1] > -2 for one in found)
    at_tuned = "at the tuned LR -0.5 or above, interval above -2"
    yield at_tuned, f"{tuned} of {len(found)}", tuned >= ENOUGH
    after = [one.tries[4] for one in found if 4 in one.tries]
    if after:
        mean = fmean(after)
        said = f"{mean:+.2f} on {len(after)} workloads"
        yield "one run at least as good as cosine after 4 tries", said, mean >= 0
    beside = fmean(one.prodigy for one in found)
    yield "not worse than prodigy at 1", f"{beside:+.2f} on {len(found)} workloads", beside >= 0


def ablations(runs: Scores, parts: Mapping[str, Scores]) -> Iterator[str]:
    """Points that ``adaptive`` loses without a part, mean over workloads and seeds."""
    yield "| without | base LR | with it less without | by workload | seeds |"
    yield "|---|---|---|---|---|"
    for part, without in parts.items():
        for factor, schedule in study.ABLATIONS[part].cells:
            # Without the search, the guard is judged beside runs without the search.
            beside = parts["edge"] if part == "guard" and schedule.search == "off" else runs
            worth = {}
            for target in study.WORKLOADS:
                lr = study.base_lr(target) * factor
                a, b = beside.at(target, "adaptive", lr), without.at(target, "adaptive", lr)
                worth[target] = [a[seed] - b[seed] for seed in a.keys() & b.keys()]
            if not all(worth.values()):
                continue
            means = {target: fmean(values) for target, values in worth.items()}
            each = ", ".join(f"{SHORT[target]} {mean:+.2f}" for target, mean in means.items())
            seeds = min(map(len, worth.values()))
            yield f"| {part} | x{factor:g} | {fmean(means.values()):+.2f} | {each} | {seeds} |"


def report(folder: Path, metric: str | None) -> Iterator[str]:
    """Everything of one metric."""
    runs = read(folder / study.NAME, metric)
    tries = read(folder / f"{study.NAME}-tries", metric)
    yield f"Points of {metric or 'the headline metric'} above cosine at its tuned LR:"
    yield ""
    yield from curves(runs)
    found = {target: standing(runs, tries, target) for target in study.WORKLOADS}
    complete = {target: one for target, one in found.items() if one is not None}
    if complete:
        yield "\n`adaptive`, whatever the base LR:\n"
        yield from standings(complete)
        yield "\n| asked | found | met |\n|---|---|---|"
        for asked, said, met in targets([*complete.values()]):
            yield f"| {asked} | {said} | {'yes' if met else 'no'} |"
    again = read(folder / f"{study.NAME}-again", metric)
    later = {target: standing(again, tries, target) for target in study.AGAIN}
    if found_again := {target: one for target, one in later.items() if one is not None}:
        yield "\nWith the rule for runs that stand still, on other seeds:\n"
        yield from curves(again)
        yield "\nWith these in the place of the first:\n"
        yield from standings(complete | found_again)
        yield "\n| asked | found | met |\n|---|---|---|"
        for asked, said, met in targets([*(complete | found_again).values()]):
            yield f"| {asked} | {said} | {'yes' if met else 'no'} |"
    parts = {part: read(folder / f"{study.NAME}-{part}", metric) for part in study.ABLATIONS}
    yield "\nWhat parts of `adaptive` are worth:\n"
    yield from ablations(runs, parts)


def same(folder: Path) -> Iterator[str]:
    """How many runs of ``adaptive`` decide today as they did, a line a workload."""
    counts = defaultdict[str, list[bool]](list)
    for file in sorted(folder.glob(f"*/{RESULT}")):
        result = read_result(file.parent)
        if result.schedule != "adaptive":
            continue
        one = replay.prepare(recorded_losses.load(file.parent))
        try:
            replay.check(one, one.judge())
        except RunError:
            counts[result.pair].append(False)
        else:
            counts[result.pair].append(True)
    for target, kept in counts.items():
        yield f"{SHORT[target]}: {sum(kept)} of {len(kept)} decide the same to the bit"


def main() -> None:
    """Print the tables, or what another command asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("tables", "tuned", "same"), nargs="?", default="tables")
    parser.add_argument("--runs", type=Path, default=RUNS)
    options = parser.parse_args()
    if options.command == "tuned":
        print("\n".join(chosen(read(options.runs / f"{study.NAME}-tuning"))))
        return
    if options.command == "same":
        print("\n".join(same(options.runs / study.NAME)))
        return
    for metric in (None, "accuracy"):
        print("\n".join(report(options.runs, metric)), end="\n\n")


if __name__ == "__main__":
    main()
