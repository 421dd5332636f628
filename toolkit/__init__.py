"""Adaptive LR Toolkit: which learning-rate schedule should this training run use?

In a training loop of your own::

    from toolkit import Reading, ScheduledLR, plateau

    lr = ScheduledLR(optimizer, plateau(every=50), total_updates)
    ...  # after each optimizer.step(), with the loss averaged over all ranks:
    lr.observe(Reading.of(update, epoch, loss))
    lr.step()

Every schedule of ``toolkit.schedules.SCHEDULES`` can be imported from here, by its class or by its
name with ``_`` for ``-``: ``Adaptive`` and ``adaptive`` are the same. Importing the package imports
nothing heavy; what is named here is imported on first use. Blocks for a task: ``toolkit.blocks``.
Training with the toolkit's own loop: ``build`` and ``loop`` in ``toolkit.training``.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.comparison import compare_schedules
    from toolkit.export import trained
    from toolkit.finding import find_lr
    from toolkit.hf import FeedLoss, ScheduledTrainer, ScheduleMixin
    from toolkit.prediction import predict
    from toolkit.recipe import Recipe
    from toolkit.schedules import (
        WSD,
        Adaptive,
        Constant,
        Cosine,
        Greedy,
        GreedyPaper,
        Linear,
        OneCycle,
        OpenEnded,
        Plan,
        Plateau,
        Schedule,
        Step,
    )
    from toolkit.schedules.reading import Decision, Facts, Reading
    from toolkit.studies.study import Study
    from toolkit.task import Splits, Task
    from toolkit.training.loss_meter import LossMeter
    from toolkit.training.lr import ScheduledLR

    adaptive = Adaptive
    constant = Constant
    cosine = Cosine
    greedy = Greedy
    greedy_paper = GreedyPaper
    linear = Linear
    one_cycle = OneCycle
    open_ended = OpenEnded
    plan = Plan
    plateau = Plateau
    step = Step
    wsd = WSD

__version__ = "0.1.0"

__all__ = [
    "WSD",
    "Adaptive",
    "Constant",
    "Cosine",
    "Decision",
    "Facts",
    "FeedLoss",
    "Greedy",
    "GreedyPaper",
    "Linear",
    "LossMeter",
    "OneCycle",
    "OpenEnded",
    "Plan",
    "Plateau",
    "Reading",
    "Recipe",
    "Schedule",
    "ScheduleMixin",
    "ScheduledLR",
    "ScheduledTrainer",
    "Splits",
    "Step",
    "Study",
    "Task",
    "__version__",
    "adaptive",
    "compare_schedules",
    "constant",
    "cosine",
    "find_lr",
    "greedy",
    "greedy_paper",
    "linear",
    "one_cycle",
    "open_ended",
    "plan",
    "plateau",
    "predict",
    "step",
    "trained",
    "wsd",
]

_HOMES = {
    "Decision": "toolkit.schedules.reading",
    "Facts": "toolkit.schedules.reading",
    "FeedLoss": "toolkit.hf",
    "LossMeter": "toolkit.training.loss_meter",
    "Reading": "toolkit.schedules.reading",
    "Recipe": "toolkit.recipe",
    "Schedule": "toolkit.schedules",
    "ScheduleMixin": "toolkit.hf",
    "ScheduledLR": "toolkit.training.lr",
    "ScheduledTrainer": "toolkit.hf",
    "Splits": "toolkit.task",
    "Study": "toolkit.studies.study",
    "Task": "toolkit.task",
    "compare_schedules": "toolkit.comparison",
    "find_lr": "toolkit.finding",
    "predict": "toolkit.prediction",
    "trained": "toolkit.export",
}
"""Name -> the module that it is imported from; the schedules are beside it."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        package = importlib.import_module("toolkit.schedules")
        kind = package.SCHEDULES.get(name.replace("_", "-"))
        return getattr(package, name) if kind is None else kind
    raise AttributeError(f"module 'toolkit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
