"""Fit a run and write down its last weights, and the rates that the innermost optimizer holds.

usage: fit.py OUT TARGET [flags]
"""

import sys
from pathlib import Path

import torch

from toolkit.config import parse
from toolkit.process import leave_process_group, set_threads
from toolkit.training import loop
from toolkit.training.build import build


def main():
    out = Path(sys.argv[1])
    set_threads()
    run = build(parse(sys.argv[2:]))
    rates = []

    def look(run):
        used = run.lr.used
        held = run.model.get_lr() if hasattr(run.model, "get_lr") else used
        rates.append((used, list(held)))

    run.after_update.append(look)
    result = loop.fit(run)
    weights = run.accelerator.get_state_dict(run.model)
    if run.accelerator.is_main_process:
        kept = {
            "weights": weights,
            "rates": rates,
            "status": "preempted" if result is None else result.status,
        }
        torch.save(kept, out)
    loop.release(run)


main()
leave_process_group()
