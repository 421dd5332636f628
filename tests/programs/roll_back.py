"""Train, keep a snapshot, train on, go back, and train on the same batches again.

usage: roll_back.py OUT TARGET [flags]      every rank writes OUT/rankN.json
"""

import json
import sys
from pathlib import Path

import torch

from toolkit.config import parse
from toolkit.process import leave_process_group, set_threads
from toolkit.training import checkpoint, loop
from toolkit.training.batches import batches_of
from toolkit.training.build import build
from toolkit.training.snapshot import Snapshot

BEFORE, AFTER = 4, 5


def main():
    out = Path(sys.argv[1])
    set_threads()
    run = build(parse(sys.argv[2:]))
    checkpoint.start_or_resume(run)
    run.model.train()
    snapshot = Snapshot(run.model, run.optimizer)
    batches = list(batches_of(run, 0, BEFORE + AFTER))

    def copies():
        """Everything that a snapshot keeps, as it is now."""
        present = snapshot._present()
        return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in present}

    def train(first, count):
        """Losses of so many updates, from the batches of update ``first`` on."""
        losses = []
        window = run.batch_split.accumulation
        stream = iter(batches[first * window :])
        for _ in range(count):
            loop.make_update(run, stream)
            losses.append(run.meter.read(run.update, 0.0)[0].loss)
        return losses

    def equal(a, b):
        same = [
            k
            for k in a
            if (torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k])
        ]
        return a.keys() == b.keys() and len(same) == len(a)

    results = {}
    fresh = copies()
    snapshot.take()
    first = train(0, BEFORE)
    snapshot.restore()
    results["untouched"] = equal(copies(), fresh)
    results["again from the start"] = train(0, BEFORE) == first
    snapshot.take()
    kept = copies()
    after = train(BEFORE, AFTER)
    weights = run.accelerator.get_state_dict(run.model)
    moved = copies()
    snapshot.restore()
    results["moved"] = not equal(moved, kept)
    results["restored"] = equal(copies(), kept)
    results["same losses"] = train(BEFORE, AFTER) == after
    results["same state"] = equal(copies(), moved)
    again = run.accelerator.get_state_dict(run.model)
    if run.accelerator.is_main_process:
        results["same weights"] = all(torch.equal(weights[name], again[name]) for name in weights)
    results["shards"] = sum(name.startswith(("shard/", "master/")) for name in kept)
    results["moments"] = sum(name.startswith("state/") for name in kept)
    (out / f"rank{run.accelerator.process_index}.json").write_text(json.dumps(results))
    loop.release(run)


main()
leave_process_group()
