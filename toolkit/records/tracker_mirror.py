"""The process that mirrors a run to TensorBoard, MLflow or Trackio, by Accelerate's trackers.

It follows the run's files as the mirror to W&B does, and sends the same numbers under the same
names. ``python -m toolkit.records.tracker_mirror TRACKER runs/STUDY/*`` mirrors finished runs.
"""

import argparse
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from toolkit.records.config_file import read_config
from toolkit.records.mirror_process import STATUS_PREFIX, run_mirror
from toolkit.records.mirror_rows import PROJECT, describe, follow, run_name
from toolkit.records.result import RESULT, read_result

TRACKERS = ("mlflow", "tensorboard", "trackio")
TEXTS = ("tensorboard",)
"""Those that take texts among the values: the decisions are told there."""
LONGEST = 500
"""Characters of a setting: MLflow takes no longer ones."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m toolkit.records.tracker_mirror", description=__doc__
    )
    parser.add_argument("tracker", choices=TRACKERS)
    return run_mirror(parser, argv, lambda asked: partial(mirror, asked.tracker))


def mirror(tracker: str, folder: Path, over: threading.Event, begin: int = 0) -> None:
    """Mirror a run's folder until it is over.

    Args:
        tracker: one of ``TRACKERS``.
        folder: the run's folder, with ``config.json`` in it.
        over: set when no more events will be written.
        begin: byte of ``events.jsonl`` to begin at.

    Raises:
        Exception: whatever the tracker raises; its kinds of errors are many.
    """
    rows = (row for row, new in follow(folder, begin, over) if new)
    run, update = None, 0
    for row in rows:
        update = int(row.axes["update"])
        if run is None:  # now it is known which of the steps of an earlier attempt are no more
            run = _open(tracker, folder, update + (not row.values) if begin else 0)
        told: dict[str, Any] = dict(row.values)
        if told:
            told |= {name: value for name, value in row.axes.items() if name != "update"}
        if row.decision and tracker in TEXTS:
            told["decision"] = f"{row.decision['action']}: {row.decision['reason']}"
        if told:
            run.log(told, step=update)
    run = run or _open(tracker, folder, 0)
    if (folder / RESULT).exists():
        run.log(_outcome(folder), step=update)
    run.finish()


def _outcome(folder: Path) -> dict[str, float]:
    """The numbers of a result that no event has."""
    result = read_result(folder)
    found = {} if result.found is None else result.found.numbers()
    told = {f"found/{name}": value for name, value in found.items() if value is not None}
    return {"rollbacks": result.rollbacks, "diverged": int(result.diverged), **told}


def _open(tracker: str, folder: Path, resumed: int) -> Any:
    """The tracker of a run, which is opened once more where an earlier attempt has opened it.

    Args:
        tracker: its name.
        folder: the run's.
        resumed: the first update of this attempt; 0 for the first attempt.
    """
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState(cpu=True)  # Accelerate's own messages ask it which rank this is
    told = describe(read_config(folder))
    name, place = run_name(told), str(folder.resolve())
    if tracker == "tensorboard":
        # The steps that an earlier attempt told from here on are not the run's any more.
        purged = {"purge_step": resumed} if resumed else {}
        run = LOGGER_TYPE_TO_CLASS[tracker]("tensorboard", logging_dir=place, **purged)
    elif tracker == "mlflow":
        run = LOGGER_TYPE_TO_CLASS[tracker](PROJECT, run_name=name, run_id=_run_of(folder))
    else:
        run = LOGGER_TYPE_TO_CLASS[tracker](PROJECT, name=folder.name, resume="allow")
    run.start()
    if tracker == "mlflow":
        _note_run(folder, run.tracker.info.run_id)
    print(f"{STATUS_PREFIX}open", flush=True)
    if not resumed:
        run.store_init_configuration(dict(_plain(told)))
    return run


def _run_of(folder: Path) -> str | None:
    """The id that MLflow has given to the run, if it has been there."""
    file = folder / "mlflow.json"
    return json.loads(file.read_text())["run_id"] if file.exists() else None


def _note_run(folder: Path, run_id: str) -> None:
    (folder / "mlflow.json").write_text(json.dumps({"run_id": run_id}))


def _plain(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings without objects in them: numbers, and texts of all else."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _plain(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float):
            yield prefix + name, value
        elif value is not None:
            yield prefix + name, str(value)[:LONGEST]


if __name__ == "__main__":
    raise SystemExit(main())
