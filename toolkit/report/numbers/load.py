"""From the files of a study to plain records."""

import math
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from toolkit.errors import ConfigError
from toolkit.records.config_file import CONFIG, read_config
from toolkit.records.events import (
    EVENTS,
    RESUME,
    EvaluationEvent,
    Event,
    OtherEvent,
    ReadingEvent,
    event_of,
)
from toolkit.records.json_files import parse_object, read_json
from toolkit.records.result import REPEAT, RESULT, read_result
from toolkit.report.numbers import alike
from toolkit.report.numbers.declaration import DECLARATION, read_declaration
from toolkit.report.numbers.runs import Action, Group, RunRecord, StudyRecord, scale_of_all
from toolkit.words import counted

NOT_RUNS = ("report", "workers")
"""Folders beside the runs."""


def load_study(folder: Path) -> StudyRecord:
    """Read a study's folder.

    Raises:
        ConfigError: if there is no folder or no run in it, or a file is broken, naming it.
    """
    if not folder.is_dir():
        beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
        names = [path.name for path in beside if path.is_dir()]
        near = [str(folder.with_name(name)) for name in get_close_matches(folder.name, names)]
        hint = f"did you mean {' or '.join(near)}?" if near else "run the study first"
        raise ConfigError(f"there is no folder {folder}: {hint}")
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and _is_run(path))
    finished = [path for path in folders if (path / RESULT).exists()]
    if not finished:
        raise ConfigError(f"{folder} holds no finished run: no */result.json")
    loaded = [_load_run(path) for path in finished]
    extended = [run.folder for run in loaded if run.result.parent is not None]
    if len(extended) == len(loaded):
        raise ConfigError(f"{folder}: its finished runs all extend others, such as {extended[0]}")
    scratch = (run for run in loaded if run.result.parent is None)
    runs = sorted(scratch, key=lambda run: (run.group, run.seed))
    _refuse_duplicates(runs)
    plan = read_declaration(folder / DECLARATION)
    alike.refuse_unlike(runs, plan.get("differing", {}))
    _score_the_lost(runs)
    unfinished = [(path, _state(path)) for path in folders if path not in finished]
    not_started = _not_started(plan, folders)
    return StudyRecord(folder.resolve().name, plan, runs, unfinished, not_started, extended)


def _not_started(plan: Mapping[str, Any], folders: Sequence[Path]) -> int:
    """How many of the planned runs have no folder. Earlier versions planned a number of them."""
    known = {*plan.get("run_ids", {})} - {folder.name for folder in folders}
    return max(len(known), int(plan.get("runs", 0)) - len(folders))


def _is_run(folder: Path) -> bool:
    if folder.name in NOT_RUNS:
        return False
    return any((folder / f"{name}.json").exists() for name in ("config", "state", "result"))


def _load_run(folder: Path) -> RunRecord:
    stored = read_config(folder, REPEAT) if (folder / CONFIG).exists() else {}
    run = RunRecord(folder, read_result(folder), stored)
    begin, last = None, 0.0
    for event in _events(folder / EVENTS):
        if begin is None:
            begin = run.begun = event.time
        if isinstance(event, OtherEvent) and event.kind == RESUME:
            begin += event.time - last  # what lies between two attempts is not the run's time
        last = event.time
        _add_event(run, event, event.time - begin)
    return run


def _add_event(run: RunRecord, event: Event, seconds: float) -> None:
    if isinstance(event, ReadingEvent):
        if event.reading.kind == "training":
            _add_reading(run, event, seconds)
        _add_action(run, event, seconds)
    elif isinstance(event, EvaluationEvent) and event.split == "validation":
        value = event.metrics.get(run.metric)
        if value is not None:
            run.validation.add(event.update, event.epoch, seconds, value)


def _add_reading(run: RunRecord, event: ReadingEvent, seconds: float) -> None:
    reading = event.reading
    if not math.isnan(reading.loss):
        run.loss.add(reading.update, reading.epoch, seconds, reading.loss)
    run.lr.add(reading.update, reading.epoch, seconds, event.lr)


def _add_action(run: RunRecord, event: ReadingEvent, seconds: float) -> None:
    decision, reading = event.decision, event.reading
    if decision.action not in ("hold", "snapshot"):  # a snapshot changes nothing
        place = (reading.update, reading.epoch, seconds, event.lr)
        run.actions.append(Action(*place, decision.pattern, decision.action, decision.reason))


def _events(file: Path) -> Iterator[Event]:
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                where = f"{file}, line {number}"
                yield event_of(parse_object(line, where, REPEAT, strict=True), where, REPEAT)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not text; {REPEAT}") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error


def _state(folder: Path) -> str:
    if logs := sorted(folder.glob("failure-*.log")):
        return f"failed {counted(len(logs), 'time')}, see {logs[-1].name}"
    file = folder / "state.json"
    return str(read_json(file, REPEAT).get("status", "unknown")) if file.exists() else "not started"


def _score_the_lost(runs: list[RunRecord]) -> None:
    """No lost run is ahead of one of its pair that came to its end.

    A loss of which the task does not say what it is without training counts as the worst of them.

    Raises:
        ConfigError: if there is none.
    """
    by_pair: dict[str, list[RunRecord]] = {}
    for run in runs:
        by_pair.setdefault(run.group.pair, []).append(run)
    for several in by_pair.values():
        scale = scale_of_all(several)
        whole = [run for run in several if not (run.diverged or run.scoreless)]
        declared = [scale.diverged] if math.isfinite(scale.diverged) else []
        if not declared and not whole:
            raise ConfigError(
                f"{several[0].folder}: no run of {several[0].group.pair} has a score, and the task "
                f"does not say what {several[0].metric} is without training: its scales must "
                "declare it"
            )
        scores = (
            scale.worst([*declared, *(getattr(run, name) for run in whole)])
            for name in ("score", "validation_score")
        )
        lost = (next(scores), next(scores))
        for run in several:
            run.lost_scores = lost


def _refuse_duplicates(runs: list[RunRecord]) -> None:
    seen: dict[tuple[Group, int], RunRecord] = {}
    for run in runs:
        first = seen.setdefault((run.group, run.seed), run)
        if first is not run:
            raise ConfigError(
                f"{first.folder} and {run.folder} are both {run.group.schedule} at "
                f"{run.group.lr:g} with seed {run.seed}: they differ in another setting; give each "
                "its own --study"
            )
