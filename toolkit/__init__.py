"""Adaptive LR Toolkit: which learning-rate schedule should this training run use?

In a training loop of your own::

    from toolkit import Reading, ScheduledLR, plateau

    lr = ScheduledLR(optimizer, plateau(every=50), total_updates)
    ...  # after each optimizer.step(), with the loss averaged over all ranks:
    lr.observe(Reading.of(update, epoch, loss))
    lr.step()

Every schedule of ``toolkit.schedules.SCHEDULES`` can be imported from here by its name, with ``_``
for ``-``. Importing the package imports nothing heavy; what is named here is imported on first use.
Training with the toolkit's own loop: ``build`` and ``loop`` in ``toolkit.training``.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "FeedLoss": "toolkit.hf",
    "LossMeter": "toolkit.training.loss_meter",
    "Reading": "toolkit.schedules.reading",
    "ScheduledLR": "toolkit.training.lr",
    "trained": "toolkit.export",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if not name.startswith("_"):
        schedules = importlib.import_module("toolkit.schedules").SCHEDULES
        if (kind := schedules.get(name.replace("_", "-"))) is not None:
            return kind
    raise AttributeError(f"module 'toolkit' has no attribute '{name}'")
