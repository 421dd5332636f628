"""Judge recorded losses once more, under any schedule, in milliseconds:
``python -m toolkit.replay LOSSES [SCHEDULE [flags]] [--base-lr LR] [--budget UPDATES]``.

LOSSES is a run's folder or its events.jsonl; trainer_state.json of Hugging Face's Trainer; the log
of timm (summary.csv), Keras (CSVLogger or history as JSON), Lightning (metrics.csv) or ultralytics
(results.csv); a CSV or JSON export of W&B or TensorBoard; or any CSV, JSON or JSON lines of losses,
with or without updates, epochs and LRs, in columns that their names or the options tell. A run of
this toolkit replayed under its own schedule, which is also the default, is checked: every
decision and LR must come out the same, to the bit. Exit codes: 0 done, 1 a run is not reproduced,
2 wrong usage.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit import userfile
from toolkit.command_line import Parser
from toolkit.config import is_stored_as, schedule_from_json, schedule_name
from toolkit.errors import ConfigError, OlderVersionError, RunError
from toolkit.process import DONE, run_command
from toolkit.records import recorded_losses
from toolkit.records.config_file import CONFIG
from toolkit.records.events import entrant, to_event
from toolkit.records.gaps import Gap, gaps
from toolkit.records.log_columns import Columns
from toolkit.records.recorded_losses import SEEN, Losses
from toolkit.records.result import RESULT, read_result
from toolkit.run_arguments import parse_schedule
from toolkit.schedules import Schedule
from toolkit.schedules.reading import Facts
from toolkit.schedules.simulate import Replayed, begin, needs_of, simulate
from toolkit.words import counted

BASE_LR = 0.01
LR_DIGITS = 1e-4
"""By so much, relatively, a stated LR may differ by rounding: ultralytics wrote five digits."""
COLUMNS = {
    "loss": "the losses",
    "step": "the updates",
    "epoch": "the epochs",
    "lr": "the LRs that the losses were recorded with",
}
FIGURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Replay:
    """Losses, and what judges them.

    Attributes:
        losses: what was recorded.
        schedule: what judges them.
        base_lr: the LR that its factors multiply.
        facts: what it knows before the first update.
        own: whether it is a run of this toolkit with just this schedule, base LR and budget.
    """

    losses: Losses
    schedule: Schedule[Any]
    base_lr: float
    facts: Facts
    own: bool

    def judge(self) -> list[Replayed]:
        """What the schedule makes of every reading.

        Raises:
            ConfigError: if the schedule does not fit the base LR or what is known of the run, or a
                user's own raises an error.
        """
        name = schedule_name(self.schedule)
        file = name.rpartition(":")[0]

        def judged() -> list[Replayed]:
            begun = self.losses.begun if self.own else None
            told = (self.schedule, self.losses.readings, self.base_lr, self.facts, begun)
            return list(simulate(*told))

        if file:
            found: list[Replayed] = userfile.raise_as_config_error(name, file, judged)
            return found
        try:
            return judged()
        except ValueError as error:
            raise ConfigError(f"{name} cannot judge {self.losses.file}: {error}") from error
        except (ArithmeticError, AttributeError, TypeError) as error:
            if self.losses.begun is None:
                raise
            why = "what it begins with is not what a run writes"
            raise ConfigError(f"{name} cannot judge {self.losses.file}: {why}") from error

    def events(self, judged: Sequence[Replayed]) -> list[dict[str, Any]]:
        """The lines that a run with these losses would have left in ``events.jsonl``."""
        times = [event.get("t") for event in self.losses.events] or [None] * len(judged)
        return [
            {**to_event(j.reading, j.decision, self.base_lr * j.factor, j.factor), "t": t}
            for j, t in zip(judged, times, strict=True)
        ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run_command(lambda: _command(argv))


def _command(argv: Sequence[str] | None) -> int:
    parser = Parser(
        prog="toolkit replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("losses", type=Path, metavar="LOSSES")
    parser.add_argument(
        "--base-lr",
        type=float,
        help=f"default: the run's, else the largest LR that LOSSES states, else {BASE_LR}",
    )
    parser.add_argument("--budget", type=int, help="updates; default: what LOSSES tells, else none")
    parser.add_argument("--json", action="store_true", help="print one object a reading")
    parser.add_argument("--figure", type=Path, help="draw them, as PNG, SVG or PDF")
    for field, meaning in COLUMNS.items():
        parser.add_argument(f"--{field}-column", metavar="NAME", help=f"where LOSSES has {meaning}")
    arguments, rest = parser.parse_known_args(argv)
    schedule = parse_schedule(rest, parser.flags)
    columns = Columns(**{name: getattr(arguments, f"{name}_column") for name in COLUMNS})
    recorded = recorded_losses.load(arguments.losses, columns)
    replay = prepare(recorded, schedule, arguments.base_lr, arguments.budget)
    return _show(replay, arguments.json, arguments.figure)


def prepare(
    recorded: Losses,
    schedule: Schedule[Any] | None = None,
    base_lr: float | None = None,
    budget: int | None = None,
) -> Replay:
    """What to replay; None stands for what the recorded run has.

    Raises:
        ConfigError: if a value is not allowed, nothing says what it is, or the schedule cannot
            judge such losses.
    """
    run = recorded.run
    if schedule is None:
        schedule = _schedule_of(recorded)
    judges = "validation" in needs_of(schedule)
    if judges and recorded.sees == "training":
        raise ConfigError(
            f"{recorded.file} has no validation losses for readings, and "
            f"{schedule_name(schedule)}, as it is set, needs them beside those on training"
        )
    if recorded.sees == "both" and not judges:
        recorded = recorded.on_training()
    if recorded.sees == "validation" and needs_of(schedule):
        raise ConfigError(
            f"{recorded.file} has validation losses for readings, and "
            f"{schedule_name(schedule)} needs the training loss of every update"
        )
    known_lr = recorded.base_lr or BASE_LR if run is None else run["recipe"]["lr"]
    base_lr = known_lr if base_lr is None else base_lr
    if not 0 < base_lr < float("inf"):
        raise ConfigError(f"--base-lr = {base_lr:g}: it must be a number above 0")
    facts = recorded.facts if budget is None else recorded.facts._replace(budget=budget)
    last = recorded.readings[-1].update
    if facts.budget is not None and facts.budget < last:
        raise ConfigError(f"--budget = {facts.budget}: {recorded.file} goes on to update {last}")
    own = (
        run is not None
        and is_stored_as(schedule, run["schedule"])
        and (base_lr, facts) == (known_lr, recorded.facts)
    )
    if own and recorded.older_facts and needs_of(schedule):
        raise OlderVersionError(
            f"{recorded.file} is of a run of an older version, under whose protocol of schedules "
            f"{schedule_name(schedule)} decided otherwise: only that version can replay it"
        )
    return Replay(recorded, schedule, base_lr, facts, own)


def check(replay: Replay, judged: Sequence[Replayed]) -> None:
    """Compare with what a run has written down, to the bit; the words of reasons may be others.

    Versions word them differently. What they rest on, the statistic, must be the same.

    Raises:
        RunError: if readings are missing, or naming the first update and field that differs.
    """
    if missing := missing_readings(replay):
        raise RunError(
            f"{replay.losses.file} is not reproduced, for it is not whole: "
            f"{'; '.join(map(str, missing))}"
        )
    for recorded, again in zip(replay.losses.events, replay.events(judged), strict=True):
        for field, value in again.items():
            if field != "reason" and recorded.get(field) != value:
                raise RunError(
                    f"{replay.losses.file} is not reproduced: at update {recorded['update']} "
                    f"{field} is {value}, was {recorded.get(field)}"
                )


def reworded(replay: Replay, judged: Sequence[Replayed]) -> int:
    """How many reasons of a run are in other words than those that this version finds."""
    pairs = zip(replay.losses.events, replay.events(judged), strict=True)
    return sum(recorded.get("reason") != again["reason"] for recorded, again in pairs)


def missing_readings(replay: Replay) -> list[Gap]:
    """What a run should have read and its events lack, up to its last reading.

    With its result beside them, up to its end.

    Raises:
        ConfigError: if the result or the configuration cannot be understood.
    """
    losses, run = replay.losses, replay.losses.run or {}
    every = run.get("read_every")
    if losses.sees == "validation":
        first = losses.readings[0]
        every = run.get("eval_every") or round(first.update / (first.epoch or math.inf))
    if not isinstance(every, int) or every < 1:
        raise ConfigError(f"{losses.file.with_name(CONFIG)} does not say how often it was read")
    kinds = SEEN["validation" if losses.sees == "validation" else "training"]
    finished = losses.file.with_name(RESULT).exists()
    _, first_decision = begin(replay.schedule, replay.base_lr, replay.facts)
    return gaps(
        [(e["update"], e["action"]) for e in losses.events if e.get("kind") in kinds],
        every,
        read_result(losses.file.parent).updates if finished else None,
        searching=first_decision.action == "trial" and losses.begun is None,
        begun=0 if losses.begun is None else losses.begun.update,
    )


def _schedule_of(recorded: Losses) -> Schedule[Any]:
    if recorded.run is None:
        raise ConfigError(f"no run's config.json is beside {recorded.file}: name a schedule:NAME")
    stored = recorded.run["schedule"]
    if ".py:" in stored["name"]:  # nobody's code runs because a file names it
        raise ConfigError(f"the run's schedule is of a file: name it, schedule:{stored['name']}")
    return schedule_from_json(stored)


def _show(replay: Replay, as_json: bool, figure: Path | None) -> int:
    begin = time.perf_counter()
    judged = replay.judge()
    seconds = time.perf_counter() - begin
    if as_json:
        print(*map(json.dumps, replay.events(judged)), sep="\n")
    else:
        _print_decisions(replay, judged, seconds)
    if replay.own:
        check(replay, judged)
    print(*_notes(replay, judged), sep="\n", file=sys.stderr if as_json else sys.stdout)
    if figure is not None:
        draw(replay, judged, figure)
    return DONE


def _print_decisions(replay: Replay, judged: Sequence[Replayed], seconds: float) -> None:
    total, readings = replay.facts.budget, replay.losses.readings
    acted = [j for j in judged if j.decision.action not in ("hold", "snapshot")]
    snapshots = sum(j.decision.action == "snapshot" for j in judged)
    kept = counted(snapshots, "snapshot")
    name = entrant(schedule_name(replay.schedule), replay.losses.sees)
    print(
        f"{replay.losses.file}: {counted(len(readings), 'reading')}, updates {readings[0].update} "
        f"to "
        f"{readings[-1].update} of {total or 'a run without a known end'}; "
        f"{name} from base LR {replay.base_lr:g}: {counted(len(acted), 'decision')} "
        f"{f'and {kept} ' * bool(snapshots)}in {1000 * seconds:.1f} ms"
    )
    if acted:
        print(f"{'update':>8} {'epoch':>7} {'loss':>10} {'LR':>10}  decision")
    for reading, factor, decision, *_ in acted:
        rate = replay.base_lr * factor
        print(
            f"{reading.update:>8} {reading.epoch:>7.2f} {reading.loss:>10.4g} {rate:>10.3g}  "
            f"{decision.pattern}, {decision.action}: {decision.reason}"
        )


def _notes(replay: Replay, judged: Sequence[Replayed]) -> Iterator[str]:
    if replay.own:
        yield f"all {len(judged)} decisions and LRs of the run are reproduced, bit for bit"
        if others := reworded(replay, judged):
            yield f"{others} of their reasons are in other words than the run's, of another version"
        return
    yield from replay.losses.notes
    if replay.losses.run is None:
        yield _base_note(replay)
    if not replay.losses.has_epochs:
        yield "the file tells no epochs: rules that judge once an epoch see only one"
    changed = first_change(replay, judged)
    if changed is None:
        unknown = ", if that was one LR throughout: the file states none"
        known = "the LR stays as it was when these losses were recorded"
        yield known if replay.losses.lrs else known + unknown
        return
    yield (
        f"from update {changed} on, where the LR is another than the one that these losses were "
        "recorded with, the decisions are hypothetical: at that LR the losses would be others"
    )


def _base_note(replay: Replay) -> str:
    used, stated = replay.base_lr, replay.losses.base_lr
    if stated is None:
        return f"the base LR is {used:g}, and the file states none (--base-lr sets it)"
    source = f"{stated:g} is {replay.losses.base_from}"
    return f"the base LR {source}" if used == stated else f"the base LR is as given; {source}"


def first_change(replay: Replay, judged: Sequence[Replayed]) -> int | None:
    """The first update whose LR is not the one that its loss was recorded with, if there is one.

    Where a file states no LR at all, that is taken to be the first reading's; a reading for which
    it states none is passed over. Stated LRs of other tools are rounded (``LR_DIGITS``).
    """
    constant = replay.base_lr * judged[0].factor
    stated = replay.losses.lrs or [constant] * len(judged)
    digits = 0.0 if replay.losses.events else LR_DIGITS
    for (reading, factor, *_), recorded in zip(judged, stated, strict=True):
        if recorded is not None and not math.isclose(
            replay.base_lr * factor, recorded, rel_tol=digits
        ):
            return reading.update
    return None


def draw(replay: Replay, judged: Sequence[Replayed], file: Path) -> None:
    """Draw losses, LR and the marked decisions, one above the other, over the updates.

    Raises:
        ConfigError: if the figure cannot be written, or matplotlib is missing.
    """
    if file.suffix not in FIGURES:
        raise ConfigError(f"--figure = {file}: its name must end in one of {', '.join(FIGURES)}")
    if not file.parent.is_dir():
        raise ConfigError(f"--figure = {file}: there is no folder {file.parent}")
    try:
        from toolkit.report.replayed import write_figure
    except ImportError as error:
        raise ConfigError("a figure needs matplotlib: pip install matplotlib") from error
    hypothetical = None if replay.own else first_change(replay, judged)
    title = f"{schedule_name(replay.schedule)} on {replay.losses.file}"
    write_figure(file, replay.events(judged), title, hypothetical)


if __name__ == "__main__":
    raise SystemExit(main())
