"""The arguments of a command about runs: what to train, its flags, its schedule."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, make_dataclass
from typing import Any

from toolkit import command_line, task, user_schedule
from toolkit.command_line import Flag, Given, Words
from toolkit.errors import ConfigError, unknown
from toolkit.recipe import Recipe
from toolkit.schedules import SCHEDULES, Schedule, summary_of
from toolkit.task import Target

DEFAULT_SCHEDULE = "cosine"
OF_THE_COMMAND = (
    Flag("output-dir", str, ".", "The folder that runs/ lies in."),
    Flag("fresh", bool, False, "Start over, whatever the run's folder holds."),
)
"""Flags of a command that are no part of a run."""
NO_FLAGS = ("target", "recipe", "schedule", "data", "task-sha")
"""Fields of a run that no flag of their name sets."""
OF_ONE_RUN = ("extend", "rewarm", "keep-last-checkpoint", "keep-before-anneal")
"""Flags that a command about several runs does not have: those are runs from scratch."""
REFUSED = ("keep-best", "patience")
"""Flags that such a command has for its refusal alone: its help leaves them out."""


def target_of(argv: Sequence[str], prog: str, about: str = "") -> tuple[Target, Recipe]:
    """The target that a command line begins with, and its recipe.

    Args:
        argv: the arguments of the command.
        prog: the command.
        about: what ``--help`` without a target prints of it; by default the usage and the tasks.

    Raises:
        ConfigError: if it does not begin with one that exists.
        SystemExit: after ``--help`` without a target.
    """
    if about and command_line.HELP & {*argv[:1]}:
        print(f"{about}\nflags: {prog} TARGET --help")
        raise SystemExit(0)
    usage = f"{prog} TASK/MODEL[@RECIPE] [SCHEDULE] [flags]"
    if not argv or argv[0].startswith(("-", command_line.PREFIX)):
        if command_line.HELP & set(argv):
            print(f"usage: {usage}\n\ntasks: {', '.join(task.names())}; toolkit list says more")
            print(f"flags: {prog} TASK/MODEL --help")
            raise SystemExit(0)
        raise ConfigError(f"no target: {usage}")
    target = task.parse_target(argv[0])
    return target, task.declared_recipe(target)


def values_of(
    config: type,
    target: Target,
    recipe: Recipe,
    words: Words,
    prog: str,
    kind: type | None = None,
    own: Sequence[Flag] = OF_THE_COMMAND,
    takes: str = "",
    **defaults: Any,
) -> dict[str, Any]:
    """The fields of a run and the flags of a command, as its arguments set them.

    Args:
        config: the dataclass of a run.
        target: what is trained.
        recipe: its recipe.
        words: what follows the target.
        prog: the command, for ``--help``.
        kind: the class of the run's schedule; None for a command of which it is no setting.
        own: the flags of the command itself. A field of a run whose name begins with one of theirs
            and an s, as ``seed`` and ``seeds``, is none.
        takes: what follows the target, for ``--help``; by default one schedule or several.
        defaults: of fields of the run, where they are others for this command.

    Raises:
        ConfigError: for whatever is wrong with the arguments, in one line.
        SystemExit: after ``--help``.
    """
    groups = _groups(config, recipe, kind, own, defaults)
    if asked := command_line.HELP & {name for name, _ in words.all_flags}:
        several = "[SCHEDULE] [flags]" if kind else "[SCHEDULE ...] [flags]"
        print(f"usage: {prog} {target} {takes or several}      (--help-all: all of it)")
        print_help = command_line.full_help if "help-all" in asked else command_line.help_lines
        if kind is None:
            groups["run"] = [flag for flag in groups["run"] if flag.name not in REFUSED]
        print(*print_help(groups), sep="\n")
        raise SystemExit(0)
    known = [flag for flags in groups.values() for flag in flags]
    flags = command_line.expanded(words.all_flags, known, words.rest)
    fields_of_run = {_field(flag): flag for flag in known if "." not in flag.name}
    default = {name: flag.default for name, flag in fields_of_run.items()}
    default["recipe"] = command_line.budget_of(recipe, flags)
    hints = {name: flag.hint for name, flag in fields_of_run.items()} | {"recipe": type(recipe)}
    if kind is not None:
        default["schedule"], hints["schedule"] = _default_object(kind), kind
    choice = make_dataclass("Choice", hints.items(), frozen=True)
    read = command_line.read(choice, flags, choice(**default), known)
    return {"target": str(target), **{name: getattr(read, name) for name in hints}}


def _groups(
    config: type,
    recipe: Recipe,
    kind: type | None,
    own: Sequence[Flag],
    defaults: Mapping[str, Any],
) -> dict[str, list[Flag]]:
    """The flags of a command by what they are of: heading -> flags."""
    run = [
        flag._replace(default=defaults.get(_field(flag), flag.default))
        for flag in command_line.flags_of(config)
        if flag.name.partition(".")[0] not in (*NO_FLAGS, *(() if kind else OF_ONE_RUN))
        and f"{flag.name}s" not in {one.name for one in own}
    ]
    words = summary_of(type(recipe))
    groups = {"run": [*run, *own] if kind is not None else [*own, *run]}
    groups[f"recipe (--recipe.NAME): {words}"] = [
        *command_line.flags_of(type(recipe), "recipe.", recipe)
    ]
    if kind is not None:
        found = [*command_line.flags_of(kind, "schedule.")]
        groups[f"schedule (--schedule.NAME): {summary_of(kind)}"] = found
    return groups


def switches(config: type, recipe: Recipe, own: Sequence[Flag] = OF_THE_COMMAND) -> set[str]:
    """The names, whole and short, of the flags that are true or false."""
    flags = [flag for those in _groups(config, recipe, None, own, {}).values() for flag in those]
    found = [flag for flag in flags if flag.is_switch]
    return {flag.name for flag in found} | {flag.short for flag in found}


def one_schedule(words: Words) -> type:
    """The class of the schedule that a command names, by default cosine.

    Raises:
        ConfigError: for several, or one that does not exist.
    """
    if len(words.schedules) > 1:
        names = " and ".join(name for name, _ in words.schedules)
        raise ConfigError(f"{names}: a run has one schedule; toolkit compare takes several")
    return user_schedule.class_named(next((n for n, _ in words.schedules), DEFAULT_SCHEDULE))


def parse_schedule(argv: Sequence[str], others: Iterable[str] = ()) -> Schedule[Any] | None:
    """The schedule of ``SCHEDULE [--schedule.FIELD VALUE]``; None for no arguments.

    Args:
        argv: what a command leaves of its arguments.
        others: flags of the command, to name the nearest to one that does not exist.

    Raises:
        ConfigError: for whatever is wrong with it, in one line.
    """
    if not argv:
        return None
    words = command_line.words_of(argv, SCHEDULES, ())
    if len(words.schedules) > 1:
        raise ConfigError(f"there is room for one schedule, not for {len(words.schedules)}")
    if not words.schedules:
        for name, _ in words.flags:
            raise unknown("flag", f"--{name}", others)
        raise unknown("schedule", words.rest[0], SCHEDULES)
    return schedule_of(words.schedules[0][0], words.all_flags, words.rest, others)


def schedule_of(
    name: str, given: Sequence[Given], rest: Sequence[str] = (), others: Iterable[str] = ()
) -> Schedule[Any]:
    """A schedule by its name, with settings from flags.

    Args:
        name: as on the command line, without ``schedule:``.
        given: its flags, as ``command_line.words_of`` tells them.
        rest: words that are no flags.
        others: flags of the command, to name the nearest to one that does not exist.

    Raises:
        ConfigError: for whatever is wrong with it, in one line.
    """
    kind = user_schedule.class_named(name)
    known = [*command_line.flags_of(kind, "schedule.")]
    flags = command_line.expanded(given, known, rest, others)
    choice = make_dataclass("Choice", [("schedule", kind)], frozen=True)
    default = choice(_default_object(kind))
    schedule: Schedule[Any] = command_line.read(choice, flags, default, known).schedule
    return schedule


def _field(flag: Flag) -> str:
    return flag.name.replace("-", "_")


def _default_object(kind: type) -> Any:
    """A schedule with its default settings; tyro's mark where one has none.

    Raises:
        ConfigError: if its class refuses its own defaults.
    """
    import tyro

    if any(item.default is MISSING and item.default_factory is MISSING for item in fields(kind)):
        return tyro.MISSING
    try:
        return kind()
    except ValueError as error:
        raise ConfigError(str(error)) from error
