"""Loss-driven schedules in Lightning's Trainer, which the extra ``lightning`` installs.

::

    from toolkit import adaptive
    from toolkit.lightning import ScheduleCallback

    trainer = lightning.Trainer(max_epochs=10, callbacks=[ScheduleCallback(adaptive())])

``configure_optimizers`` returns the optimizer alone, whose LR is the base LR; the budget is the
Trainer's. Lightning's checkpoints have the schedule's state, and ``fit(ckpt_path=...)`` goes on
with it.
"""

import copy
import inspect
import logging
import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from toolkit.errors import ConfigError
from toolkit.schedules import Schedule
from toolkit.schedules.reading import Decision, Reading
from toolkit.schedules.simulate import check_schedule
from toolkit.training.loss_meter import LossMeter
from toolkit.training.lr import ScheduledLR
from toolkit.vision_compat import repair_torchvision

repair_torchvision()  # before torchmetrics, which Lightning imports, looks for torchvision

from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402

logger = logging.getLogger(__name__)

STRATEGIES = {"SingleDeviceStrategy", "DDPStrategy"}
"""Those, and classes of them, whose ranks have all weights and the whole optimizer."""
SETTERS = {"StochasticWeightAveraging", "GradientAccumulationScheduler"}
"""Callbacks that set the LR, or change the number of updates, themselves."""


class ScheduleCallback(Callback):
    """Trains under a schedule: sets the LR after each update, and goes back when it is to.

    A reading is the mean of what ``training_step`` has returned for the micro-batches of an update
    on all ranks, which weigh the same in its gradient, whatever they hold; its ``count`` is of
    micro-batches. On several ranks it is one small collective an update.

    In a search for an LR the weights, buffers and optimizer are restored before each trial, which
    sees the first batches again; the dataloader goes on all the same, so that a resumed run finds
    its place. Where ``training_step`` takes a ``dataloader_iter`` the trials see further batches,
    and the schedule is told that the loop cannot rewind.

    Args:
        schedule: one of ``toolkit.schedules``, or anything that follows its protocol.
        pretrained: whether the model's first weights are.

    Raises:
        ConfigError: for a schedule that is none; from ``fit``, for a module with manual
            optimization or a scheduler of its own, for a callback that sets the LR, too, and for
            strategies that spread the weights over ranks.
        ValueError: from ``fit``, if the schedule does not fit, or if a checkpoint lacks its state.
    """

    def __init__(self, schedule: Schedule[Any], pretrained: bool = False) -> None:
        check_schedule(schedule)
        self.schedule, self.pretrained = schedule, pretrained
        self.lr: ScheduledLR | None = None
        """What sets the LR; None before training begins."""
        self._loaded: dict[str, Any] | None = None

    def on_reading(self, reading: Reading, decision: Decision) -> None:
        """Called on every rank with each reading and what the schedule made of it."""
        if decision.action != "hold":
            logger.info("update %d: %s: %s", reading.update, decision.action, decision.reason)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what a schedule cannot drive, before anything is built."""
        if stage == "fit":
            for problem in _obstacles(trainer, pl_module):
                raise ConfigError(problem)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the ``ScheduledLR``, or go on with that of a checkpoint: all else is restored."""
        if trainer.lr_scheduler_configs:
            kind = type(trainer.lr_scheduler_configs[0].scheduler).__name__
            raise ConfigError(
                f"configure_optimizers returns a scheduler ({kind}) beside the schedule of "
                "ScheduleCallback: return the optimizer alone"
            )
        budget = _budget(trainer)
        lr = ScheduledLR(
            trainer.optimizers[0],
            self.schedule,
            budget,
            pl_module,
            pretrained=self.pretrained,
            epochs=None if budget is None else _epochs(trainer, budget),
        )
        # Lightning also loads the state before it evaluates, after which a run may begin anew.
        loaded, self._loaded = self._loaded if trainer.global_step else None, None
        if trainer.global_step and loaded is None:
            raise ValueError(
                f"fit goes on after update {trainer.global_step}, its schedule would begin anew: "
                "the checkpoint has no state of ScheduleCallback"
            )
        self._batches, self._meter = _Batches(trainer, lr), _Meter(trainer, lr)
        self.lr, self._made = lr, trainer.global_step
        if self._batches.can_rewind:
            lr.can_also("rewind")
        if loaded is not None:
            lr.load_state_dict(loaded)
            self._batches.resume()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note the loss of a micro-batch; after an update hand the reading over and set the LR."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
        if loss is not None:  # None where training_step has returned None
            # Lightning has divided it by the micro-batches of a whole update.
            self._meter.add(loss * trainer.accumulate_grad_batches, 1)
        if trainer.global_step == self._made:
            return
        self._made = trainer.global_step
        self._batches.updated()
        lr = self.lr
        assert lr is not None
        reading, _ = self._meter.read(self._made, _epoch(trainer, batch_idx))
        if reading.count or reading.nonfinite:
            self.on_reading(reading, lr.observe(reading))
        lr.step()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the strategy as it was."""
        if stage == "fit" and self.lr is not None:
            self._batches.release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """As ``teardown``, which Lightning leaves out then."""
        self.teardown(trainer, pl_module, "fit")

    def state_dict(self) -> dict[str, Any]:
        """The schedule's state, for a checkpoint: of kinds that torch loads safely."""
        if self.lr is None:
            return {}
        state = self.lr.state_dict()
        if not _is_plain(state.get("held")):
            del state["held"]
        return {"schedule": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the optimizer has its own."""
        self._loaded = state_dict["schedule"]


class _Meter(LossMeter):
    """The loss over the ranks of a strategy of Lightning's."""

    def __init__(self, trainer: Trainer, lr: ScheduledLR) -> None:
        ranks, device = trainer.world_size, trainer.strategy.root_device
        super().__init__(SimpleNamespace(num_processes=ranks, device=device), lr=lr)

    def _added(self, there: Tensor) -> Tensor:
        torch.distributed.all_reduce(there)
        torch.distributed.broadcast(there, 0)  # as LossMeter's, without Accelerate's state
        return there


class _Batches:
    """Plays the first micro-batches again in each trial of a search.

    They are kept as the loader gave them, so that what is done to them later is done anew, in the
    ``ScheduledLR``: a list for each update. There is no hook to replace a batch, so the strategy's
    ``batch_to_device`` is wrapped while training is on its way.
    """

    def __init__(self, trainer: Trainer, lr: ScheduledLR) -> None:
        self.trainer, self.lr = trainer, lr
        self._part = 0  # of the update in progress
        taken = inspect.signature(trainer.lightning_module.training_step).parameters
        self.can_rewind = "dataloader_iter" not in taken
        self._to_device = trainer.strategy.batch_to_device
        if self.can_rewind:
            trainer.strategy.batch_to_device = self._given

    def release(self) -> None:
        """Take the wrapper off."""
        self.trainer.strategy.batch_to_device = self._to_device

    def updated(self) -> None:
        """An update is made: the next micro-batch is the first of the next one."""
        self._part = 0

    def resume(self) -> None:
        """Leave out batches of another rank, and say if there are none."""
        if self.trainer.world_size > 1:
            self.lr.held.clear()
        if self.lr.searching and self.can_rewind and not self.lr.held:
            logger.warning(
                "resumed within the search for an LR: its further trials see other batches, for a "
                "checkpoint has those of rank 0 only, and only tensors, lists and dictionaries"
            )

    def _given(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """The strategy's ``batch_to_device`` of this batch, or of the one in its place."""
        if self.trainer.training and self.lr.searching:
            batch = self._in_place_of(batch)
        elif not self.lr.searching:
            self.lr.held.clear()
        return self._to_device(batch, *args, **kwargs)

    def _in_place_of(self, batch: Any) -> Any:
        held, place = self.lr.held, self.trainer.global_step - self.lr.course.start
        part, self._part = self._part, self._part + 1
        if place > len(held):  # resumed without them
            return batch
        if place == len(held):
            held.append([])
        if part == len(held[place]):
            held[place].append(copy.deepcopy(batch))
        return copy.deepcopy(held[place][part])


def _obstacles(trainer: Trainer, module: LightningModule) -> Iterator[str]:
    """Why a schedule could not be followed, a line each."""
    if not module.automatic_optimization:
        yield (
            "ScheduleCallback needs automatic optimization, with one optimizer: this module has "
            "automatic_optimization = False; in its own loop use toolkit.ScheduledLR"
        )
    if not _kinds(trainer.strategy) & STRATEGIES:
        yield (
            f"ScheduleCallback does not work under {type(trainer.strategy).__name__}, which "
            "spreads the weights over the ranks: one device, or DDP"
        )
    for callback in trainer.callbacks:
        for name in _kinds(callback) & SETTERS:
            yield f"{name} beside ScheduleCallback would change the LR or the budget: leave it out"


def _kinds(thing: object) -> set[str]:
    """The names of its class and of those above: ``pytorch_lightning`` has the same beside."""
    return {kind.__name__ for kind in type(thing).__mro__}


def _is_plain(value: Any) -> bool:
    """Whether torch loads it with ``weights_only``."""
    if isinstance(value, dict):
        return type(value) is dict and _is_plain([*value, *value.values()])
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(map(_is_plain, value))
    return value is None or type(value) in (Tensor, str, bool, int, float)


def _budget(trainer: Trainer) -> int | None:
    """The updates that the Trainer makes; None if it does not know."""
    updates = trainer.estimated_stepping_batches
    return int(updates) if 0 < updates < math.inf else None


def _epochs(trainer: Trainer, budget: int) -> float | None:
    """The passes that these are; None where the loader does not know its length."""
    if not math.isfinite(trainer.num_training_batches):
        return None
    updates: int = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    return budget / updates


def _epoch(trainer: Trainer, batch_idx: int) -> float:
    """Passes so far; without a length only whole ones are known."""
    share = 1.0 if trainer.is_last_batch else (batch_idx + 1) / trainer.num_training_batches
    return float(trainer.current_epoch + share)
