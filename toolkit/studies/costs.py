"""What a study will cost in seconds: from runs that are finished, or from a few updates here."""

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from toolkit.config import RUNS, RunConfig, to_json
from toolkit.errors import ConfigError
from toolkit.records.result import RESULT, read_result

if TYPE_CHECKING:
    from toolkit.training.run import Run

NOT_COSTING = ("lr", "epochs", "updates")
"""Settings of a recipe that do not change what an update costs."""
BESIDE = ("evaluation", "checkpoint")
"""Spans that cost time beside the training seconds."""
EVALUATED = 16
"""Test samples predicted in a rehearsal."""


@dataclass(frozen=True)
class Cost:
    """What a kind of run costs; runs of one kind differ in schedule, base LR, seed and budget.

    Attributes:
        update: seconds an update, with its share of evaluations and checkpoints.
        updates_per_epoch: updates of one pass over the training split.
    """

    update: float
    updates_per_epoch: float

    def of(self, config: RunConfig) -> float:
        """Seconds of a whole run of this kind."""
        recipe = config.recipe
        updates = recipe.updates or (recipe.epochs or 0) * self.updates_per_epoch
        return self.update * updates


def kind(config: RunConfig) -> str:
    """The kind of run that a configuration is."""
    return _kind(config.target, to_json(config)["recipe"])


def from_finished(runs: Path = RUNS) -> dict[str, Cost]:
    """The mean cost of every kind of run that is finished below a folder."""
    found: dict[str, list[Cost]] = defaultdict(list)
    for file in sorted(runs.glob(f"*/*/{RESULT}")):
        try:
            result = read_result(file.parent)
        except ConfigError:
            continue  # an estimate takes what it can use; it is the report that names broken files
        if result.updates:
            timing = result.timing
            seconds = timing.train_seconds + sum(timing.spans.get(name, 0.0) for name in BESIDE)
            cost = Cost(seconds / result.updates, result.updates / result.epoch)
            found[_kind(result.pair, result.recipe_settings)].append(cost)
    return {name: _mean(costs) for name, costs in found.items()}


def measure(config: RunConfig, updates: int) -> Cost:
    """Time so many updates of a run and some of its evaluation, and throw it away.

    Pretrained weights are not looked for: random ones cost the same.

    Raises:
        ConfigError: if the run cannot be carried out.
    """
    from toolkit.training import loop
    from toolkit.training.build import build

    recipe = replace(config.recipe, init="random")
    with TemporaryDirectory() as folder:
        quiet = replace(config, recipe=recipe, log_with=("none",), progress=False)
        run = build(quiet, Path(folder))
        update, sample = rehearse(run, updates)
        budget, per_epoch = run.budget, run.batch_plan.updates_per_epoch
        validation, test = len(run.splits.validation), len(run.splits.test)
        loop.release(run)
    evaluations = budget / (config.eval_every or per_epoch)
    evaluation = sample * (evaluations * validation + test)
    return Cost(update + evaluation / budget, per_epoch)


def rehearse(run: "Run", updates: int) -> tuple[float, float]:
    """Make so many updates of a run that is not to be kept, and predict some test samples.

    There are no more updates than the run's budget.

    Returns:
        Seconds an update, and seconds a sample of an evaluation, without the metrics.
    """
    import numpy as np
    import torch
    from accelerate.utils import send_to_device

    from toolkit.records.recorder import Recorder
    from toolkit.training.batches import training_batches
    from toolkit.training.evaluation import outputs_of
    from toolkit.training.loop import make_update

    run.record = Recorder(run.folder, run.accelerator, run.config, updates)
    batches, updates = training_batches(run), min(updates, run.budget)
    run.model.train()
    run.optimizer.train()
    begin = time.perf_counter()
    for _ in range(updates):
        make_update(run, batches)
        run.lr.step()
    run.meter.read(run.update, run.epoch)  # waits for the device
    trained = time.perf_counter()
    ids = np.random.default_rng(0).permutation(len(run.splits.test))[:EVALUATED].tolist()
    batch = send_to_device(run.splits.test.__getitems__(ids), run.accelerator.device)
    # Not evaluation_mode: statistics of averaged weights are computed once, not for each sample.
    run.model.eval()
    run.optimizer.eval()
    with torch.no_grad():
        outputs_of(run.task, run.model, batch)["values"].cpu()
    return (trained - begin) / updates, (time.perf_counter() - trained) / len(ids)


def total(configs: Iterable[RunConfig], costs: Mapping[str, Cost]) -> tuple[float, set[str]]:
    """Seconds of all runs whose kind is known, one after the other, and the targets of others."""
    seconds, unknown = 0.0, set()
    for config in configs:
        cost = costs.get(kind(config))
        if cost is None:
            unknown.add(config.target)
        else:
            seconds += cost.of(config)
    return seconds, unknown


def _kind(target: str, recipe: Mapping[str, Any]) -> str:
    settings = {name: value for name, value in recipe.items() if name not in NOT_COSTING}
    return f"{target} {json.dumps(settings, sort_keys=True)}"


def _mean(costs: list[Cost]) -> Cost:
    count = len(costs)
    return Cost(
        sum(cost.update for cost in costs) / count,
        sum(cost.updates_per_epoch for cost in costs) / count,
    )
