"""The loops of other libraries beside ``bare.py``, as their documentation writes them.

All train the same model on the same batches with the same fused optimizer; what they differ in is
what they do beside. ``LOOPS`` and ``OURS`` have them all.
"""

import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import bare
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

Loop = Callable[[Any, nn.Module, Any, Any, int, str], None]
"""Trains a model of a task on a split by a recipe for so many updates on a device, cpu or cuda."""
Ours = Callable[[str, Callable[[Any], Any], Any, int, type[BaseException]], float]
"""Trains a target, its split behind a gate, by a recipe for so many updates, or until that is
raised; returns the bytes of an update's events."""


def accelerate(
    task: Any, model: nn.Module, data: Any, recipe: Any, updates: int, device: str
) -> None:
    """Accelerate's loop: everything prepared, gradients accumulated over one micro-batch."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device == "cpu", gradient_accumulation_steps=1)
    optimizer = _adamw(model, recipe)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    loader = _loader(data, recipe, device)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    model.train()
    done = 0
    while done < updates:
        for batch in loader:
            with accelerator.accumulate(model):
                total, count = task.loss(model, task.augment(batch, 0, done))
                accelerator.backward(total / count)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            done += 1


def fabric(task: Any, model: nn.Module, data: Any, recipe: Any, updates: int, device: str) -> None:
    """Lightning Fabric's loop."""
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    fabric = Fabric(accelerator=device, devices=1)
    wrapped, optimizer = fabric.setup(model, _adamw(model, recipe))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    loader = fabric.setup_dataloaders(_loader(data, recipe, device))
    wrapped.train()
    done = 0
    while done < updates:
        for batch in loader:
            total, count = task.loss(wrapped, task.augment(batch, 0, done))
            fabric.backward(total / count)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            done += 1


def timm_shape(
    task: Any, model: nn.Module, data: Any, recipe: Any, updates: int, device: str
) -> None:
    """The shape of timm's train.py: the loss is fetched and averaged at every update."""
    from timm.scheduler import CosineLRScheduler
    from timm.utils import AverageMeter

    optimizer = _adamw(model.to(device), recipe)
    scheduler = CosineLRScheduler(optimizer, t_initial=updates, t_in_epochs=False)
    losses = AverageMeter()
    model.train()
    done = 0
    optimizer.zero_grad()
    while done < updates:
        for batch in _loader(data, recipe, device):
            batch = bare.moved(batch, device)
            total, count = task.loss(model, task.augment(batch, 0, done))
            loss = total / count
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), count)
            optimizer.zero_grad()
            done += 1
            scheduler.step_update(num_updates=done, metric=losses.avg)


class Wrapped(nn.Module):
    """A model that returns its loss, as the Trainer wants it."""

    def __init__(self, task: Any, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """The mean loss of a batch."""
        total, count = self.task.loss(self.model, self.task.augment(batch, 0, 0))
        return {"loss": total / count}


def trainer_equal(
    task: Any, model: nn.Module, data: Any, recipe: Any, updates: int, device: str
) -> None:
    """The Trainer at equal settings: no clipping; it logs the mean loss of 500 updates."""
    _trainer(task, model, data, recipe, updates, device, max_grad_norm=0.0)


def trainer_examples(
    task: Any, model: nn.Module, data: Any, recipe: Any, updates: int, device: str
) -> None:
    """The Trainer as its example scripts set it: its defaults, which clip."""
    _trainer(task, model, data, recipe, updates, device)


def _trainer(
    task: Any,
    model: nn.Module,
    data: Any,
    recipe: Any,
    updates: int,
    device: str,
    **settings: Any,
) -> None:
    from transformers import Trainer, TrainingArguments

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=updates,
            per_device_train_batch_size=recipe.global_batch,
            learning_rate=recipe.lr,
            weight_decay=recipe.weight_decay,
            optim="adamw_torch_fused",
            lr_scheduler_type="cosine",
            dataloader_drop_last=True,
            dataloader_pin_memory=device == "cuda",
            remove_unused_columns=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=device == "cpu",
            **settings,
        )
        wrapped = Wrapped(task, model)
        Trainer(wrapped, arguments, train_dataset=data, data_collator=bare.as_is).train()


def ours(schedule: str, read_every: int = 1, gives_back: bool = False) -> Ours:
    """The toolkit's loop under a schedule: it reads and logs every so many updates.

    Args:
        schedule: its name.
        read_every: updates between readings.
        gives_back: whether glibc gives freed memory back to the system, as it does unasked.
    """

    def train(
        target: str,
        gated: Callable[[Any], Any],
        recipe: Any,
        updates: int,
        over: type[BaseException],
    ) -> float:
        from toolkit.config import RunConfig, resolve
        from toolkit.process import KEEP_MEMORY
        from toolkit.schedules import SCHEDULES
        from toolkit.training import loop
        from toolkit.training.build import build

        config = RunConfig(
            target=target,
            recipe=recipe,
            schedule=SCHEDULES[schedule](),
            wandb="off",
            save_every=0,
            eval_every=updates,
            progress=False,
            read_every=read_every,
        )
        os.environ[KEEP_MEMORY] = "0" if gives_back else "1"
        with tempfile.TemporaryDirectory() as folder:
            run = build(resolve(config), Path(folder))
            run.splits = run.splits._replace(train=gated(run.splits.train))
            with suppress(over):
                loop.fit(run)
            loop.release(run)
            return (run.folder / "events.jsonl").stat().st_size / run.update

    return train


def _adamw(model: nn.Module, recipe: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
    )


def _loader(data: Any, recipe: Any, device: str) -> Any:
    return DataLoader(
        data,
        recipe.global_batch,
        shuffle=True,
        drop_last=True,
        collate_fn=bare.as_is,
        pin_memory=device == "cuda",
    )


LOOPS: dict[str, Loop] = {
    "bare": bare.train,
    "Fabric": fabric,
    "Accelerate": accelerate,
    "timm's shape": timm_shape,
    "Trainer at equal settings": trainer_equal,
    "Trainer as its examples": trainer_examples,
}
OURS = {
    "constant": ours("constant"),
    "adaptive": ours("adaptive"),
    "constant reading 1 in 50": ours("constant", 50),
    "constant giving memory back": ours("constant", gives_back=True),
}
PADDING = ("Trainer as its examples",)
"""Sides that pad all texts to the most tokens that are allowed."""
