"""``adaptive`` beside ``linear`` in the Trainer and, on the same data, in a bare loop.

A tiny encoder makes 600 updates; what is told is the mean training loss of the last 60,
by seed. ``adaptive`` begins at LRs that are right and far too low, ``linear`` at several.

usage: python benchmarks/trainer.py [SEEDS]
"""

import logging
import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from toolkit import Reading, ScheduledLR
from toolkit.schedules import Adaptive, Linear

EXAMPLE: dict[str, Any] = runpy.run_path(
    str(Path(__file__).parents[1] / "tests" / "fed_trainer.py"), run_name="example"
)
UPDATES, LAST, PER_EPOCH = 600, 60, 30
RATES = {"adaptive": (1e-2, 1e-6), "linear": (3e-3, 1e-2, 3e-2)}


class Seen(EXAMPLE["FedTrainer"]):  # type: ignore[misc, name-defined, valid-type]
    """The Trainer of ``tests/fed_trainer.py``, which keeps the losses."""

    def on_reading(self, reading: Reading, decision: Any) -> None:
        """Called with each reading."""
        self.losses.append(reading.loss)


def prepared(seed: int, lr: float, schedule: Any, out: str) -> tuple[Any, ScheduledLR]:
    """The Trainer of ``tests/fed_trainer.py`` with weights of this seed, under this schedule."""
    trainer = EXAMPLE["build"](out, Seen, max_steps=60)
    model = trainer.model
    torch.manual_seed(seed)
    model.apply(model._init_weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    handed = model if isinstance(schedule, Adaptive) else None
    scheduled = ScheduledLR(optimizer, schedule, UPDATES, handed)
    changes = {"max_steps": UPDATES, "save_strategy": "no", "seed": seed, "logging_steps": UPDATES}
    arguments = EXAMPLE["arguments"](out, **changes)
    pair = (optimizer, scheduled)
    trainer = Seen(model, arguments, train_dataset=EXAMPLE["sentences"](480), optimizers=pair)
    trainer.losses = []
    return trainer, scheduled


def in_the_trainer(seed: int, lr: float, schedule: Any) -> list[float]:
    """The losses of a run."""
    with tempfile.TemporaryDirectory() as out:
        trainer, _ = prepared(seed, lr, schedule, out)
        trainer.train()
    return list(trainer.losses)


def in_a_bare_loop(seed: int, lr: float, schedule: Any) -> list[float]:
    """The same in a loop of one's own, which cannot rewind its data."""
    with tempfile.TemporaryDirectory() as out:
        trainer, scheduled = prepared(seed, lr, schedule, out)
    model, optimizer = trainer.model, trainer.optimizer
    losses: list[float] = []
    loader = trainer.get_train_dataloader()
    while len(losses) < UPDATES:
        for batch in loader:
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            made = len(losses)
            scheduled.observe(Reading.of(made, made / PER_EPOCH, losses[-1]))
            scheduled.step()
    return losses[:UPDATES]


def main() -> None:
    """Print a line for each schedule and LR."""
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
    ways: dict[str, Callable[..., list[float]]] = {
        "Trainer": in_the_trainer,
        "bare loop": in_a_bare_loop,
    }
    for where, run in ways.items():
        for name, kind in (("adaptive", Adaptive), ("linear", Linear)):
            for lr in RATES[name]:
                ended = []
                for seed in seeds:
                    losses = run(seed, lr, kind())
                    ended.append(sum(losses[-LAST:]) / LAST)
                told = " ".join(f"{loss:.3f}" for loss in ended)
                mean = sum(ended) / len(ended)
                print(f"{where:10} {name:9} base LR {lr:<6g} {told}  mean {mean:.3f}", flush=True)


if __name__ == "__main__":
    main()
