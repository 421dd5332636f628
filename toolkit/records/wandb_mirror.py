"""The process that mirrors a run to W&B: it follows the run's files, and sends what they say.

Training writes to disk and knows nothing of W&B. A dead network, a slow server or a full disk can
stop or slow the mirror only, and every value that W&B shows is read from ``events.jsonl``.

``python -m toolkit.records.wandb_mirror runs/STUDY/*`` mirrors finished runs afterwards.
"""

import argparse
import json
import math
import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.errors import error_text, outcome
from toolkit.process import DONE, FAILED
from toolkit.records.config_file import CONFIG, read_config
from toolkit.records.events import (
    EVENTS,
    START,
    TIMING,
    EvaluationEvent,
    Event,
    OtherEvent,
    ReadingEvent,
    TimingEvent,
    decision_to_json,
    entrant,
    event_of,
)
from toolkit.records.json_files import parse_object, read_json
from toolkit.records.result import RESULT, read_result

PROJECT = "adaptive-lr-toolkit"
AXES = ("update", "epoch", "wall_clock")
"""On every row; wall_clock is in seconds since the run's first event."""
VALIDATION_LOSS = "validation/loss"
DECISION_COLUMNS = (*AXES, "lr", "pattern", "statistic", "action", "reason")
CONFIG_FIELDS = ("world_size", "micro_batch", "precision", "init", "device", "versions", "argv")
SUMMARY_FIELDS = ("status", "updates", "rollbacks", "initial_weights_sha", "batch_order_sha")
"""Fields of a result that W&B has in the run's configuration, and those in its summary."""
TAG_LENGTH = 64

POLL_SECONDS = 0.2
CONNECT_SECONDS = 3
OPEN_SECONDS = 30
"""Training does not wait for W&B to open, so a slow server may take its time."""
UPLOAD_SECONDS, FINISH_SECONDS = 3, 4
NICE = 10
STATUS_PREFIX = "mirror: "
"""Begins the lines of the log that are not W&B's own: how the mirror is doing."""


def wandb_mode() -> str:
    """online with a key, else offline, unless WANDB_MODE says otherwise: never a prompt."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    import wandb

    return "online" if wandb.login(prompt=False, verify=False) else "offline"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m toolkit.records.wandb_mirror", description=__doc__
    )
    parser.add_argument("folders", nargs="+", type=Path, help="runs/STUDY/RUN_ID")
    parser.add_argument("--offline", action="store_true", help="do not ask the server")
    parser.add_argument("--follow", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    over = threading.Event()
    if arguments.follow:
        os.nice(NICE)  # the cores are the training's
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_await_end_of_input, args=(over,), daemon=True).start()
    else:
        over.set()

    def mirror_all() -> None:
        for folder in arguments.folders:
            if (folder / EVENTS).exists():
                mirror(folder, over, arguments.begin, arguments.offline)

    _, error = outcome(mirror_all)  # W&B raises many kinds of errors
    if error is not None:
        print(f"{STATUS_PREFIX}failed {error_text(error)}", flush=True)
        return FAILED
    return DONE


def mirror(folder: Path, over: threading.Event, begin: int = 0, offline: bool = False) -> None:
    """Mirror a run's folder until it is over.

    Args:
        folder: the run's folder, with ``config.json`` in it.
        over: set when no more events will be written.
        begin: byte of ``events.jsonl`` to begin at.
        offline: do not ask the server.

    Raises:
        Exception: whatever W&B raises; its kinds of errors are many.
    """
    live = not over.is_set()
    run = _open(folder, offline, live)
    first = last = _first_time(folder)
    decisions: list[list[Any]] = []
    for event in _follow(folder / EVENTS, begin, over):
        last = event.time
        first = last if first is None else first
        axes = {**_place(event), "wall_clock": last - first}
        if row := values(event):
            falling = {VALIDATION_LOSS, *_falling(event)}
            for name in [name for name in row if name.startswith("validation/")]:
                best = "min" if name in falling else "max"
                run.define_metric(name, step_metric="update", summary=f"{best},last")
            run.log(axes | row)
        if row := decision(event):
            decisions.append([(axes | row).get(name) for name in DECISION_COLUMNS])
    _finish(run, folder, decisions, (last or 0.0) - (first or 0.0), live)


def _falling(event: Event) -> list[str]:
    """The numbers of an event, by the names of ``values``, that are better the lower they are."""
    if not isinstance(event, EvaluationEvent):
        return []
    return [f"{event.split}/{name}" for name in event.lower_is_better]


def values(event: Event) -> dict[str, float]:
    """What W&B gets of an event, beside its axes; empty for events that are not numbers."""
    if isinstance(event, EvaluationEvent):
        finite = {name: value for name, value in event.metrics.items() if value is not None}
        return {f"{event.split}/{name}": value for name, value in finite.items()}
    if isinstance(event, TimingEvent):
        return {f"{TIMING}/{name}": value for name, value in event.values.items()}
    if isinstance(event, OtherEvent):
        return {}
    loss = {} if math.isnan(event.reading.loss) else {"loss": event.reading.loss}
    if event.reading.kind != "training":
        return {f"{event.reading.kind}/{name}": value for name, value in loss.items()}
    groups = {f"lr/group_{i}": rate for i, rate in enumerate(event.lrs[1:], 1)}
    train = {f"train/{name}": value for name, value in loss.items()}
    return {**train, "lr": event.lr, **groups, "factor": event.factor}


def decision(event: Event) -> dict[str, Any]:
    """The row of the table of decisions, without its axes; empty for an event that is none."""
    if isinstance(event, ReadingEvent):
        if event.decision.action == "hold":
            return {}
        return {"lr": event.lr, **decision_to_json(event.decision)}
    if isinstance(event, OtherEvent) and event.kind != START:
        rest = {name: value for name, value in event.fields.items() if name not in AXES}
        return {"action": event.kind, "reason": json.dumps(rest)}
    return {}


def _place(event: Event) -> dict[str, float]:
    """The update of an event, and the epoch where it is known."""
    if isinstance(event, ReadingEvent):
        return {"update": event.reading.update, "epoch": event.reading.epoch}
    if isinstance(event, OtherEvent):
        epoch = {"epoch": event.fields["epoch"]} if "epoch" in event.fields else {}
        return {"update": event.update, **epoch}
    return {"update": event.update, "epoch": event.epoch}


def describe(config: Mapping[str, Any]) -> dict[str, Any]:
    """The W&B configuration of a run, by the names of ``result.json``."""
    schedule, optimizer = config["schedule"], config["recipe"].get("optimizer", "")
    rest = {name: value for name, value in config.items() if name not in ("schedule", "recipe")}
    return {
        **rest,
        "recipe_settings": config["recipe"],
        "base_lr": config["recipe"]["lr"],
        "schedule": entrant(schedule["name"], config.get("sees", "training"), optimizer),
        "schedule_config": schedule["fields"],
        "schedule_source_sha": schedule.get("source_sha"),
    }


def _open(folder: Path, offline: bool, live: bool) -> Any:
    """Open the W&B run: online where there is a key and a server, else offline."""
    import wandb

    mode = "offline" if offline else wandb_mode()
    if mode == "online" and not _answers(wandb.setup().settings.base_url):
        mode = "offline"
    run: Any
    run, error = outcome(lambda: _init(folder, mode, live))
    if error is not None:
        if mode != "online":
            raise error
        wandb.teardown()  # or the id would still be in use
        mode, run = "offline", _init(folder, "offline", live)
    place = run.url if mode == "online" else Path(run.dir).parent
    print(f"{STATUS_PREFIX}{mode} {place}", flush=True)
    for name in AXES:
        run.define_metric(name)
    run.define_metric("*", step_metric="update")
    run.define_metric("train/loss", step_metric="update", summary="min,last")
    return run


def _init(folder: Path, mode: str, live: bool) -> Any:
    import wandb

    config = describe(read_config(folder))
    schedule, seed = config["schedule"], config["seed"]
    target, _, recipe = config["target"].partition("@")
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        dir=os.environ.get("WANDB_DIR") or str(folder),
        mode=mode,  # type: ignore[arg-type]  # what WANDB_MODE says is checked there
        id=folder.name,
        resume="allow",
        group=config["study"],
        job_type=schedule[-TAG_LENGTH:],
        name=f"{config['target']} {schedule} seed {seed}",
        tags=[tag[-TAG_LENGTH:] for tag in (target, f"@{recipe}", schedule)],
        config=config,
        settings=wandb.Settings(
            init_timeout=OPEN_SECONDS,
            finish_timeout=FINISH_SECONDS if live else 0,  # 0 is no limit
            silent=True,
            console="off",
            x_disable_stats=not live,
            x_stats_pid=os.getppid(),  # the training's memory and cores, not the mirror's
        ),
    )


def _answers(url: str) -> bool:
    """Whether there is a server at all; a slow or broken one is one."""
    if not url.startswith(("http://", "https://")):
        return False
    try:
        urllib.request.urlopen(url, timeout=CONNECT_SECONDS).close()  # noqa: S310  # as just seen
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError:
        return False
    except OSError:
        return True
    return True


def _first_time(folder: Path) -> float | None:
    file = folder / EVENTS
    with file.open() as lines:
        line = lines.readline()
    return _event(file, line).time if line.endswith("\n") else None


def _follow(file: Path, begin: int, over: threading.Event) -> Iterator[Event]:
    """The events of a file from a byte on, and those still being written, until it is over."""
    partial = b""
    while True:
        last = over.is_set()  # before reading: what was written by then is read
        with file.open("rb") as lines:
            lines.seek(begin)
            read = lines.read()
        begin += len(read)
        *whole, partial = (partial + read).split(b"\n")
        yield from (_event(file, line.decode()) for line in whole)
        if last:
            return
        over.wait(POLL_SECONDS)


def _event(file: Path, line: str) -> Event:
    return event_of(parse_object(line, f"a line of {file}"), f"a line of {file}")


def _finish(run: Any, folder: Path, decisions: list[list[Any]], seconds: float, live: bool) -> None:
    """Result, table of decisions, raw files, alert, and the run's end."""
    result = read_result(folder) if (folder / RESULT).exists() else None
    state_file = folder / "state.json"
    state = read_json(state_file).get("status") if state_file.exists() else "running"
    if result is not None:
        lost = result.scale_of(result.headline).diverged
        score = next(iter(result.metrics.test.values()), lost)
        axes = {"update": result.updates, "epoch": result.epoch}
        scored = {} if score is None else {"score": score}
        run.log({**axes, "wall_clock": seconds, **scored})
        stored = result.to_json()
        configuration = {name: stored[name] for name in CONFIG_FIELDS}
        run.config.update(configuration, allow_val_change=True)
        found = {} if result.found is None else result.found.numbers()
        summary = {name: stored[name] for name in SUMMARY_FIELDS}
        run.summary.update(summary | {f"found/{name}": value for name, value in found.items()})
    diverged = result is not None and result.diverged
    trouble = diverged or state == "failed"
    if trouble:
        run.alert(f"{'diverged' if diverged else state}: {run.name}", str(folder), level="ERROR")
    if state == "preempted":
        run.mark_preempting()
    # Uploads ask the server first; it gets a few seconds while a training process waits.
    uploads = threading.Thread(target=_upload, args=(run, folder, decisions), daemon=True)
    uploads.start()
    uploads.join(UPLOAD_SECONDS if live else None)
    run.finish(exit_code=DONE if result is not None and not trouble else FAILED)


def _upload(run: Any, folder: Path, decisions: list[list[Any]]) -> None:
    import wandb

    rows = decisions[: wandb.Table.MAX_ROWS]
    run.log({"decisions": wandb.Table(columns=list(DECISION_COLUMNS), data=rows)})
    artifact = wandb.Artifact(f"run-{folder.name}", "result")
    for name in (CONFIG, EVENTS, RESULT):
        if (folder / name).exists():
            artifact.add_file(str(folder / name))
    run.log_artifact(artifact)


def _await_end_of_input(over: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):  # not sys.stdin, whose lock would outlive the thread
        pass
    over.set()


if __name__ == "__main__":
    raise SystemExit(main())
