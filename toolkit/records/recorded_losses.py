"""Losses that were recorded, by a run of this toolkit or another program, as readings.

``load`` takes a run's ``events.jsonl``, a CSV file, and ``trainer_state.json`` of Hugging Face's
Trainer: what ``toolkit replay`` and ``toolkit explain`` work on.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict, get_type_hints

from toolkit.errors import ConfigError
from toolkit.hints import misfits
from toolkit.records import cells, foreign_logs, log_columns
from toolkit.records.config_file import CONFIG, read_config
from toolkit.records.events import EVENTS, START, VALIDATION_READING, check_event, reading_of
from toolkit.records.foreign_logs import Entry, Table
from toolkit.records.json_files import parse_object
from toolkit.records.log_columns import Columns
from toolkit.schedules.extension import Joint
from toolkit.schedules.reading import Facts, Reading
from toolkit.schedules.simulate import Begun, Course

UPDATE_NAMES = ("update", "step")
SEEN = {
    "training": (None,),
    "validation": (VALIDATION_READING,),
    "both": (None, VALIDATION_READING),
}
"""The kinds of events that are the readings of a schedule, by what it sees."""
OF_EVENTS = "the LR of the events over its factor"
NO_FACTS = Facts()


class FactsOfStart(TypedDict):
    """The facts in a run's first event."""

    budget: int | None
    epochs: float | None
    init: str
    can: list[str]
    momentum: NotRequired[float | None]


StoredCourse = TypedDict(  # type: ignore[misc]
    "StoredCourse",
    {**get_type_hints(Course), "joint": TypedDict("StoredJoint", get_type_hints(Joint))},  # type: ignore[misc]
)
"""What ``Course.to_json`` returns after a joint."""


class BegunAt(TypedDict):
    """What an extended run begins with, in its first event."""

    memory: dict[str, Any]
    course: StoredCourse


class OlderStart(TypedDict):
    """The first event of a run of an older version."""

    pretrained: bool
    restores: bool
    total_updates: int | None


ANY_COLUMNS = Columns()


@dataclass(frozen=True)
class Losses:
    """Readings from a file, with rising updates, within the budget where one is known.

    Attributes:
        file: where they are from.
        readings: at least one.
        events: the lines of a run of this toolkit that they are from, else empty.
        run: that run's configuration, as stored beside them.
        facts: what the run knew before its first update, as far as the file tells.
        older_facts: whether they are told in the form of an older version, whose schedules were
            told less and in another way.
        sees: which losses they are; ``validation`` or ``both`` only for a run whose schedule saw
            those. Of an update that has both the reading on training comes first.
        has_epochs: whether the file tells epochs; else all readings are in epoch 0.
        lrs: the LR that each reading was recorded with, None where the file does not state it;
            empty where it states none at all.
        begun: of a run that extends another: where it begins, and with what.
        base_lr: the base LR that follows from the LRs that the file states, if it states any.
        base_from: what it was taken from, in words.
        notes: sentences on how the file was read.
    """

    file: Path
    readings: tuple[Reading, ...]
    events: tuple[Mapping[str, Any], ...] = ()
    run: Mapping[str, Any] | None = None
    facts: Facts = NO_FACTS
    older_facts: bool = False
    sees: str = "training"
    has_epochs: bool = True
    lrs: tuple[float | None, ...] = ()
    base_lr: float | None = None
    base_from: str = ""
    notes: tuple[str, ...] = ()
    begun: Begun | None = None

    def on_training(self) -> "Losses":
        """Those on training alone, of a run whose schedule saw both."""
        kept = [place for place, reading in enumerate(self.readings) if reading.kind == "training"]
        return replace(
            self,
            readings=tuple(self.readings[place] for place in kept),
            events=tuple(self.events[place] for place in kept),
            lrs=tuple(self.lrs[place] for place in kept),
            sees="training",
        )


def load(path: Path, columns: Columns = ANY_COLUMNS) -> Losses:
    """Read a run's folder or ``events.jsonl``, or the log of another tool (``foreign_logs``).

    Args:
        path: the folder or file.
        columns: which columns of another tool's log are meant, where its names do not tell.

    Raises:
        ConfigError: if it cannot be read, naming the file and the row.
    """
    try:
        file = path / EVENTS if path.is_dir() else path
    except OSError as error:  # a name that is too long
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(f"{file} cannot be read: {reason}") from error
    if (table := foreign_logs.table(str(file), text)) is not None:
        return _from_table(file, table, columns)
    return _from_events(file, text, columns)


def _from_table(file: Path, table: Table, columns: Columns) -> Losses:
    """A log of another tool. Its base LR is the largest LR that it states.

    That is the LR of factor 1 for the schedules that warm up and fall, or only fall.
    """
    log = log_columns.read(table, columns)
    readings = tuple(Reading.of(row.update, row.epoch, row.loss) for row in log.rows)
    known = table.budget is not None and table.budget >= readings[-1].update
    facts = NO_FACTS._replace(budget=table.budget if known else None)
    rates = [row.lr for row in log.rows if row.lr]
    return Losses(
        file,
        readings,
        facts=facts,
        has_epochs=log.has_epochs,
        lrs=tuple(row.lr for row in log.rows) if rates else (),
        base_lr=max(rates, default=None),
        base_from=f"the largest LR that column {log.lr_column} states, taken for that of factor 1",
        notes=log.notes,
    )


def _from_events(file: Path, text: str, columns: Columns) -> Losses:
    lines = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        try:
            lines.append((f"row {number}", parse_object(line, f"{file}, row {number}")))
        except ConfigError:
            if not line.endswith("\n") and lines:
                break  # a run writes it right now, or was killed while it did
            raise
    if not any({"kind", "action"} & event.keys() for _, event in lines):
        table = foreign_logs.from_objects(str(file), lines, null_is_nan=True)
        return _from_table(file, table, columns)
    if columns != ANY_COLUMNS:
        raise ConfigError(f"{file} is of a run of this toolkit: columns are for other tools' logs")
    run = _config_beside(file)
    saw = any(event.get("kind") == VALIDATION_READING for _, event in lines)
    start = next((event for _, event in lines if event.get("kind") == START), None)
    sees = _seen(run, start, saw)
    if sees == "validation" and not saw:
        raise ConfigError(f"{file} holds no validation loss yet, which is what its schedule sees")
    entries = [(row, event) for row, event in lines if event.get("kind") in SEEN[sees]]
    if not entries or not any("action" in event and "factor" in event for _, event in entries):
        return Losses(file, _readings(file, entries), has_epochs=_have(entries, "epoch"))
    _check(file, entries)
    events = tuple(event for _, event in entries)
    readings = tuple(map(reading_of, events))
    lrs = tuple(event["lr"] for event in events)
    if run is None:
        base = _base_of(events)
        return Losses(file, readings, events, sees=sees, lrs=lrs, base_lr=base, base_from=OF_EVENTS)
    facts = _facts(file, run, readings[-1], start)
    older = start is not None and "facts" not in start
    begun = _begun(file, start, readings[0])
    return Losses(file, readings, events, run, facts, older, sees, lrs=lrs, begun=begun)


def _begun(file: Path, start: Mapping[str, Any] | None, first: Reading) -> Begun | None:
    """Where a run begins that extends another; None if it extends none."""
    if start is None or "begun" not in start:
        return None
    told: Any = start["begun"]
    update: Any = start.get("update")
    wrong = [*misfits(update, int, "update"), *misfits(told, BegunAt, "begun")]
    if not wrong and update >= first.update:
        wrong = [f"update = {update}, and the first reading is of update {first.update}"]
    if wrong:
        raise ConfigError(f"{file}: its event 'start' is not what a run writes: {wrong[0]}")
    return Begun(update, told["memory"], told["course"])


def _facts(
    file: Path, run: Mapping[str, Any], last: Reading, start: Mapping[str, Any] | None
) -> Facts:
    """What a run knew before its first update, from its first event or its configuration."""
    facts = _derived(file, run, last) if start is None else _stated(file, start)
    if facts.budget is not None and facts.budget < last.update:
        raise ConfigError(
            f"{file}: it goes on to update {last.update}, beyond the {facts.budget} "
            "updates that the run was to make"
        )
    return facts


def _check(file: Path, entries: Sequence[Entry]) -> None:
    """The readings of a run; they need not say when they were: replay writes such, too."""
    _readings(file, entries)
    for row, event in entries:
        check_event({**event, "t": event.get("t") or 0.0}, f"{file}, {row}")


def _seen(run: Mapping[str, Any] | None, start: Mapping[str, Any] | None, saw: bool) -> str:
    """What the schedule of a run saw: as its configuration says, else as its events tell."""
    if run is not None and "sees" in run:
        return str(run["sees"])
    if "validation" in ((start or {}).get("facts") or {}).get("can", ()):
        return "both"
    return "validation" if saw else "training"


def _base_of(events: Sequence[Mapping[str, Any]]) -> float | None:
    """The base LR: the LR of an event whose factor is 1, else an LR over its factor."""
    scaled = [event for event in events if event["factor"]]
    chosen = next((event for event in scaled if event["factor"] == 1), None) or next(
        iter(scaled), None
    )
    return None if chosen is None else chosen["lr"] / chosen["factor"]


def _have(entries: Sequence[Entry], field: str) -> bool:
    return all(field in entry for _, entry in entries)


def _config_beside(file: Path) -> Mapping[str, Any] | None:
    return read_config(file.parent) if file.with_name(CONFIG).exists() else None


def _stated(file: Path, start: Mapping[str, Any]) -> Facts:
    """The facts of a run as its first event has them, in today's form or in the older one."""
    told, hint = (start["facts"], FactsOfStart) if "facts" in start else (start, OlderStart)
    if wrong := next(misfits(told, hint, "facts"), None):
        raise ConfigError(f"{file}: its event 'start' is not what a run writes: {wrong}")
    if "facts" in start:
        return Facts.from_json(told)
    init = "pretrained" if start["pretrained"] else "random"
    can = frozenset({"restore"} if start["restores"] else ())
    return Facts(start["total_updates"], None, init, can)


def _derived(file: Path, run: Mapping[str, Any], last: Reading) -> Facts:
    """The facts of a run whose events do not begin with them."""
    recipe = run["recipe"]
    if (budget := recipe.get("updates")) is None:
        if not recipe.get("epochs") or not last.epoch:
            raise ConfigError(f"{file.with_name(CONFIG)} and {file} do not tell the run's budget")
        budget = round(recipe["epochs"] * round(last.update / last.epoch))
    return Facts(budget, init=recipe.get("init", "random"))


def _readings(file: Path, entries: Sequence[Entry]) -> tuple[Reading, ...]:
    if not entries:
        raise ConfigError(f"{file} holds no reading")
    return tuple(_rising(file, entries))


def _rising(file: Path, entries: Sequence[Entry]) -> Iterator[Reading]:
    before, evaluated = 0, True
    for number, (row, entry) in enumerate(entries, 1):
        where = f"{file}, {row}"
        column = next((name for name in UPDATE_NAMES if name in entry), None)
        update = number if column is None else cells.whole(where, column, entry[column], 1)
        again = entry.get("kind") == VALIDATION_READING and not evaluated
        if update < before or (update == before and not again):
            raise ConfigError(f"{where}: {column} = {update} does not follow {before}")
        before, evaluated = update, entry.get("kind") == VALIDATION_READING
        value = entry.get("loss", "")
        loss = math.nan if value is None else cells.number(where, "loss", value)
        epoch = cells.number_from(where, "epoch", entry.get("epoch", 0.0), 0)
        yield Reading.of(update, epoch, loss)
