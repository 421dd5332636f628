"""Collect the losses of healthy runs into healthy.npz: collect.py RUN_FOLDER ...

Each array is float32, one loss a reading, named target@lr-schedule-seed. The runs were made
by ``toolkit.train`` on real data, at base LRs that trained well, and looked at before they were
called healthy.
"""

import json
import sys
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("healthy.npz")


def main(folders: list[str]) -> None:
    """Add the runs to the file, or replace those of the same name."""
    traces = dict(np.load(FILE)) if FILE.exists() else {}
    for folder in map(Path, folders):
        config = json.loads((folder / "config.json").read_text())
        events = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
        losses = [event["loss"] for event in events if "kind" not in event]
        target = "/".join(Path(config["target"].partition("@")[0]).parts[-2:])
        rate, schedule = config["recipe"]["lr"], config["schedule"]["name"]
        traces[f"{target}@{rate:.3g}-{schedule}-{config['seed']}"] = np.array(losses, np.float32)
    np.savez_compressed(FILE, **traces)
    print(*(f"{name}: {len(losses)}" for name, losses in traces.items()), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
