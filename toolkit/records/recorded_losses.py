"""Losses that were recorded, by a run of this toolkit or another program, as readings.

``load`` takes a run's ``events.jsonl``, a CSV file, and ``trainer_state.json`` of Hugging Face's
Trainer: what ``toolkit replay`` and ``toolkit explain`` work on.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from toolkit.errors import ConfigError
from toolkit.records.config_file import CONFIG, read_config
from toolkit.records.events import EVENTS, START, VALIDATION_READING, reading_of
from toolkit.records.json_files import parse_object
from toolkit.schedules.reading import Facts, Reading

UPDATE_NAMES = ("update", "step")
Entry = tuple[str, Mapping[str, Any]]
"""Where it stands in the file, in words, and its fields."""
NO_FACTS = Facts()


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
        sees: which losses they are; ``validation`` only for a run whose schedule saw those.
        has_epochs: whether the file tells epochs; else all readings are in epoch 0.
    """

    file: Path
    readings: tuple[Reading, ...]
    events: tuple[Mapping[str, Any], ...] = ()
    run: Mapping[str, Any] | None = None
    facts: Facts = NO_FACTS
    older_facts: bool = False
    sees: str = "training"
    has_epochs: bool = True


def load(path: Path) -> Losses:
    """Read a run's folder or ``events.jsonl``, a CSV file, or an HF Trainer's state.

    A CSV file has a column ``loss``, and may have ``update`` (or ``step``) and ``epoch``. Without
    updates its rows are the updates. Of ``trainer_state.json`` the entries with a ``loss`` count.

    Raises:
        ConfigError: if it cannot be read, naming the file and the row.
    """
    file = path / EVENTS if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(f"{file} cannot be read: {reason}") from error
    if not text.lstrip().startswith("{"):
        return _from_csv(file, text)
    if (state := _trainer_state(text)) is not None:
        return _from_trainer_state(file, state)
    return _from_events(file, text)


def _from_csv(file: Path, text: str) -> Losses:
    rows = csv.DictReader(io.StringIO(text))
    names = [name.strip().lower() for name in rows.fieldnames or ()]
    if "loss" not in names:
        found = f"its columns are {', '.join(names)}" if names else "it is empty"
        raise ConfigError(f"{file} has no column 'loss': {found}")
    rows.fieldnames = names
    entries = [
        (f"row {rows.line_num}", {name: "" if row[name] is None else row[name] for name in names})
        for row in rows
    ]
    return Losses(file, _readings(file, entries), has_epochs="epoch" in names)


def _trainer_state(text: str) -> Mapping[str, Any] | None:
    try:
        data = parse_object(text, "")
    except ConfigError:  # several lines, as in events.jsonl
        return None
    return data if isinstance(data.get("log_history"), list) else None


def _from_trainer_state(file: Path, state: Mapping[str, Any]) -> Losses:
    entries = [
        (f"entry {number} of log_history", entry)
        for number, entry in enumerate(state["log_history"], 1)
        if "loss" in entry
    ]
    readings = _readings(file, entries)
    budget = state.get("max_steps")
    known = isinstance(budget, int) and budget >= readings[-1].update
    return Losses(file, readings, facts=NO_FACTS._replace(budget=budget if known else None))


def _from_events(file: Path, text: str) -> Losses:
    lines = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        try:
            lines.append((f"row {number}", parse_object(line, f"{file}, row {number}")))
        except ConfigError:
            if not line.endswith("\n") and lines:
                break  # a run writes it right now, or was killed while it did
            raise
    run = _config_beside(file)
    saw = any(event.get("kind") == VALIDATION_READING for _, event in lines)
    seeing = saw or (run or {}).get("sees") == "validation"
    if seeing and not saw:
        raise ConfigError(f"{file} holds no validation loss yet, which is what its schedule sees")
    seen, sees = (VALIDATION_READING, "validation") if seeing else (None, "training")
    entries = [(row, event) for row, event in lines if event.get("kind") == seen]
    if not entries or not all("action" in event and "factor" in event for _, event in entries):
        return Losses(file, _readings(file, entries), has_epochs=_have(entries, "epoch"))
    _readings(file, entries)  # says what is wrong with a field
    events = tuple(event for _, event in entries)
    readings = tuple(map(reading_of, events))
    if run is None:
        return Losses(file, readings, events, sees=sees)
    start = next((event for _, event in lines if event.get("kind") == START), None)
    facts = _derived(run, readings[-1]) if start is None else _stated(file, start)
    older = start is not None and "facts" not in start
    return Losses(file, readings, events, run, facts, older, sees)


def _have(entries: Sequence[Entry], field: str) -> bool:
    return all(field in entry for _, entry in entries)


def _config_beside(file: Path) -> Mapping[str, Any] | None:
    return read_config(file.parent) if file.with_name(CONFIG).exists() else None


def _stated(file: Path, start: Mapping[str, Any]) -> Facts:
    """The facts of a run as its first event has them, in today's form or in the older one."""
    try:
        if "facts" in start:
            return Facts.from_json(start["facts"])
        init = "pretrained" if start["pretrained"] else "random"
        can = frozenset({"restore"} if start["restores"] else ())
        return Facts(start["total_updates"], None, init, can)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{file}: its event 'start' does not tell {error}") from error


def _derived(run: Mapping[str, Any], last: Reading) -> Facts:
    """The facts of a run whose events do not begin with them."""
    recipe = run["recipe"]
    per_epoch = round(last.update / last.epoch)
    budget = recipe["updates"] or round(recipe["epochs"] * per_epoch)
    return Facts(budget, init=recipe["init"])


def _readings(file: Path, entries: Sequence[Entry]) -> tuple[Reading, ...]:
    if not entries:
        raise ConfigError(f"{file} holds no reading")
    return tuple(_rising(file, entries))


def _rising(file: Path, entries: Sequence[Entry]) -> Iterator[Reading]:
    before = 0
    for number, (row, entry) in enumerate(entries, 1):
        where = f"{file}, {row}"
        column = next((name for name in UPDATE_NAMES if name in entry), None)
        update = number if column is None else _whole(where, column, entry[column])
        if update <= before:
            raise ConfigError(f"{where}: {column} = {update} does not follow {before}")
        before = update
        loss = _number(where, "loss", entry.get("loss", ""), null=math.nan)
        epoch = _number(where, "epoch", entry.get("epoch", 0.0))
        if not 0 <= epoch < math.inf:
            _refuse(where, "epoch", epoch, "0 or above")
        yield Reading.of(update, epoch, loss)


def _whole(where: str, name: str, value: Any) -> int:
    number = _number(where, name, value)
    if number != number // 1 or number < 1:
        _refuse(where, name, value, "a whole number above 0")
    return int(number)


def _number(where: str, name: str, value: Any, null: float | None = None) -> float:
    if value is None and null is not None:
        return null
    try:
        return float(value)
    except (TypeError, ValueError):
        _refuse(where, name, value, "a number")


def _refuse(where: str, name: str, value: Any, allowed: str) -> NoReturn:
    raise ConfigError(f"{where}: {name} = {value!r} is not {allowed}")
