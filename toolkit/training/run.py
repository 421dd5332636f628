"""A training run: what the loop works with, and where it stands."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from toolkit import signals
from toolkit.config import RunConfig
from toolkit.records.recorder import Recorder
from toolkit.records.result import Snapshots
from toolkit.scales import Scale
from toolkit.task import Batch, Splits, Task
from toolkit.training.batches import BatchPlan
from toolkit.training.loss_meter import LossMeter
from toolkit.training.lr import ScheduledLR
from toolkit.training.ranks import BatchSplit
from toolkit.training.selection import Selection
from toolkit.training.workers import Loading

SAVES, SAVE_SECONDS, SECONDS_APART = 10, 600.0, 1.0
"""By default there is a checkpoint after a tenth of the budget, and after so many seconds; but none
by a tenth within the last of these of the one before: to write it may take as long as the updates
that it saves."""


@dataclass
class Run:
    """One training run: everything that the loop works with. ``build`` makes it.

    Every rank has a ``Run`` of its own, equal but for its share of the data, its part of the model
    under DeepSpeed, and ``stop_asked``. The first fields are the run as it was built; those with a
    default are where it stands, and change while it trains.
    """

    config: RunConfig
    task: Task
    loss: Callable[[nn.Module, Batch], tuple[torch.Tensor, int]]
    """What is trained on: the task's loss, with the label smoothing of the recipe, if it has one.
    Whatever only looks at the run asks the task's."""
    accelerator: Accelerator
    model: nn.Module
    """Prepared: on its device, and wrapped by DDP or DeepSpeed where there are several ranks."""
    parameters: int
    """How many numbers the whole model has."""
    trained_parameters: int
    """How many of them it learns: those that are not frozen."""
    optimizer: Optimizer
    """Prepared, too."""
    evaluates_other_weights: bool
    """Whether the optimizer has other weights for evaluation (see ``toolkit.training.optim``)."""
    lr: ScheduledLR
    """Carries out what the schedule decides: sets the optimizer's LR, takes and restores snapshots
    of model and optimizer."""
    meter: LossMeter
    """The training loss since the last reading."""
    batch_plan: BatchPlan
    """Which samples make up which update."""
    splits: Splits
    scales: Mapping[str, Scale]
    """How the metrics of the task are to be read, the headline first; empty if it does not say."""
    vocabulary: Mapping[str, Sequence[str]]
    """The words of the data that the model is made for, as the names of the classes."""
    loading: Loading
    """How batches get from the splits to the device."""
    evaluation_loaders: dict[str, "DataLoader[Batch]"]
    """This rank's batches of the splits ``validation`` and ``test``."""
    budget: int
    """Updates to be made in all, trials and updates that were rolled back included."""
    batch_split: BatchSplit
    """How the samples of an update are cut over ranks and micro-batches."""
    folder: Path
    """``runs/STUDY/RUN_ID``: where the run is written down."""
    initial_weights_sha: str
    """SHA-256 of the weights before the first update, by ``weights_sha``."""
    infinite_at_start: frozenset[str]
    """Buffers that held an infinity then, as masks do by design."""
    notes: tuple[str, ...]
    """What a reader of the result should know, one sentence each."""
    after_update: list[Callable[["Run"], None]] = field(default_factory=list)
    """Called one after the other, on every rank, after each optimizer update: ``update`` has
    counted it, and neither has its loss been read nor the LR of the next been set. For whoever
    watches or disturbs a run; the loop itself needs none."""
    record: Recorder = field(init=False)
    """Writes the run down; there is none before it is started or resumed."""
    update: int = 0
    """Optimizer updates made so far."""
    saved_at: int = 0
    """Update of the newest checkpoint; 0 if there is none."""
    saved_when: float = field(default_factory=time.monotonic)
    """When that was written, or this process began: by this rank's ``time.monotonic``."""
    save_agreed: bool = False
    """All ranks know that a checkpoint is due by rank 0's clock."""
    evaluated: int = 0
    """Update of the latest evaluation on the validation split; 0 if there was none."""
    steps: int = 0
    """Counts what this rank gets done, updates as batches of an evaluation: it stands still in a
    rank that is hung (see ``watch``)."""
    readings: int = 0
    """Readings of the training loss so far."""
    grad_norm: "float | torch.Tensor" = math.nan
    """L2 norm of the gradient of the latest update, before clipping; NaN without clipping, which
    works it out. A tensor on its device, as reading it would wait for that."""
    nonfinite_readings: int = 0
    """Latest readings in a row with a loss that was not finite, on whichever rank."""
    lost: str = ""
    """Why the run counts as diverged, in words; empty while it does not. See ``divergence``."""
    stop_asked: bool = False
    """This rank was asked to stop, other than by a signal; it does so when a reading has told the
    others."""
    stop_agreed: bool = False
    """All ranks know that one was asked to stop: none makes another update."""
    last_metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Of the latest evaluation of each split, on rank 0; elsewhere without metrics."""
    check_claim: Callable[[], object] = lambda: None
    """Called on every rank before anything is written that others may read: ends a process whose
    run another has taken over. For whoever claims runs; without claims there is nothing to do."""
    selection: Selection = field(default_factory=Selection)
    """What the metric on validation has chosen so far, for ``keep_best`` and ``patience``."""
    rollbacks: int = 0
    """Rollbacks that the schedule has asked for so far."""
    origin: dict[str, Any] = field(default_factory=dict)
    """What its parts come from, by ``provenance.continued``; empty before it is started."""
    keeps_before_anneal: bool = False
    """The state before the anneal is to be kept, and is not yet."""
    search_seconds: float = 0.0
    """Training seconds until the end of the schedule's search for an LR."""

    def snapshots(self) -> Snapshots:
        """What the snapshots of this rank cost."""
        kept = self.lr.snapshot
        return Snapshots() if kept is None else Snapshots(kept.taken, kept.size, kept.seconds)

    def ask_to_stop(self) -> None:
        """Have this rank tell the others, with its next reading, that the run is to stop."""
        self.stop_asked = True

    @property
    def stop_wanted(self) -> bool:
        """Whether this rank was asked to stop, in whichever way."""
        return self.stop_asked or signals.asked()

    @property
    def epoch(self) -> float:
        """Passes over the training split so far."""
        return self.update / self.batch_plan.updates_per_epoch

    @property
    def diverged(self) -> bool:
        """Whether the weights are lost."""
        return bool(self.lost)

    @property
    def eval_every(self) -> int:
        """Updates between evaluations on the validation split."""
        return self.config.eval_every or self.batch_plan.updates_per_epoch

    @property
    def evaluation_due(self) -> bool:
        """Whether the weights, as they are now, are to be evaluated on the validation split."""
        due = self.update == self.budget or self.update % self.eval_every == 0
        return due and self.update > self.evaluated and not self.lr.searching

    @property
    def checkpoint_due(self) -> bool:
        """Whether updates or time enough have passed since the newest checkpoint, or this is the
        end of training, where it spares the run the way back from the test split."""
        every = self.config.save_every
        if every == 0 or self.update == self.saved_at:
            return False
        over = self.update == self.budget or self.selection.stopped
        if every is None:
            return self.save_agreed or over
        return self._passed(every) or over

    @property
    def overdue(self) -> bool:
        """Whether rank 0, whose clock counts, finds a checkpoint due where nobody says when."""
        if self.config.save_every is not None or not self.accelerator.is_main_process:
            return False
        waited = time.monotonic() - self.saved_when
        tenth = self._passed(math.ceil(self.budget / SAVES))
        return waited >= (SECONDS_APART if tenth else SAVE_SECONDS)

    def _passed(self, every: int) -> bool:
        """Whether a multiple of so many updates has passed since the newest checkpoint."""
        return self.update // every > self.saved_at // every
