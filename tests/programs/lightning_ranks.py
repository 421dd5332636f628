"""Lightning's Trainer with ScheduleCallback under DDP: every rank writes down what it saw.

usage: lightning_ranks.py OUT
"""

import json
import os
import sys
import warnings
import zlib
from pathlib import Path

import torch

from tests.test_lightning import EXAMPLE, Noting, Watched, weights
from toolkit.process import leave_process_group
from toolkit.schedules import Adaptive

warnings.simplefilter("ignore")  # Lightning's own, of loaders without workers
out, rank = Path(sys.argv[1]), int(os.environ["RANK"])


def main():
    torch.manual_seed(0)
    model, watch = Noting(0.001), Watched(Adaptive(search_share=0.5))
    train, _ = EXAMPLE.loaders(32)
    fit = EXAMPLE.trainer(
        str(out),
        callbacks=[watch],
        max_epochs=6,
        devices=2,
        strategy="ddp",
        enable_checkpointing=False,
        use_distributed_sampler=False,
    )
    order = torch.utils.data.DistributedSampler(train.dataset, 2, rank, seed=0)
    fit.fit(model, torch.utils.data.DataLoader(train.dataset, 32, sampler=order))
    assert fit.world_size == 2
    (out / f"rank{rank}.json").write_text(
        json.dumps(
            {
                "seen": [[r.update, r.loss, lr, action] for r, action, lr in watch.seen],
                "losses": model.losses,
                "batches": [zlib.crc32(batch.numpy().tobytes()) for batch in model.batches],
                "weights": zlib.crc32(weights(model).numpy().tobytes()),
            }
        )
    )


main()
leave_process_group()
