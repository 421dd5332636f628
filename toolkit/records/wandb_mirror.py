"""The process that mirrors a run to W&B: it follows the run's files, and sends what they say.

Training writes to disk and knows nothing of W&B. A dead network, a slow server or a full disk can
stop or slow the mirror only, and every value that W&B shows is read from ``events.jsonl``.

``python -m toolkit.records.wandb_mirror runs/STUDY/*`` mirrors finished runs afterwards.
"""

import argparse
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from toolkit.errors import outcome
from toolkit.process import DONE, FAILED
from toolkit.records.config_file import CONFIG, read_config
from toolkit.records.console import CONSOLE
from toolkit.records.events import EVENTS
from toolkit.records.json_files import read_json
from toolkit.records.mirror_process import STATUS_PREFIX, run_mirror
from toolkit.records.mirror_rows import (
    AXES,
    DECISION_COLUMNS,
    describe,
    follow,
    project_of,
    run_name,
    sizes,
)
from toolkit.records.result import RESULT, read_result

CONFIG_FIELDS = (
    *("world_size", "launch", "micro_batch", "precision", "init", "device", "versions", "argv"),
)
SUMMARY_FIELDS = ("status", "updates", "rollbacks", "initial_weights_sha", "batch_order_sha")
"""Fields of a result that W&B has in the run's configuration, and those in its summary."""
TAG_LENGTH = 64

CONNECT_SECONDS = 3
OPEN_SECONDS = 30
"""Training does not wait for W&B to open, so a slow server may take its time."""
UPLOAD_SECONDS, FINISH_SECONDS = 3, 4


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
    parser.add_argument("--offline", action="store_true", help="do not ask the server")
    return run_mirror(parser, argv, lambda asked: partial(mirror, offline=asked.offline))


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
    run, seconds = _open(folder, offline, live), 0.0
    decisions: list[list[Any]] = []  # of earlier attempts, too: the table replaces theirs
    for row, new in follow(folder, begin, over):
        seconds = row.axes["wall_clock"]
        if new and row.values:
            for name in [name for name in row.values if name.startswith("validation/")]:
                best = "min" if name in row.falling else "max"
                run.define_metric(name, step_metric="update", summary=f"{best},last")
            run.log(row.axes | row.values)
        if row.decision:
            decisions.append([(row.axes | row.decision).get(name) for name in DECISION_COLUMNS])
    _finish(run, folder, decisions, seconds, live)


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
    schedule = config["schedule"]
    target, _, recipe = config["target"].partition("@")
    tags = (target, f"@{recipe}", schedule, *config.get("tags", ()))
    return wandb.init(
        project=project_of(config, "wandb"),
        entity=config.get("entity"),
        dir=os.environ.get("WANDB_DIR") or str(folder),
        mode=mode,  # type: ignore[arg-type]  # what WANDB_MODE says is checked there
        id=folder.name,
        resume="allow",
        group=config["study"],
        job_type=schedule[-TAG_LENGTH:],
        name=run_name(config),
        tags=list(dict.fromkeys(tag[-TAG_LENGTH:] for tag in tags)),
        notes=config.get("notes"),
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


def _finish(run: Any, folder: Path, decisions: list[list[Any]], seconds: float, live: bool) -> None:
    """Result, table of decisions, raw files, alert, and the run's end."""
    run.config.update(sizes(folder), allow_val_change=True)
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

    if (folder / CONSOLE).exists():
        run.save(str(folder / CONSOLE), base_path=str(folder), policy="now")
    rows = decisions[: wandb.Table.MAX_ROWS]
    run.log({"decisions": wandb.Table(columns=list(DECISION_COLUMNS), data=rows)})
    artifact = wandb.Artifact(f"run-{folder.name}", "result")
    for name in (CONFIG, EVENTS, RESULT):
        if (folder / name).exists():
            artifact.add_file(str(folder / name))
    run.log_artifact(artifact)


if __name__ == "__main__":
    raise SystemExit(main())
