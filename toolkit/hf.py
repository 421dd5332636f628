"""Loss-driven schedules in Hugging Face's Trainer.

::

    trainer = ScheduledTrainer(model=model, args=args, train_dataset=data, schedule=adaptive())

A subclass of the Trainer, TRL's ``SFTTrainer`` say, gets the same by the mixin::

    class MyTrainer(ScheduleMixin, SFTTrainer): ...

Whoever builds optimizer and ``ScheduledLR`` alone names ``FeedLoss`` instead, which only hands the
loss over::

    class MyTrainer(FeedLoss, Trainer): ...

    lr = ScheduledLR(optimizer, schedule, updates)
    trainer = MyTrainer(model, args, train_dataset=data, optimizers=(optimizer, lr))

A callback alone would not do: callbacks are not given the loss, and the Trainer's own log leaves
out what is not finite. The Trainer saves and loads the schedule with the optimizer. A Trainer
without the mixin trains on as if no loss ever changed; ``ScheduledLR`` says so after a while.
"""

import copy
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit.errors import ConfigError, RunError
from toolkit.schedules import Schedule
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
            mixin = next(kind.__name__ for kind in order if kind in (ScheduleMixin, FeedLoss))
            raise TypeError(
                f"{cls.__name__} names {mixin} after the Trainer, so the schedule would never see "
                f"a loss: class {cls.__name__}({mixin}, Trainer)"
            )

    def __init__(self, *args: Any, read_every: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if read_every < 1:
            raise ValueError(f"read_every = {read_every}: it must be 1 or above")
        self.read_every = read_every
        self._take_given()
        self.add_callback(_Reader(self, read_every))  # type: ignore[attr-defined]

    def _take_given(self) -> None:
        if not isinstance(self.lr_scheduler, ScheduledLR):
            raise ValueError(
                "the Trainer needs optimizers=(optimizer, ScheduledLR(optimizer, ...))"
            )
        self._connect()

    def _connect(self) -> None:
        """Tell the schedule what this loop does, and have the meter carry its estimate."""
        if "restore" in self.lr_scheduler.facts.can and not self.lr_scheduler.updates:
            self.lr_scheduler.can_also("rewind")
        self.lr_scheduler.expect_readings(self.read_every)
        self.loss_meter = LossMeter(self.accelerator, lr=self.lr_scheduler)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The Trainer's; in a trial of a search for an LR those of the run's first updates again.

        The loader goes on all the same, so that a resumed run finds its place. A run that had ended
        within an epoch and is resumed gets none: the Trainer looks only after an update whether it
        is at its end.
        """
        state: Any = self.state  # type: ignore[attr-defined]
        if state.global_step >= state.max_steps:
            self.control.should_training_stop = True  # type: ignore[attr-defined]
            return [], None
        fetched = super().get_batch_samples(  # type: ignore[misc]
            epoch_iterator, num_batches, device
        )
        lr = self.lr_scheduler
        place = state.global_step - lr.course.start
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


class ScheduleMixin(FeedLoss):
    """Mixin, to be named before a subclass of ``Trainer``: trains under a schedule.

    The optimizer is the Trainer's (``args.optim``, ``args.learning_rate`` as base LR), or that of
    ``optimizers=(optimizer, None)``. The budget is the Trainer's: ``max_steps``, or the epochs
    times the length of the dataloader. A schedule that goes back may do so.

    A model that takes ``num_items_in_batch`` and returns a mean all the same (BERT's classifier
    does) would be trained with a gradient as many times too large as there are micro-batches in an
    update, and ranks. So the loss of the first batch is taken twice, with two numbers of items: one
    that does not change with it is treated as the mean that it is.

    Args:
        schedule: one of ``toolkit.schedules``, or anything that follows its protocol.
        pretrained: whether the model's first weights are; by default what the model says: it was
            loaded by a name.
        read_every: updates between readings.
        *args, **kwargs: the Trainer's.

    Raises:
        ConfigError: for a schedule that is none, for what contradicts it in ``args`` or
            ``optimizers`` and would be ignored, and under DeepSpeed and FSDP.
        TypeError: for a class that names it after ``Trainer``.
        ValueError: from ``train``, if the schedule does not fit, or as ``FeedLoss``.
    """

    loss_is_scaled_for_ga: Any  # None or a boolean; TRL's classes say None

    def __init__(
        self,
        *args: Any,
        schedule: Schedule[Any],
        pretrained: bool | None = None,
        read_every: int = 1,
        **kwargs: Any,
    ) -> None:
        self.schedule, self.pretrained = schedule, pretrained
        super().__init__(*args, read_every=read_every, **kwargs)

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """The Trainer's. ``True`` takes the last checkpoint that is whole, not one that is cut off.

        The Trainer itself takes the last folder, which it cannot read if it was killed while it
        wrote it.
        """
        if resume_from_checkpoint is True:
            folder = Path(self.args.output_dir)  # type: ignore[attr-defined]
            resume_from_checkpoint = _last_whole(folder) or True
        return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]

    def _take_given(self) -> None:
        for problem in _contradictions(self):
            raise ConfigError(problem)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> ScheduledLR:
        """The Trainer's, of this schedule; called once the optimizer is prepared."""
        if self.lr_scheduler is None:
            model: Any = self.model  # type: ignore[attr-defined]
            args: Any = self.args  # type: ignore[attr-defined]
            named = bool(getattr(getattr(model, "config", None), "name_or_path", ""))
            self.lr_scheduler = ScheduledLR(
                optimizer or self.optimizer,  # type: ignore[attr-defined]
                self.schedule,
                num_training_steps,
                model,
                pretrained=named if self.pretrained is None else self.pretrained,
                epochs=None if args.max_steps > 0 else args.num_train_epochs,
            )
            self._created_lr_scheduler = True  # a second call of train begins anew
            self._connect()
        return self.lr_scheduler

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """``FeedLoss``'s; with the first batches it is seen what kind of loss the model has."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if items is not None and self.loss_is_scaled_for_ga is None:
            self.loss_is_scaled_for_ga = self._scales(batches[0], items)
        return batches, items

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The Trainer's; where the loss is a mean, without the number of items, for which the
        Trainer would multiply it by the ranks."""
        items = None if self.loss_is_scaled_for_ga is False else num_items_in_batch
        return super().compute_loss(model, inputs, return_outputs, items)  # type: ignore[misc]

    def _scales(self, batch: Any, items: Any) -> bool | None:
        """Whether the loss depends on the number of items; None if this batch cannot tell.

        Two forward passes in evaluation mode, once; the ranks come to one answer.
        """
        model: Any = self.model_wrapped  # type: ignore[attr-defined]
        device = self.accelerator.device
        noted = copy.deepcopy(getattr(self, "_metrics", None))  # where TRL's trainers note a loss
        model.eval()
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            inputs = self._prepare_inputs(dict(batch))  # type: ignore[attr-defined]
            losses = [
                self.compute_loss(model, dict(inputs), num_items_in_batch=number)
                for number in (items, 2 * items)
            ]
        model.train()
        if noted is not None:
            self._metrics = noted
        once, halved = (loss.float().mean() for loss in losses)
        told = once.isfinite() & (once != 0)
        changes = told & ((once - halved).abs() > 1e-3 * once.abs())
        found = torch.stack([told, changes]).to(device, torch.float32)
        told_by, changed_by = self.accelerator.reduce(found, "sum").tolist()
        return bool(changed_by) if told_by else None


def _last_whole(folder: Path) -> str | None:
    """The last checkpoint of a Trainer's folder with the file that it writes last, if any."""
    found = (path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal())
    for checkpoint in sorted(found, key=lambda path: int(path.name[11:]), reverse=True):
        try:
            json.loads((checkpoint / "trainer_state.json").read_bytes())
        except (OSError, ValueError):
            logger.warning("%s was cut off while it was written: passed over", checkpoint)
        else:
            return str(checkpoint)
    return None


def _contradictions(trainer: ScheduleMixin) -> Iterator[str]:
    """What was asked for beside the schedule and would not be done, a line each."""
    args: Any = trainer.args  # type: ignore[attr-defined]
    schedule = trainer.schedule
    if isinstance(schedule, type) or not hasattr(schedule, "observe"):
        told = f"{schedule.__name__}()" if isinstance(schedule, type) else "adaptive(), say"
        yield f"schedule = {schedule!r} is no schedule: it must be an object of one: {told}"
    if trainer.lr_scheduler is not None:
        yield (
            "optimizers names a scheduler beside schedule: give one of them; an optimizer of your "
            "own goes in as optimizers=(optimizer, None)"
        )
    if args.lr_scheduler_type != "linear":  # the Trainer's default
        kind = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        yield f"lr_scheduler_type = {kind} would be ignored: schedule sets the LR; leave it out"
    if args.lr_scheduler_kwargs:
        yield f"lr_scheduler_kwargs = {args.lr_scheduler_kwargs} would be ignored: leave it out"
    if args.warmup_steps:
        yield (
            f"warmup_steps = {args.warmup_steps} would be ignored: warm-up is the schedule's, e.g. "
            "cosine(warmup=0.05)"
        )
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:  # type: ignore[attr-defined]
        yield "a schedule in the Trainer takes neither DeepSpeed nor FSDP: one process, or DDP"


class ScheduledTrainer(ScheduleMixin, Trainer):
    """transformers' Trainer under a schedule of the toolkit: ``ScheduleMixin`` says how."""


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
