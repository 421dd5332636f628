"""How often the adaptive schedule's detectors are right: error rates on made-up streams.

Each stream is AR(1) noise of marginal standard deviation 1, so neighbouring readings are correlated
as training losses are, plus what was planted in it. Judged at the end of 400 readings, or at every
reading of 1,600 by the rules of a run without a known end.

usage: python benchmarks/detectors.py [--streams 2000]
"""

import argparse
import math
from collections.abc import Iterator, Sequence

import numpy as np

from toolkit.schedules import Adaptive
from toolkit.schedules.adaptive.detect import is_descent, is_plateau, oscillation, trend
from toolkit.schedules.open_ended import OSCILLATION_P
from toolkit.schedules.reading import Decision, Facts, Reading

READINGS, LONG = 400, 1600
PHIS = (0.0, 0.5, 0.8, 0.9)
DROP = 3.0
"""Standard deviations that a planted descent falls in 400 readings."""
PERIODS = range(2, 9)


def noise(count: int, length: int, phi: float, seed: int) -> np.ndarray:
    """AR(1) streams of unit variance, shape (count, length)."""
    rng = np.random.default_rng(seed)
    streams = rng.standard_normal((count, length))
    streams[:, 1:] *= math.sqrt(1 - phi**2)
    for step in range(1, length):
        streams[:, step] += phi * streams[:, step - 1]
    return streams


def falling(streams: np.ndarray) -> np.ndarray:
    """The streams with a straight descent of ``DROP`` per 400 readings."""
    return streams - DROP * np.arange(streams.shape[1]) / READINGS


def oscillating(streams: np.ndarray, period: int) -> np.ndarray:
    """The streams with a cycle as large as the noise: amplitude 1."""
    turns = 2 * np.pi * np.arange(streams.shape[1]) / period
    return streams + np.cos(turns)


def called_descent(streams: np.ndarray) -> float:
    """Share of the streams in which a descent is seen at the end."""
    return share(is_descent(line) for row in streams if (line := trend(row.tolist())))


def called_plateau(streams: np.ndarray) -> float:
    """Share of the streams in which a plateau is seen at the end."""
    return share(is_plateau(line) for row in streams if (line := trend(row.tolist())))


def called_oscillation(streams: np.ndarray) -> float:
    """Share of the streams in which the rule that acts on oscillations sees one at the end."""
    found = [oscillation(row.tolist()) for row in streams]
    return share(cycle is not None and cycle.p < OSCILLATION_P for cycle in found)


def cut_at(losses: Sequence[float]) -> int | None:
    """The reading at which an open-ended run is first cut for a plateau; None if it never is."""
    for update, (decision, _) in enumerate(open_ended(losses), 1):
        if (decision.pattern, decision.action) == ("plateau", "cut"):
            return update
    return None


def open_ended(losses: Sequence[float]) -> Iterator[tuple[Decision, float]]:
    """The decision on each reading of a run without a known end, and the factor after it."""
    schedule = Adaptive(search="off")
    memory, _ = schedule.start(0.1, Facts(can=frozenset({"restore"})))
    for update, loss in enumerate(losses, 1):
        reading = Reading(update, update / 100, loss, 64.0, 0)
        memory, decision = schedule.observe(memory, reading)
        yield decision, schedule.factor(memory, 0.0)


def share(hits: Iterator[bool]) -> float:
    """How many of them are true, in per cent."""
    return 100 * float(np.mean(list(hits)))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=2000)
    count = parser.parse_args().streams
    print(f"{count} streams a cell, per cent; AR(1) noise, standard deviation 1\n")
    print("| judged at the end of 400 readings | " + " | ".join(f"phi {p}" for p in PHIS) + " |")
    print("|---" * (len(PHIS) + 1) + "|")
    flat = [noise(count, READINGS, phi, seed) for seed, phi in enumerate(PHIS)]
    _row("flat, called descent (at most 10)", map(called_descent, flat))
    _row("falls 3 sd, called descent (at least 90)", (called_descent(falling(s)) for s in flat))
    _row("flat, called plateau", map(called_plateau, flat))
    _row("falls 3 sd, called plateau", (called_plateau(falling(s)) for s in flat))
    _row("flat, called oscillation (at most 5)", map(called_oscillation, flat))
    for period in PERIODS:
        cells = (called_oscillation(oscillating(streams, period)) for streams in flat)
        _row(f"cycle of {period} readings, called oscillation (at least 90)", cells)
    print("\n| judged at every reading of 1,600 | " + " | ".join(f"phi {p}" for p in PHIS) + " |")
    print("|---" * (len(PHIS) + 1) + "|")
    count = min(count, 500)
    long = [noise(count, LONG, phi, 100 + seed) for seed, phi in enumerate(PHIS)]
    falls = [[cut_at(row) for row in falling(streams).tolist()] for streams in long]
    flats = [[cut_at(row) for row in streams.tolist()] for streams in long]
    _row("falls, cut for a plateau (at most 5)", (share(c is not None for c in r) for r in falls))
    for by in (400, 800, 1600):
        cells = (share(c is not None and c <= by for c in r) for r in flats)
        _row(f"flat, cut for a plateau by reading {by}", cells)


def _row(name: str, cells: Iterator[float]) -> None:
    print(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
