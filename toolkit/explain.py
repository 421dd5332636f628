"""Say why a run's schedule did what it did: ``toolkit explain RUN --update N``.

RUN is a run's folder or its events.jsonl. Printed are the loss that the schedule saw, what it
decided and by which number, and what it had done last before. ``--memory`` is for the authors of
schedules: the reading, the pattern and statistic, all that the schedule remembers, its settings.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.command_line import Parser
from toolkit.config import PARENT, schedule_to_json
from toolkit.errors import ConfigError, OlderVersionError
from toolkit.process import DONE, run_command
from toolkit.records import recorded_losses
from toolkit.records.events import entrant
from toolkit.records.recorded_losses import Losses
from toolkit.replay import Replay, check, prepare
from toolkit.run_arguments import parse_schedule
from toolkit.schedules.reading import Decision
from toolkit.schedules.simulate import Replayed, factor_after
from toolkit.words import counted

SHOWN = 6
"""Numbers of a long window that are printed: the newest."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run_command(lambda: _command(argv))


def _command(argv: Sequence[str] | None) -> int:
    parser = Parser(prog="toolkit explain", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--update", type=int, required=True, metavar="N")
    parser.add_argument("--memory", action="store_true", help="all that the schedule remembers")
    arguments, rest = parser.parse_known_args(argv)
    recorded = recorded_losses.load(arguments.run)
    if recorded.run is None:
        raise ConfigError(f"{recorded.file} is no run's: there is no config.json beside it")
    try:
        replay = prepare(recorded, parse_schedule(rest, parser.flags))
    except OlderVersionError as error:
        print(*as_recorded(recorded, arguments.update), f"note       {error}", sep="\n")
        return DONE
    if not replay.own:
        raise ConfigError(f"{recorded.file} is of a run under another schedule or other settings")
    print(*explain(replay, arguments.update, arguments.memory), sep="\n")
    return DONE


def explain(replay: Replay, update: int, memory: bool = False) -> Iterator[str]:
    """The lines about one update.

    Args:
        replay: the run.
        update: which.
        memory: say all that the decision rests on, for the author of a schedule.

    Raises:
        ConfigError: if the run has no such update.
        RunError: if the run cannot be reproduced, so that nothing can be said for sure.
    """
    judged = replay.judge()
    check(replay, judged)
    begun = replay.losses.begun
    if begun is not None and update <= begun.update:
        run = replay.losses.file.parent
        raise ConfigError(
            f"--update = {update}: {run} goes on from update {begun.update} of the run that it "
            f"extends, {run.parent}/{(replay.losses.run or {}).get(PARENT)}"
        )
    place = next((i for i, j in enumerate(judged) if j.reading.update >= update), None)
    if place is None or update < 1:
        last = judged[-1].reading.update
        raise ConfigError(
            f"--update = {update}: {replay.losses.file} has "
            + (
                "updates 1 to "
                if replay.losses.sees != "validation"
                else "no evaluation after update "
            )
            + str(last)
        )
    before = judged[place - 1].reading.update if place else begun.update if begun else 0
    if replay.losses.sees == "validation":
        evaluated = judged[place].reading.update
        if evaluated != update:
            yield f"update {update} has no evaluation; the next one is after update {evaluated}:"
        before = evaluated - 1  # its loss is of that moment
    at = judged[place].reading.update
    for found in (j for j in judged[place : place + 2] if j.reading.update == at):
        since = at - 1 if found is not judged[place] else before
        if memory:
            yield from _reading(found, since)
            yield from _decision(replay, found)
            yield from _grounds(found)
        else:
            yield from _in_short(replay, found, since)
    if not memory:
        acted = [j for j in judged[:place] if j.decision.action != "hold"]
        if acted:
            decision = acted[-1].decision
            yield f"before     update {acted[-1].reading.update}: {_words(decision)}"
        return
    settings = schedule_to_json(replay.schedule)
    name = entrant(settings["name"], replay.losses.sees)
    yield f"settings   {name}: {_named(settings['fields'])}"


def as_recorded(recorded: Losses, update: int) -> Iterator[str]:
    """The lines about one update of a run that no schedule of this version can judge again.

    Raises:
        ConfigError: if the run has no such update.
    """
    event = next((e for e in recorded.events if e["update"] >= update > 0), None)
    if event is None:
        raise ConfigError(f"--update = {update}: {recorded.file} has no reading of it")
    yield f"reading    up to update {event['update']}, epoch {event['epoch']:.2f}"
    yield f"loss       {event['loss']} over {event['count']:g} items"
    yield f"LR         {event['lr']:.6g} in its last update"
    for field in ("pattern", "statistic", "action", "reason"):
        yield f"{field:<10} {event[field]}"
    assert recorded.run is not None
    stored = recorded.run["schedule"]
    yield f"settings   {stored['name']}: {_named(stored['fields'])}"


def _in_short(replay: Replay, judged: Replayed, before: int) -> Iterator[str]:
    """What was seen, what was decided, and which number decided."""
    decision = judged.decision
    yield f"seen       {_place(judged, before)}: {_loss(judged)}"
    yield from _rates(replay, judged)
    yield f"decided    {_words(decision)}"
    if decision.statistic is not None:
        of = "" if decision.pattern == "none" else f", for the pattern {decision.pattern}"
        yield f"number     {decision.statistic:.6g}{of}"


def _words(decision: Decision) -> str:
    return f"{decision.action}: {decision.reason or 'nothing to act on'}"


def _reading(judged: Replayed, before: int) -> Iterator[str]:
    yield f"reading    {_place(judged, before)}"
    yield f"loss       {_loss(judged).removeprefix('loss ')}"


def _place(judged: Replayed, before: int) -> str:
    reading = judged.reading
    updates = f"updates {before + 1} to {reading.update}"
    if before + 1 == reading.update:
        updates = f"update {reading.update}"
    return f"{updates}, epoch {reading.epoch:.2f}"


def _loss(judged: Replayed) -> str:
    reading = judged.reading
    lost = f", {counted(reading.nonfinite, 'micro-batch')} not finite" if reading.nonfinite else ""
    of = "validation items" if reading.kind == "validation" else "items"
    return f"loss {reading.loss:.6g} over {reading.count:g} {of}{lost}"


def _rates(replay: Replay, judged: Replayed) -> Iterator[str]:
    total, made = replay.facts.budget, judged.reading.update
    yield f"LR         {replay.base_lr * judged.factor:.6g} in its last update"
    if total is None or made < total:
        factor = factor_after(replay.schedule, judged.memory, judged.course, made, total)
        yield f"           {replay.base_lr * factor:.6g} in the next"


def _decision(replay: Replay, judged: Replayed) -> Iterator[str]:
    decision = judged.decision
    yield from _rates(replay, judged)
    yield f"pattern    {decision.pattern}"
    yield f"statistic  {'none' if decision.statistic is None else f'{decision.statistic:.6g}'}"
    yield f"action     {decision.action}"
    yield f"reason     {decision.reason or 'nothing to act on'}"


def _grounds(judged: Replayed) -> Iterator[str]:
    memory = dict(_flat(judged.memory))
    numbers = {name: value for name, value in memory.items() if not isinstance(value, tuple)}
    for name in (name for name in memory if name not in numbers and memory[name]):
        newest = memory[name][-SHOWN:]
        yield f"window     {name}: {len(memory[name])} values, newest last {_short(newest)}"
    yield f"memory     {_named(numbers)}"


def _flat(memory: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a memory, those of its parts under dotted names."""
    for name, value in memory._asdict().items():
        if hasattr(value, "_asdict"):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {_short(value)}" for name, value in values.items()) or "none"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))})"
    return str(value)
