"""Loss-driven schedules in Hugging Face's Trainer.

::

    class MyTrainer(FeedLoss, Trainer): ...

    lr = ScheduledLR(optimizer, schedule, updates)
    trainer = MyTrainer(model, args, train_dataset=data, optimizers=(optimizer, lr))

A callback alone would not do: callbacks are not given the loss, and the Trainer's own log leaves
out what is not finite. The Trainer saves and loads the schedule with the optimizer. A Trainer
without the mixin trains on as if no loss ever changed; ``ScheduledLR`` says so after a while.
"""

import logging
from typing import Any

from torch import Tensor

from toolkit.errors import RunError
from toolkit.schedules.reading import Decision, Reading
from toolkit.training.loss_meter import LossMeter
from toolkit.training.lr import ScheduledLR
from toolkit.vision_compat import repair_torchvision

repair_torchvision()  # before the first import of a model by transformers

from transformers import Trainer, TrainerCallback  # noqa: E402

logger = logging.getLogger(__name__)


class FeedLoss:
    """Mixin, to be named before ``Trainer``: hands the training loss to the schedule.

    The loss is raw, not the filtered one of the log, and reduced over all ranks: one small
    collective a reading. It is the loss whose gradient is taken, so it is as many times too large
    as the gradient is where a model returns a mean but the Trainer takes it for a share of
    ``num_items_in_batch`` (see ``loss_is_scaled_for_ga`` and ``average_tokens_across_devices``).

    Args:
        read_every: updates between readings. There is one before each checkpoint, too, so that
            nothing of it is lost.
        *args, **kwargs: the Trainer's; ``optimizers`` is ``(optimizer, ScheduledLR(...))``.

    Raises:
        TypeError: for a class that names it after ``Trainer``, which would leave it without effect.
        ValueError: without a ``ScheduledLR``, for ``read_every`` below 1, or from ``train`` if the
            schedule's budget is not the number of updates that the Trainer makes, or if a
            checkpoint to resume from lacks the schedule's state.
        RunError: from ``train``, if its ``training_step`` is not called.
    """

    accelerator: Any
    lr_scheduler: ScheduledLR

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if Trainer in order and order.index(Trainer) < order.index(FeedLoss):
            raise TypeError(
                f"{cls.__name__} names FeedLoss after the Trainer, so the schedule would never see "
                f"a loss: class {cls.__name__}(FeedLoss, Trainer)"
            )

    def __init__(self, *args: Any, read_every: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.lr_scheduler, ScheduledLR):
            raise ValueError(
                "the Trainer needs optimizers=(optimizer, ScheduledLR(optimizer, ...))"
            )
        if read_every < 1:
            raise ValueError(f"read_every = {read_every}: it must be 1 or above")
        if "restore" in self.lr_scheduler.facts.can and not self.lr_scheduler.updates:
            self.lr_scheduler.can_also("rewind")
        self.lr_scheduler.expect_readings(read_every)
        self.loss_meter = LossMeter(self.accelerator, lr=self.lr_scheduler)
        self.add_callback(_Reader(self, read_every))  # type: ignore[attr-defined]

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The Trainer's; in a trial of a search for an LR those of the run's first updates again.

        The loader goes on all the same, so that a resumed run finds its place.
        """
        fetched = super().get_batch_samples(  # type: ignore[misc]
            epoch_iterator, num_batches, device
        )
        lr = self.lr_scheduler
        place = self.state.global_step - lr.course.start  # type: ignore[attr-defined]
        if not lr.searching or place > len(lr.held):
            lr.held.clear()
            return fetched
        if place == len(lr.held):
            batches, items = fetched
            lr.held.append([[dict(batch) for batch in batches], items])
        held, items = lr.held[place]
        return [dict(batch) for batch in held], items

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The Trainer's, with its loss noted."""
        loss: Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        # The Trainer has divided it by the micro-batches of the update, or by all their items.
        examples = self._train_batch_size  # type: ignore[attr-defined]
        parts = self.current_gradient_accumulation_steps  # type: ignore[attr-defined]
        self.loss_meter.add(loss * parts * examples, examples)
        return loss

    def on_reading(self, reading: Reading, decision: Decision) -> None:
        """Called on every rank with each reading and what the schedule made of it."""
        if decision.action != "hold":
            logger.info("update %d: %s: %s", reading.update, decision.action, decision.reason)


class _Reader(TrainerCallback):
    """Reads the meter after an update, and has the schedule set the next LR anew."""

    def __init__(self, trainer: FeedLoss, every: int) -> None:
        self.trainer, self.every = trainer, every
        self.unread = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        lr = self.trainer.lr_scheduler
        budget = lr.total_updates
        if budget not in (None, state.max_steps):
            raise ValueError(
                f"ScheduledLR has a budget of {budget} updates, the Trainer makes {state.max_steps}"
            )
        # Updates that a gradient scaler skips are the Trainer's alone: it may have made more.
        if state.global_step and not lr.updates:
            raise ValueError(
                f"the Trainer goes on after update {state.global_step}, its schedule would begin "
                "anew: no state of the ScheduledLR was loaded, which takes scheduler.pt and the "
                "optimizer's file in the checkpoint (save_only_model leaves them out)"
            )
        if lr.held and self.trainer.accelerator.num_processes > 1:
            lr.held.clear()
            logger.warning(
                "resumed within the search for an LR: its further trials see other batches, for a "
                "checkpoint has those of rank 0 only"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.unread += 1
        due = state.global_step % self.every == 0 or state.global_step == state.max_steps
        if due or control.should_save or self.trainer.lr_scheduler.searching:
            self._read(state)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.unread and control.should_save:
            self._read(state)

    def _read(self, state: Any) -> None:
        self.unread = 0
        reading, _ = self.trainer.loss_meter.read(state.global_step, state.epoch)
        if not (reading.count or reading.nonfinite):
            raise RunError(
                f"no loss was seen up to update {state.global_step}: a training_step of your own "
                "has to call super().training_step(...), FeedLoss's"
            )
        decision = self.trainer.lr_scheduler.observe(reading)
        # The Trainer has set the next LR before; a second step after one update sets it again.
        self.trainer.lr_scheduler.step()
        self.trainer.on_reading(reading, decision)
