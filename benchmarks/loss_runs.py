"""The runs of ``loss_compare.py``, and how what two of them left behind is compared. Pure."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

CAUSES = ("initial_weights_sha", "batch_order_sha")
"""Fields of ``result.json`` that are compared before the readings, the others after them."""
OUTCOMES = ("status", "updates", "rollbacks", "final_weights_sha", "metrics")
READING = ("kind", "epoch", "loss", "count", "nonfinite", "lr", "factor")
METRIC = "metrics."
"""Before the name of a metric: a field of its own among those that are allowed to differ."""
READINGS = (None, "validation_reading")
"""The ``kind`` of events that are readings; an evaluation's event has a loss, too."""
DECISION = ("pattern", "statistic", "action", "reason")
FIELDS = (*CAUSES, *READING, *DECISION, *OUTCOMES)

FAULTY = '''
"""Digits with a loss that is not finite, and a SIGTERM of the process to itself, once."""
import os, pathlib, signal
from toolkit.task import load

class Faulty(type(load("digits"))):
    updates = 0

    def loss(self, model, batch):
        total, count = super().loss(model, batch)
        if model.training:
            self.updates += 1
            stopped = pathlib.Path(__file__).with_suffix(".stopped")
            if self.updates == {stop} and not stopped.exists():
                stopped.touch()
                os.kill(os.getpid(), signal.SIGTERM)
        return (total * float("nan") if model.training and self.updates == 100 else total), count

TASK = Faulty()
'''
USER_FILES = {"faulty.py": FAULTY.format(stop=-1), "stopped.py": FAULTY.format(stop=150)}


class Run(NamedTuple):
    """One run of the set: ``toolkit.train TARGET [flags]``, or a replay of one."""

    name: str
    flags: str
    target: str = "digits/vit_micro"
    ranks: int = 1
    starts: int = 1
    """How often the command is given; each time but the last it is to end as pre-empted."""
    launcher: bool = False
    """Through ``accelerate launch``."""
    shows: str = ""
    """The action, kind of event or status without which it does not test what it is for."""
    replays: str = ""
    """The run of the set whose losses are replayed."""


class Traces(NamedTuple):
    """What a run left behind; a replay has no result."""

    result: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]


def fixed_set(schedules: Iterable[str]) -> list[Run]:
    """Every schedule on one and two ranks, and one run for each thing that a loop can do."""
    each = []
    for name in schedules:
        each.append(Run(name, f"--recipe.updates 120 schedule:{name}"))
        each.append(Run(f"{name}, 2 ranks", f"--recipe.updates 60 schedule:{name}", ranks=2))
        if name == "open-ended":  # in a long window there is nothing for its rules to see
            acting = f"--recipe.updates 300 schedule:{name} --schedule.window 32"
            each.append(Run("all rules", acting, shows="raise"))
    short, long = "--recipe.updates 60", "--recipe.updates 300"
    unsearched = f"{long} schedule:adaptive --schedule.search off"
    diverging = "--recipe.optimizer sgd --recipe.lr 1e30 schedule:constant"
    sgd = "--recipe.optimizer sgd --recipe.clip 1 --recipe.decay matrices --recipe.dropout 0.1"
    seeing = "--sees validation --eval-every 5 schedule:plateau --schedule.patience 1"
    averaged = f"{short} --recipe.optimizer schedule-free schedule:constant"
    split = "--recipe.micro-batch 16 schedule:cosine"
    low = f"{long} --recipe.lr 0.000003 schedule:adaptive"
    return [
        *each,
        Run("accumulation", f"{short} {split}"),
        Run("accumulation, launched", f"{short} {split}", ranks=2, launcher=True),
        Run("search", f"{long} --recipe.lr 0.0003 schedule:adaptive", shows="trial"),
        Run("search, 2 ranks", low, ranks=2, shows="trial"),
        Run("rollback", unsearched, target="faulty.py/vit_micro", shows="rollback"),
        Run("resume", unsearched, target="stopped.py/vit_micro", starts=2, shows="resume"),
        Run("sees validation", f"{long} {seeing}", shows="cut"),
        Run("sgd", f"{short} {sgd} --read-every 4 --seed 1 --arm 1 schedule:wsd"),
        Run("averaged weights", averaged, target="digits/resnetv2_micro"),
        Run("divergence", f"{short} {diverging}", shows="diverged"),
        Run("replay", "", replays="search", shows="trial"),
        Run("replay, plan", "schedule:plan", replays="sees validation"),
    ]


def first_difference(base: Traces, head: Traces, allowed: Collection[str] = ()) -> str | None:
    """The first update and field in which two runs differ, in words; None if they are equal.

    Args:
        base, head: what the runs left behind.
        allowed: fields of ``FIELDS`` that are not compared, and metrics, as ``metrics.NAME``.
    """
    found = _difference(CAUSES, base.result, head.result, allowed)
    if found is not None:
        return found
    for old, new in zip_longest(_readings(base), _readings(head)):
        if new is None or (old is not None and old["update"] < new["update"]):
            return f"update {old['update']}: no such reading in HEAD"
        if old is None or new["update"] < old["update"]:
            return f"update {new['update']}: no such reading in BASE"
        found = _difference((*READING, *DECISION), old, new, allowed)
        if found is not None:
            return f"update {old['update']}: {found}"
    return _difference(OUTCOMES, base.result, head.result, allowed)


def missing(run: Run, traces: Traces) -> str | None:
    """What a run should have left behind and did not: any reading, or what it is to show."""
    told = {event.get(field) for event in traces.events for field in ("action", "kind")}
    if not _readings(traces):
        return "reading"
    return run.shows if run.shows not in {"", *told, traces.result.get("status")} else None


def _readings(traces: Traces) -> list[Mapping[str, Any]]:
    """The readings of training and validation losses."""
    return [e for e in traces.events if "loss" in e and e.get("kind") in READINGS]


def _difference(
    fields: Iterable[str], old: Mapping[str, Any], new: Mapping[str, Any], allowed: Collection[str]
) -> str | None:
    for field in fields:
        before, now = (_without(side.get(field), field, allowed) for side in (old, new))
        if field not in allowed and before != now:
            return f"{field} {before!r} -> {now!r}"
    return None


def _without(value: Any, field: str, allowed: Collection[str]) -> Any:
    """A field's value, without the metrics that are not compared."""
    if f"{field}." != METRIC or value is None:
        return value
    return {
        split: {name: score for name, score in scores.items() if METRIC + name not in allowed}
        for split, scores in value.items()
    }


def load(path: Path) -> Traces:
    """The traces in the folder of a finished run, or in a file with what a replay has printed.

    Raises:
        OSError, json.JSONDecodeError: if it is not that.
    """
    result = json.loads((path / "result.json").read_text()) if path.is_dir() else {}
    events = path / "events.jsonl" if path.is_dir() else path
    return Traces(result, [json.loads(line) for line in events.read_text().splitlines()])
