"""Gather the outputs of splits of several sizes, by Accelerate batch by batch and by the toolkit.

usage: gathered.py OUT

OUT/rankN.json has for each size whether both are the same to the bit, and those of one rank; how
many batches there were, and all-gathers; and when the ranks agreed to stop, if one was asked to.
"""

import json
import sys
from pathlib import Path
from unittest.mock import patch

import torch
from accelerate import Accelerator

from toolkit.process import leave_process_group
from toolkit.training import gathering
from toolkit.training.batches import evaluation_loader

BATCH, SIZES = 4, (1, 7, 8, 9, 45)


class Numbers:
    """A split of so many samples, which are their numbers."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitems__(self, ids):
        return {"id": torch.tensor(ids)}


def outputs_of(ids):
    """In many dtypes and shapes, one with gaps in memory and one without any number."""
    wide = ids[:, None].double() / torch.arange(7)  # with NaN and infinities
    kinds = [ids % 2 == 0, ids.to(torch.uint8), ids, wide.float() + 1j]
    shapes = [wide.half()[:, 1], wide.bfloat16()[:, ::3], wide.float()[:, 1:].view(-1, 2, 3).mT]
    return [wide, *kinds, *shapes, wide[:, :0]]


def same(some, others):
    """Whether these tensors are the same to the bit; NaN is not itself."""
    return all(
        a.dtype == b.dtype and a.shape == b.shape and str(a.tolist()) == str(b.tolist())
        for a, b in zip(some, others, strict=True)
    )


def batches_of(accelerator, size):
    return accelerator.prepare_data_loader(evaluation_loader(Numbers(size), BATCH))


def gathered(accelerator, size):
    ours, theirs, gather = gathering.Gathering(accelerator), [], accelerator.gather
    with patch.object(accelerator, "gather", side_effect=gather) as seen:
        for batch in batches_of(accelerator, size):
            outputs = outputs_of(batch["id"])
            assert not ours.add(outputs, False)
            by_us = seen.call_count
            theirs.append([part.cpu() for part in accelerator.gather_for_metrics(outputs)])
            seen.call_count = by_us
    told = {"batches": len(theirs), "collectives": by_us}
    if not accelerator.is_main_process:
        return {**told, "same": ours.outputs == []}
    both = all(same(*pair) for pair in zip(ours.outputs, theirs, strict=True))
    whole = [torch.cat(parts) for parts in zip(*ours.outputs, strict=True)]
    return {**told, "same": both and same(whole, outputs_of(torch.arange(size)))}


def agreed(accelerator, size, asked_at):
    """The batch after which all know that the last rank was asked to stop during another."""
    ours, last = gathering.Gathering(accelerator), accelerator.num_processes - 1
    for number, batch in enumerate(batches_of(accelerator, size)):
        asked = accelerator.process_index == last and number >= asked_at
        if ours.add(outputs_of(batch["id"]), asked):
            return number
    return None


def main():
    accelerator = Accelerator(cpu=True)
    told = {}
    # Rank 0's clock counts: by that of the others there would be one for each batch.
    with patch.object(gathering, "APART", 0 if accelerator.process_index else 3600):
        told["rare"] = [gathered(accelerator, size) for size in SIZES]
        told["agreed"] = [agreed(accelerator, 45, at) for at in range(6)]
        with patch.object(gathering, "MOST_BYTES", 1):
            told["full"] = [gathered(accelerator, size) for size in SIZES]
    with patch.object(gathering, "APART", 3600 if accelerator.process_index else 0):
        told["frequent"] = [gathered(accelerator, size) for size in SIZES]
    name = f"rank{accelerator.process_index}.json"
    Path(sys.argv[1], name).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
    leave_process_group()
