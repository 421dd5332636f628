"""examples/hf_trainer.py on several ranks, with a loss that is lost on rank 1; then once more from
its first checkpoint. Every rank writes down what it saw.

usage: hf_ranks.py OUT
"""

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import torch

from toolkit.process import leave_process_group

example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "hf_trainer.py"))
Trainer: Any = example["ScheduledTrainer"]
out, rank = Path(sys.argv[1]), int(os.environ["RANK"])


class Watched(Trainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen, self.local = [], []

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        if rank == 1 and self.state.global_step == 6:
            loss = loss + float("nan")  # its gradient is finite
        return loss

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.local.append(loss.item())
        return loss

    def on_reading(self, reading, decision):
        self.seen.append([*reading[:2], repr(reading.loss), *reading[3:]])
        self.seen[-1] += [decision.action, self.lr_scheduler.used[0].hex()]


def train(resume_from):
    trainer = example["build"](str(out / "run"), Watched)
    trainer.train(resume_from_checkpoint=resume_from)
    weights = torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])
    return trainer, weights


def main():
    whole, weights = train(None)
    resumed, again = train(str(out / "run" / "checkpoint-20"))
    (out / f"rank{rank}.json").write_text(
        json.dumps(
            {
                "ranks": whole.accelerator.num_processes,
                "seen": whole.seen,
                "local": whole.local,
                "resumed": resumed.seen,
                "same_weights": torch.equal(weights, again),
            }
        )
    )


main()
leave_process_group()
