"""The text models at their real sizes: a few updates on real data, plain and under DeepSpeed.

Each row starts a run from random weights (``--recipe.init random``), stops it at an update, and for
rows with a second stop lets the same command continue it from its checkpoint. Printed are the
encoder's parameters, the loss at each update, whether the LR that the optimizer or DeepSpeed's
engine holds is the schedule's to the bit, seconds an update, and the peak memory of each process.

usage: python benchmarks/first_updates.py [ROW ...]      rows: see ROWS; by default all
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
LARGE = "squad_v2/bert-large-uncased-whole-word-masking-finetuned-squad"
FLAGS = ("--recipe.init", "random", "--recipe.max-length", "384", "--wandb", "off")


class Row(NamedTuple):
    """One model on one launch config."""

    config: str
    processes: int
    target: str
    batch: int
    stops: tuple[int, ...]
    """Updates after which the run is stopped; it is started again for each further one."""


ROWS = {
    "bert-base": Row("cpu", 1, "imdb/bert-base-uncased", 8, (5,)),
    "roberta-base": Row("cpu", 1, "squad_v2/roberta-base", 8, (5,)),
    "bert-large-zero2": Row("zero2", 2, LARGE, 4, (3, 5)),
    "bert-large-zero3": Row("zero3", 2, LARGE, 4, (3, 5)),
}


def main(names: list[str]) -> None:
    """Run the rows and print them as a table."""
    print("| row | encoder, M | loss by update | LR held = set | s / update | peak GiB |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in names or ROWS:
        with tempfile.TemporaryDirectory() as folder:
            parts = [_launch(ROWS[name], stop, Path(folder)) for stop in ROWS[name].stops]
        losses = " / ".join(" ".join(f"{loss:.3f}" for loss in part["losses"]) for part in parts)
        held = "yes" if all(part["held"] for part in parts) else "NO"
        seconds = max(part["seconds"] for part in parts)
        peak = ", ".join(f"{gib:.1f}" for gib in parts[-1]["peak"])
        size = parts[0]["parameters"] / 1e6
        print(f"| {name} | {size:.1f} | {losses} | {held} | {seconds:.0f} | {peak} |", flush=True)


def _launch(row: Row, stop: int, folder: Path) -> dict[str, Any]:
    """Train up to update ``stop`` in processes of their own."""
    accelerate = Path(sys.executable).with_name("accelerate")
    config = HERE.parent / "launch_configs" / f"{row.config}.yaml"
    launch = [str(accelerate), "launch", "--quiet", "--config_file", str(config)]
    launch += ["--num_processes", str(row.processes), str(Path(__file__).resolve()), "--inside"]
    flags = [*FLAGS, "--recipe.global-batch", str(row.batch)]
    data = Path(os.environ["TOOLKIT_DATA"]).resolve()
    subprocess.run(
        [*launch, str(stop), row.target, *flags, "schedule:cosine", "--schedule.warmup", "0.1"],
        cwd=folder,
        env={**os.environ, "TOOLKIT_DATA": str(data)},
        check=True,
        stdout=sys.stderr,
    )
    part: dict[str, Any] = json.loads((folder / "part.json").read_text())
    return part


def inside(stop: int, command: list[str]) -> None:
    """Fit one run up to an update; rank 0 writes ``part.json``."""
    import torch

    from toolkit.config import parse
    from toolkit.process import set_threads
    from toolkit.training import loop
    from toolkit.training.build import build
    from toolkit.training.run import Run

    set_threads()
    run = build(parse(command))
    body = getattr(run.model, "module", run.model)
    encoder = getattr(body, body.base_model_prefix)
    # Under ZeRO-3 a weight keeps its size in ds_numel.
    parameters = sum(getattr(weight, "ds_numel", weight.numel()) for weight in encoder.parameters())
    engine = getattr(run.model, "get_lr", lambda: run.lr.used)
    held, times = [], [time.perf_counter()]

    def look(run: Run) -> None:
        held.append(list(engine()) == run.lr.used)
        times.append(time.perf_counter())
        run.stop_asked = run.update >= stop

    run.after_update.append(look)
    loop.fit(run)
    held.append(list(engine()) == run.lr.used)  # the LR of the next update
    seconds = [later - earlier for earlier, later in pairwise(times)]
    peak = torch.tensor([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20])
    peaks = run.accelerator.gather(peak.to(run.accelerator.device)).tolist()
    if run.accelerator.is_main_process:
        events = map(json.loads, (run.folder / "events.jsonl").read_text().splitlines())
        losses = [event["loss"] for event in events if "kind" not in event][-len(held) + 1 :]
        part = {"parameters": parameters, "losses": losses, "held": all(held)}
        part |= {"seconds": sorted(seconds)[len(seconds) // 2], "peak": peaks}
        Path("part.json").write_text(json.dumps(part))
    loop.release(run)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        from toolkit.process import leave_process_group

        inside(int(sys.argv[2]), sys.argv[3:])
        leave_process_group()
    else:
        main(sys.argv[1:])
