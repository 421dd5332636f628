"""What a run leaves behind: events.jsonl, state.json, result.json; W&B mirrors it.

The truth is on disk; W&B never stops or slows a run. Only rank 0 writes.
"""

import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from accelerate import Accelerator
from tqdm import tqdm

from toolkit.config import RunConfig, schedule_name, to_json
from toolkit.events import to_event
from toolkit.reading import Decision, Reading

PROJECT = "adaptive-lr-toolkit"
SPANS = ("data", "forward_backward", "optimizer", "reading", "evaluation", "checkpoint")
NOT_TRAINING = ("evaluation", "checkpoint")
PACKAGES = (
    *("torch", "accelerate", "timm", "transformers", "datasets", "evaluate", "numpy", "wandb"),
    *("schedulefree", "prodigyopt"),
)
WANDB_INIT_SECONDS = 10


class Stopwatch:
    """Seconds spent in named spans. On an accelerator they are the host's, without syncs."""

    def __init__(self, earlier: Mapping[str, float] | None = None) -> None:
        self.seconds: dict[str, float] = defaultdict(float, earlier or {})
        self._train_before = self.seconds.pop("train", 0.0)
        self._since = time.perf_counter()
        self._paused = sum(self.seconds[name] for name in NOT_TRAINING)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Add the time of the block to a span."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begin

    @property
    def train_seconds(self) -> float:
        """Seconds in the loop, without evaluation and checkpoints, resumed parts included."""
        paused = sum(self.seconds[name] for name in NOT_TRAINING) - self._paused
        return self._train_before + time.perf_counter() - self._since - paused

    def spans(self) -> dict[str, float]:
        """Seconds of every span."""
        return {name: self.seconds.get(name, 0.0) for name in SPANS}

    def state(self) -> dict[str, float]:
        """What to hand to the constructor in order to go on."""
        return {**self.seconds, "train": self.train_seconds}


class Recorder:
    """Writes down one run.

    Args:
        folder: the run's folder.
        accelerator: rank 0 of it writes; W&B goes through its tracker.
        config: what is being run.
        updates: the budget, for the progress bar.
        resume_at: update to continue from; later events of an earlier attempt are dropped.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        config: RunConfig,
        updates: int,
        resume_at: int = 0,
    ) -> None:
        self.folder, self.accelerator, self.config = folder, accelerator, config
        self.stopwatch = Stopwatch()
        self._writes = accelerator.is_main_process
        self._events: IO[str] | None = None
        if self._writes:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "config.json", to_json(config))
            self._events = _open_events(folder / "events.jsonl", resume_at)
        self._mirrored = config.wandb == "auto" and _start_wandb(accelerator, config, folder)
        self._bar = tqdm(
            total=updates,
            initial=resume_at,
            desc=f"{config.target} {schedule_name(config.schedule)}",
            unit="update",
            disable=not (self._writes and config.progress) or None,
            leave=False,
        )

    def span(self, name: str) -> Any:
        """Time the block; see ``SPANS``."""
        return self.stopwatch.span(name)

    def reading(
        self, reading: Reading, decision: Decision, rates: list[float], factor: float
    ) -> None:
        """Log a reading with the LR used in its last update and what the schedule made of it."""
        event = {**to_event(reading, decision, rates[0], factor), "t": time.time()}
        self._write(event)
        values = {"train/loss": event["loss"], **_rate_names(rates)}
        self._mirror(reading.update, reading.epoch, values)
        self._bar.set_postfix_str(f"loss {reading.loss:.4f}, lr {rates[0]:.2e}", refresh=False)
        self._bar.update(reading.update - self._bar.n)

    def evaluation(
        self, split: str, update: int, epoch: float, metrics: Mapping[str, float]
    ) -> None:
        """Log the metrics of a split."""
        self._write(
            {"kind": "evaluation", "update": update, "epoch": epoch, "split": split, **metrics}
            | {"t": time.time()}
        )
        values = {f"{split}/{name}": value for name, value in metrics.items()}
        self._mirror(update, epoch, values)

    def event(self, kind: str, update: int, **fields: Any) -> None:
        """Log anything else that happened, such as a resume."""
        self._write({"kind": kind, "update": update, **fields, "t": time.time()})

    def status(self, status: str, update: int) -> None:
        """Say in state.json how far the run is: running, preempted, failed, diverged or done."""
        if self._writes:
            write_status(self.folder, status, update)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write result.json, whose presence means that the run is over."""
        if self._writes:
            write_json(self.folder / "result.json", result)
        flat = {f"{split}/{k}": v for split, m in result["metrics"].items() for k, v in m.items()}
        times = {f"timing/{name}": seconds for name, seconds in result["timing"].items()}
        self._mirror(result["updates"], result["epoch"], {**flat, **times})
        self.close()

    def close(self) -> None:
        """Close the files, the progress bar and the mirror; safe to call twice."""
        self._bar.close()
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._mirrored:
            self._mirrored = False
            for tracker in self.accelerator.trackers:
                _quietly(tracker.finish)
            self.accelerator.trackers = []

    def _write(self, event: Mapping[str, Any]) -> None:
        if self._events is not None:
            self._events.write(json.dumps(event, allow_nan=False) + "\n")

    def _mirror(self, update: int, epoch: float, values: Mapping[str, Any]) -> None:
        if self._mirrored and self._writes:
            seconds = self.stopwatch.train_seconds
            clock = {"update": update, "epoch": epoch, "train_seconds": seconds}
            known = {name: value for name, value in values.items() if value is not None}
            _quietly(self.accelerator.log, {**clock, **known})


def write_status(folder: Path, status: str, update: int) -> None:
    """Say in state.json how far a run is."""
    write_json(folder / "state.json", {"status": status, "update": update})


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file by atomic rename: a reader sees the old file or the whole new one."""
    partial = path.with_name(path.name + f".{os.getpid()}.partial")
    with partial.open("w") as file:
        json.dump(data, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _open_events(path: Path, resume_at: int) -> IO[str]:
    if not resume_at:
        path.unlink(missing_ok=True)
    if path.exists():
        kept = [
            line
            for line in path.read_text().splitlines(keepends=True)
            if line.endswith("\n") and json.loads(line)["update"] <= resume_at
        ]
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(kept))
        partial.replace(path)
    return path.open("a", buffering=1)


def _rate_names(rates: list[float]) -> dict[str, float]:
    return {"lr": rates[0]} | {f"lr/group_{i}": rate for i, rate in enumerate(rates[1:], 1)}


def wandb_mode() -> str:
    """online with a key, else offline, unless WANDB_MODE says otherwise: never a prompt."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    import wandb

    return "online" if wandb.login(prompt=False, verify=False) else "offline"


def _start_wandb(accelerator: Accelerator, config: RunConfig, folder: Path) -> bool:
    """Open the W&B run on rank 0; a W&B that fails is left out, with a warning."""
    if not accelerator.is_main_process:
        return True
    modes: list[str] = []
    if not _quietly(lambda: modes.append(wandb_mode())):
        return False
    modes += ["offline"] * (modes == ["online"])
    return any(_quietly(_init_wandb, accelerator, config, folder, mode) for mode in modes)


def _init_wandb(accelerator: Accelerator, config: RunConfig, folder: Path, mode: str) -> None:
    import wandb

    name = schedule_name(config.schedule)
    settings = wandb.Settings(init_timeout=WANDB_INIT_SECONDS, silent=True, console="off")
    options = {
        "mode": mode,
        "dir": str(folder),
        "id": folder.name,
        "resume": "allow",
        "group": config.study,
        "job_type": name,
        "name": f"{config.target} {name} seed {config.seed}",
        "tags": [config.target, name],
        "settings": settings,
    }
    try:
        accelerator.init_trackers(PROJECT, config=to_json(config), init_kwargs={"wandb": options})
    except Exception:
        accelerator.trackers = []  # or Accelerate would close, at the end, what never opened
        raise


def _quietly(call: Any, *args: Any, **kwargs: Any) -> bool:
    """Whether the call went well. W&B raises many kinds of errors; none may end a run."""
    try:
        call(*args, **kwargs)
    except Exception as error:
        tqdm.write(f"W&B: {type(error).__name__}: {error}; the run goes on without it")
        return False
    return True
