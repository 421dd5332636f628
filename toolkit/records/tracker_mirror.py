"""The process that mirrors a run to TensorBoard, MLflow or Trackio, by Accelerate's trackers.

It follows the run's files as the mirror to W&B does, and sends the same numbers under the same
names; to those that keep files what was said of the run, too.
``python -m toolkit.records.tracker_mirror TRACKER runs/STUDY/*`` mirrors finished runs.
"""

import argparse
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from toolkit.records.config_file import read_config
from toolkit.records.console import CONSOLE
from toolkit.records.json_files import write_json
from toolkit.records.mirror_process import STATUS_PREFIX, run_mirror
from toolkit.records.mirror_rows import (
    PROJECT_FROM,
    describe,
    follow,
    project_of,
    run_name,
    sizes,
)
from toolkit.records.result import RESULT, read_result

TRACKERS = ("mlflow", "tensorboard", "trackio")
TEXTS = ("tensorboard",)
"""Those that take texts among the values: the decisions are told there."""
REPLACES = ("tensorboard",)
"""Those that replace the steps which a resumed run makes again."""
NOTE_SECONDS = 10.0
"""How often it is written down what was sent."""
LONGEST_FILE = 200
"""Characters of a folder's name."""
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
    sent = Sent(folder / f"mirror-{tracker}.json")
    run, update = None, 0
    for row in rows:
        update = int(row.axes["update"])
        if run is None:  # now it is known which of the steps of an earlier attempt are no more
            run = _open(tracker, folder, sent, update + (not row.values) if begin else 0)
        told: dict[str, Any] = dict(row.values)
        if told:
            told |= {name: value for name, value in row.axes.items() if name != "update"}
        if row.decision and tracker in TEXTS:
            told["decision"] = f"{row.decision['action']}: {row.decision['reason']}"
        _log(tracker, run, sent, told, update)
    run = run or _open(tracker, folder, sent, 0)
    if (folder / RESULT).exists():
        _log(tracker, run, sent, _outcome(folder), update)
    if (folder / CONSOLE).exists():
        _send_file(tracker, run, folder / CONSOLE)
    run.finish()
    if tracker not in REPLACES:
        sent.note()


class Sent:
    """What a tracker was sent of a run: of each number the last update. It is noted in a file.

    The updates that a resumed run makes again come to the same numbers. TensorBoard has the old
    ones replaced; others would have them twice, and are not sent them again.

    Args:
        file: in the run's folder.
    """

    def __init__(self, file: Path) -> None:
        self.file, self._noted = file, time.monotonic()
        stored: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        self.run_id: str | None = stored.get("run_id")
        """What MLflow has named the run."""
        self.before: Mapping[str, int] = stored.get("updates", {})
        """Number -> its last update that an earlier process has sent."""
        self._updates = dict(self.before)

    def add(self, names: Iterable[str], update: int) -> None:
        """These numbers of an update were sent."""
        self._updates |= dict.fromkeys(names, update)
        if time.monotonic() - self._noted > NOTE_SECONDS:
            self.note()

    def note(self) -> None:
        """Write down what was sent so far."""
        write_json(self.file, {"run_id": self.run_id, "updates": self._updates})
        self._noted = time.monotonic()


def _log(tracker: str, run: Any, sent: Sent, told: Mapping[str, Any], update: int) -> None:
    """Send what a tracker has not been sent yet."""
    if tracker not in REPLACES:
        told = {name: v for name, v in told.items() if update > sent.before.get(name, -1)}
    if told:
        run.log(told, step=update)
    if tracker not in REPLACES:
        sent.add(told, update)


def _outcome(folder: Path) -> dict[str, float]:
    """The numbers of a result that no event has."""
    result = read_result(folder)
    found = {} if result.found is None else result.found.numbers()
    told = {f"found/{name}": value for name, value in found.items() if value is not None}
    return {"rollbacks": result.rollbacks, "diverged": int(result.diverged), **told}


def _open(tracker: str, folder: Path, sent: Sent, resumed: int) -> Any:
    """The tracker of a run, which is opened once more where an earlier attempt has opened it.

    Args:
        tracker: its name.
        folder: the run's.
        sent: what it was sent before.
        resumed: the first update of this attempt; 0 for the first attempt.
    """
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState(cpu=True)  # Accelerate's own messages ask it which rank this is
    told = describe(read_config(folder)) | sizes(folder)
    name, project = run_name(told), project_of(told, tracker)
    if tracker == "tensorboard":
        # The steps that an earlier attempt told from here on are not the run's any more.
        purged = {"purge_step": resumed} if resumed else {}
        place = folder.resolve() / tracker
        run = LOGGER_TYPE_TO_CLASS[tracker](as_file(name), logging_dir=str(place), **purged)
    elif tracker == "mlflow":
        os.environ.pop(PROJECT_FROM[tracker], None)  # Accelerate would prefer it to a flag
        run = LOGGER_TYPE_TO_CLASS[tracker](
            project, run_name=name, run_id=sent.run_id, description=told.get("notes")
        )
    else:
        run = LOGGER_TYPE_TO_CLASS[tracker](
            project, name=f"{name} {folder.name}", group=told["study"], resume="allow"
        )
    run.start()
    if tracker == "mlflow":
        sent.run_id = run.tracker.info.run_id
        sent.note()
        _tag(told)
    print(f"{STATUS_PREFIX}open", flush=True)
    if not resumed:
        run.store_init_configuration(dict(_plain(told)))
        if tracker in TEXTS and (words := _words(told)):
            run.log(words, step=0)
    return run


def as_file(name: str) -> str:
    """The name of a run as that of a folder."""
    return name.replace("/", "-")[-LONGEST_FILE:]


def _tag(told: Mapping[str, Any]) -> None:
    """Set the tags of the open MLflow run: what it belongs to, and the words of its user."""
    import mlflow

    named = {name: told[name] for name in ("study", "target", "schedule")}
    mlflow.set_tags({**named, **_words({**told, "notes": None})})  # its description has the notes


def _words(told: Mapping[str, Any]) -> dict[str, str]:
    """The tags and notes of the user, where there are any."""
    tags, notes = ", ".join(told.get("tags") or ()), told.get("notes")
    return {name: text for name, text in (("tags", tags), ("notes", notes)) if text}


def _send_file(tracker: str, run: Any, file: Path) -> None:
    """Have a tracker keep a file beside the run's numbers, if it keeps files; TensorBoard does not.

    Trackio keeps an artifact for each name, whose versions it numbers.
    """
    if tracker == "mlflow":
        run.log_artifact(str(file))
    elif tracker == "trackio":
        run.tracker.log_artifact(file, name=f"console-{file.parent.name}", type="console")


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
