"""Rules that choose a base LR by trials, judged on the given records of ten workloads.

The records (``$TOOLKIT_DATA/wind_tunnel``, README there) are whole runs on a grid of half decades
and short trials from the same weights on the same batches, so a rule is judged in milliseconds. An
LR is 10 ** (k / 2). A trial at an LR or of a length that was not recorded is an error.

usage: python benchmarks/tunnel_records.py
"""

import gzip
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from toolkit.schedules.adaptive.growth import EDGE_DIVISOR, HORIZON_POWER, HORIZON_UPDATES

CLASSES = {
    "fashion_cnn_bn": 10,
    "agnews_bag": 4,
    "imdb_conv": 2,
    "imdb_lstm": 2,
    "cifar_resnet": 10,
    "charlm": 6,
    "digits": 10,
    "deep_mlp": 10,
    "pre_resnet": 5,
    "minilm_sst": 2,
}
"""Workload -> one over chance."""
SGD = ("fashion_cnn_bn", "deep_mlp", "pre_resnet")
STARTS = (-4, -2, 0, 2, 4)
"""Half decades from the tuned LR to the user's."""
UPDATES, DECADE, MOST, HARM, SPREADS = 5, 2, 30, 0.5, 6.0
"""The edge: updates of a trial, half decades of a leap, updates in all, harm as a share of the
first loss and in standard deviations of a reading."""
MINI, JUDGED = 12, 16 / 3
"""R*: updates of an annealed mini-run, and what judging it without gradient costs in updates."""
DIVISORS, POWERS = (6.0, 10.0, 14.0, EDGE_DIVISOR, 30.0, 50.0), (0.0, 0.2, HORIZON_POWER, 0.6)
"""Of the edge, and by how much it grows with the budget: what ``left_out`` chooses from."""
CAP = 10.0
"""Points: what a workload can lose at most where the constants are chosen."""


class Run(NamedTuple):
    """A recorded run: points at its end, its losses, and those of its last weights."""

    accuracy: float
    losses: list[float]
    seen: float
    unseen: float


class Workload:
    """The records of one workload at one length of run.

    Raises:
        ValueError: if it has no whole runs of this length.
    """

    def __init__(self, name: str, total: int, folder: Path) -> None:
        self.name, self.total, self.chance = name, total, 100 / CLASSES[name]
        self.runs: dict[str, dict[int, dict[int, Run]]] = defaultdict(lambda: defaultdict(dict))
        with gzip.open(folder / f"{name}.json.gz", "rt") as file:
            for key, record in json.load(file)["files"].items():
                if found := re.match(r"(\w+)_T(\d+)_s(\d+)_k(-?\d+)\.json", key):
                    kind, length, seed, k = found[1], int(found[2]), int(found[3]), int(found[4])
                    whole = kind in ("lin", "cos") and length == total
                    if whole or (kind, length) in (("mini", MINI), ("lin", round(0.9 * total))):
                        self.runs[kind if whole else f"{kind}{length}"][seed][k] = _run(record)
                    elif kind == "const":
                        self.runs["const"][seed][k] = _run(record)
        self.linear = self._means("lin")
        grid = self._means("cos") or self.linear
        if not grid:
            raise ValueError(f"{name} has no whole runs of {total} updates")
        self.tuned = max(grid, key=grid.__getitem__)
        self.reference = grid[self.tuned]
        shorter = self.runs[f"lin{round(0.9 * total)}"]
        missing = [
            self.runs["lin"][s][k].accuracy - run.accuracy
            for s, row in shorter.items()
            for k, run in row.items()
            if k in self.runs["lin"][s]
        ]
        self.tenth = max(0.0, fmean(missing)) if missing else 0.0

    def _means(self, kind: str) -> dict[int, float]:
        rows = [row for row in self.runs[kind].values() if len(row) > 2]
        return {
            k: fmean(r[k].accuracy for r in rows if k in r) for k in {k for r in rows for k in r}
        }

    def losses(self, seed: int, k: int) -> list[float]:
        """The first losses at a constant LR; beyond the highest recorded, which is harmful, nan."""
        row = self.runs["const"][seed]
        if k > max(row):
            return [row[max(row)].losses[0], *[math.nan] * UPDATES]
        return row[k].losses

    def score(self, k: float, spent: float) -> float:
        """Points beside the tuned reference, of linear at an LR after ``spent`` updates of search.

        Between recorded LRs along a monotone cubic; outside of them it is chance.
        """
        low = math.floor(k + 1e-9)
        value = _between([self.linear.get(low + i, self.chance) for i in (-1, 0, 1, 2)], k - low)
        best = max(self.linear.values())
        share = min(1.0, max(0.0, (value - self.chance) / (best - self.chance)))
        return value - self.tenth * share * spent / (0.1 * self.total) - self.reference


Rule = Callable[[Workload, int, int], tuple[float, float]]
"""Workload, seed and the user's LR -> the LR chosen and updates spent."""


def edge(losses: Callable[[int], list[float]], start: int) -> tuple[float, int]:
    """The smallest harmful LR: by decades from the user's, then bisected to half a decade.

    Returns:
        Half a decade above the largest harmless LR below every harmful one, and updates spent.
    """
    fine: dict[int, list[float]] = {}
    harmful: list[int] = []
    spent, k, first = 0, start, math.nan
    while spent + UPDATES <= MOST:
        trial = losses(k)[:UPDATES]
        first = trial[0] if math.isnan(first) else first
        made = harm(trial, fine[min(fine)] if fine else [], first)
        spent += made or UPDATES
        if made:
            harmful.append(k)
        else:
            fine[k] = trial
        below = [other for other in fine if not harmful or other < min(harmful)]
        if not harmful:
            k = max(fine) + DECADE
        elif not below:
            k = min(harmful) - DECADE
        elif min(harmful) - max(below) > 1:
            k = (min(harmful) + max(below)) // 2
        else:
            break
    below = [other for other in fine if not harmful or other < min(harmful)]
    return (max(below) if below else min(harmful) - DECADE) + 1, spent


def harm(trial: list[float], lowest: list[float], first: float) -> int:
    """After how many updates a trial has done harm; 0 if it has not."""
    limit = max(HARM * abs(first), SPREADS * _spread(lowest))
    above: list[float] = []
    for loss, usual in zip(trial, [*lowest, *[first] * UPDATES], strict=False):
        above.append(loss - usual)
        lost = not math.isfinite(loss) or above[-1] > 2 * limit
        if lost or (len(above) > 1 and min(above[-2:]) > limit):
            return len(above)
    return 0


def r_star(load: Workload, seed: int, start: int) -> tuple[float, float]:
    """Annealed mini-runs below the edge, judged without gradient: the LR and updates spent."""
    top, made = edge(partial(load.losses, seed), start)
    bad, allowance = round(top), 0.1 * load.total
    spent, scores = float(made), dict[int, float]()
    if allowance - spent < MINI + JUDGED:
        return bad - 2.5, spent

    def tried(k: int) -> bool:
        nonlocal spent
        if k in scores or k >= bad or spent + MINI + JUDGED > allowance:
            return False
        run = load.runs[f"mini{MINI}"][seed][k]
        spent += MINI + JUDGED
        worst = 1.5 * run.losses[0]
        scores[k] = min(worst, (run.seen + run.unseen) / 2)
        return True

    tried(bad - 1), tried(bad - 2)
    while _best(scores) == min(scores) and tried(min(scores) - DECADE):
        pass
    tried(_best(scores) + (1 if _vertex(scores) > _best(scores) else -1))
    return _vertex(scores) - 2 * max(0.0, 0.4 * math.log10(load.total / 150)), spent


def _best(scores: dict[int, float]) -> int:
    return min(scores, key=scores.__getitem__)


def _vertex(scores: dict[int, float]) -> float:
    """Of the parabola through the best score and its neighbours, at most half way to them."""
    middle = _best(scores)
    below = max((k for k in scores if k < middle), default=None)
    above = min((k for k in scores if k > middle), default=None)
    if below is None or above is None:
        return float(middle)
    left, right = (scores[k] - scores[middle] for k in (below, above))
    a, b = middle - below, above - middle
    curve = left / a + right / b
    place = (left * b / a - right * a / b) / (2 * curve) if curve > 0 else 0.0
    return middle + min(b / 2, max(-a / 2, place))


def _run(record: dict[str, Any]) -> Run:
    def of(name: str) -> float:
        value = record.get(name)
        return math.inf if value is None or record.get("dead") else float(value)

    losses = [math.nan if loss is None else loss for loss in record["losses"]]
    lost = [math.nan] * max(0, UPDATES - len(losses))
    return Run(record.get("acc") or 0.0, losses + lost, of("seen_train"), of("unseen_train"))


def _between(y: list[float], f: float) -> float:
    if f < 1e-6:
        return y[1]
    d = [b - a for a, b in pairwise(y)]
    slopes = [0.0 if a * b <= 0 else 2 * a * b / (a + b) for a, b in pairwise(d)]
    ends = (2 * f**3 - 3 * f * f + 1) * y[1] + (3 * f * f - 2 * f**3) * y[2]
    return ends + (f**3 - 2 * f * f + f) * slopes[0] + (f**3 - f * f) * slopes[1]


def _spread(losses: list[float]) -> float:
    """Robust standard deviation of a reading, from neighbours."""
    steps = [abs(b - a) for a, b in pairwise(losses)]
    return 1.4826 * median(steps) / math.sqrt(2) if steps else 0.0


def workloads(total: int, folder: Path | None = None) -> Iterator[Workload]:
    """Those with whole runs of this length; the pretrained encoder's are of 400 for 1,000."""
    folder = folder or Path(os.environ["TOOLKIT_DATA"]) / "wind_tunnel"
    for name in CLASSES:
        try:
            yield Workload(name, 400 if (name, total) == ("minilm_sst", 1000) else total, folder)
        except ValueError:
            continue


def robustness(loads: list[Workload]) -> tuple[int, int, list[int]]:
    """Cells whose edge is within half a decade of that found from the tuned LR, all, and costs."""
    near, cells, costs = 0, 0, list[int]()
    for load in loads:
        for seed in load.runs["const"]:
            trials = partial(load.losses, seed)
            found = [edge(trials, load.tuned + start) for start in STARTS]
            there, _ = edge(trials, load.tuned)
            near += sum(abs(place - there) <= 1 for place, _ in found)
            cells += len(found)
            costs += [made for _, made in found]
    return near, cells, costs


def losses(load: Workload, rule: Rule) -> float:
    """Points that a rule loses on a workload, over seeds and starts."""
    seeds = [seed for seed in load.runs["lin"] if seed in load.runs["const"]]
    chosen = [rule(load, seed, load.tuned + start) for seed in seeds for start in STARTS]
    return fmean(load.score(place, spent) for place, spent in chosen)


def main() -> None:
    """Print how robust the edge is, and what R* and fixed distances from the edge lose."""
    near, cells, costs = robustness(list(workloads(1000)))
    print(f"edge within half a decade: {near} of {cells} cells; updates: ", end="")
    print(f"mean {fmean(costs):.1f}, most {max(costs)}")
    print("| updates | rule | mean | worst | by workload |\n|---|---|---|---|---|")
    for total in (300, 1000, 4000):
        for name, rule in RULES.items():
            lost = {load.name: losses(load, rule) for load in workloads(total)}
            plain = [value for key, value in lost.items() if key != "digits"]
            each = ", ".join(f"{key} {value:+.1f}" for key, value in lost.items())
            print(f"| {total} | {name} | {fmean(plain):+.2f} | {min(plain):+.1f} | {each} |")
    print("| workload left out | divisor | power | loses with these | with 20 and 0.4 |")
    print("|---|---|---|---|---|")
    lengths = {total: list(workloads(total)) for total in (300, 1000, 4000)}
    rows = list(left_out(lengths))
    for name, (divisor, power), anew, usual in rows:
        print(f"| {name} | {divisor:g} | {power:g} | {anew:+.2f} | {usual:+.2f} |")
    print(f"| mean | | | {fmean(r[2] for r in rows):+.2f} | {fmean(r[3] for r in rows):+.2f} |")
    found = found_errors(lengths)
    print("| toolkit find on | error in decades | its size |\n|---|---|---|")
    for name, errors in found.items():
        print(f"| {name} | {fmean(errors):+.2f} | {fmean(map(abs, errors)):.2f} |")
    sizes = [abs(error) for errors in found.values() for error in errors]
    near, far = (fmean(float(size <= limit) for size in sizes) for limit in (0.5, 1.0))
    mean = fmean(fmean(map(abs, errors)) for errors in found.values())
    print(f"size {mean:.2f} in the mean over workloads; of {len(sizes)} cells {near:.0%} within")
    print(f"half a decade, {far:.0%} within one")


def found_errors(loads: Mapping[int, Sequence[Workload]]) -> dict[str, list[float]]:
    """How far the LR of ``toolkit find`` is from the tuned one, by workload.

    Args:
        loads: length in updates -> workloads.

    Returns:
        Decades from the tuned to the found LR, for each length, seed and start of the search.
    """
    errors = defaultdict[str, list[float]](list)
    for total, row in loads.items():
        rule = _divided(EDGE_DIVISOR * (total / HORIZON_UPDATES) ** HORIZON_POWER)
        for load in row:
            for seed, start in product(load.runs["const"], STARTS):
                place, _ = rule(load, seed, load.tuned + start)
                errors[load.name].append((place - load.tuned) / 2)
    return dict(errors)


def left_out(
    loads: Mapping[int, Sequence[Workload]],
) -> Iterator[tuple[str, tuple[float, float], float, float]]:
    """The product's two constants of the start, chosen anew without each workload in turn.

    A run of T updates begins at the edge over c (T / 1000) ** p. For each workload c and p are
    those of a grid that lose least on the others, mean over lengths and workloads, label noise
    apart and each loss capped at ``CAP`` points.

    Args:
        loads: length in updates -> workloads.

    Yields:
        The workload left out, (c, p) chosen by the others, what they lose on it, mean over its
        lengths, and what the product's own do.
    """
    points = dict[tuple[float, float], dict[str, list[float]]]()
    for pair in product(DIVISORS, POWERS):
        points[pair] = defaultdict(list)
        for total, row in loads.items():
            rule = _divided(pair[0] * (total / HORIZON_UPDATES) ** pair[1])
            for load in row:
                points[pair][load.name].append(max(-CAP, losses(load, rule)))
    names = [name for name in points[DIVISORS[0], POWERS[0]] if name != "digits"]
    for left in names:

        def others(pair: tuple[float, float], left: str = left) -> float:
            return fmean(fmean(points[pair][name]) for name in names if name != left)

        best = max(points, key=others)
        own = fmean(points[EDGE_DIVISOR, HORIZON_POWER][left])
        yield left, best, fmean(points[best][left]), own


def _divided(by: float) -> Rule:
    def rule(load: Workload, seed: int, start: int) -> tuple[float, float]:
        place, made = edge(partial(load.losses, seed), start)
        return place - 2 * math.log10(by), made

    return rule


RULES: dict[str, Rule] = {"R*": r_star, "edge / 20": _divided(20.0), "edge / 30": _divided(30.0)}

if __name__ == "__main__":
    main()
