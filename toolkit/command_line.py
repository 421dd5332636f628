"""From the arguments of a command to objects: flags, their short names, help, and errors.

A flag is ``--NAME``, ``--recipe.NAME`` or ``--schedule.NAME``, in any order. The last part alone
will do where only one flag ends in it, ``--lr`` for ``--recipe.lr``. A setting that is true or
false takes ``True`` or ``False``, none for true, and ``--no-NAME`` for false. tyro makes the
objects.
"""

import argparse
import ast
import inspect
import io
import re
import shutil
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from itertools import pairwise
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    NamedTuple,
    NoReturn,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from toolkit.errors import ConfigError, did_you_mean, one_line, unknown
from toolkit.hints import described
from toolkit.recipe import OPTIMIZERS, Recipe
from toolkit.schedules import SCHEDULES

PREFIX = "schedule:"
SWITCHES = ("fresh", "dry-run", "help", "help-all")
"""Flags without a value."""
HELP = {"--help", "-h", "--help-all", "help", "h", "help-all"}
NAME_WIDTH = 31
"""Columns of a flag and its values in ``--help``."""
IN_FULL_HELP_ONLY = (
    *("wandb", "project", "entity", "tags", "notes", "keep-checkpoints", "rank-timeout"),
    *("extend", "rewarm", "keep-last-checkpoint", "keep-before-anneal", "keep-weights", "workers"),
    *("recipe.betas", "recipe.eps", "recipe.nesterov", "recipe.lora-alpha", "recipe.lora-layers"),
)
"""Flags that another stands for or tells of, what trackers alone are told, and what few need: the
help of a target fits a screen."""
Given: TypeAlias = tuple[str, list[str]]
"""A flag as it was written, without dashes, and its values."""


class Flag(NamedTuple):
    """A flag of the command line.

    Attributes:
        name: with its prefix and ``-`` for ``_``, without the two dashes before it.
        hint: the type of its value.
        default: as ``--help`` shows it.
        words: what it means.
    """

    name: str
    hint: Any
    default: Any = None
    words: str = ""

    @property
    def short(self) -> str:
        """Its last part."""
        return self.name.rpartition(".")[2]

    @property
    def is_switch(self) -> bool:
        """Whether its value is true or false."""
        return self.hint is bool


@dataclass
class Words:
    """The arguments of a command, told apart but not yet understood.

    Attributes:
        flags: each flag as it was written, without dashes, and its values.
        schedules: the schedules that are named, with the flags between each and the next.
        rest: words that are none of that.
    """

    flags: list[Given]
    schedules: list[tuple[str, list[Given]]]
    rest: list[str]

    @property
    def all_flags(self) -> list[Given]:
        """Every flag, wherever it stands."""
        return [*self.flags, *(flag for _, those in self.schedules for flag in those)]


class Parser(argparse.ArgumentParser):
    """For commands with flags of their own: an error is one line that names the nearest flag."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    @property
    def flags(self) -> list[str]:
        """Its flags, with their dashes."""
        return [flag for flag in self._option_string_actions if flag.startswith("--")]

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            ConfigError: in place of argparse's usage and exit.
        """
        before, mark, argument = message.partition("unrecognized arguments: ")
        if mark and not before:
            first = argument.split(" ")[0]
            if first.startswith("-"):
                raise unknown("flag", first, self.flags)
            message = f"'{first}' is one word too many"
        raise ConfigError(f"{message.removeprefix('argument ')}; {self.prog} --help says more")


def words_of(argv: Sequence[str], schedules: Collection[str], switches: Collection[str]) -> Words:
    """Tell flags, their values and schedules apart.

    Args:
        argv: without the verb and the target.
        schedules: the names of schedules that need no ``schedule:``.
        switches: further flags that may have no value.
    """
    found = Words([], [], [])
    flags, values = found.flags, None
    for argument in argv:
        is_schedule = argument.startswith(PREFIX) or argument in schedules or ".py:" in argument
        if argument.startswith("--") or argument == "-h":
            name, equals, value = argument.lstrip("-").partition("=")
            name = name.replace("_", "-")
            values = [value] if equals else []
            flags.append((name, values))
            if name in SWITCHES or name.startswith("no-"):
                values = None
        elif (
            values is not None
            and not argument.startswith(PREFIX)
            and _is_value(argument, is_schedule, bool(values), flags[-1][0] in switches)
        ):
            values.append(argument)
        elif is_schedule:
            flags, values = [], None
            found.schedules.append((argument.removeprefix(PREFIX), flags))
        else:
            found.rest.append(argument)
    return found


def _is_value(argument: str, is_schedule: bool, further: bool, switch: bool) -> bool:
    if switch:
        return not further and argument in ("True", "False")
    return not (further and is_schedule)


def flags_of(kind: type, prefix: str = "", default: Any = None) -> Iterator[Flag]:
    """The flags for the fields of a dataclass, and for those of dataclasses in it.

    Args:
        kind: the dataclass.
        prefix: of their names.
        default: an object with the values that ``--help`` shows; None for those of the fields.
    """
    words = field_words(kind)
    try:
        hints = get_type_hints(kind)
    except (NameError, TypeError):  # of a user's file, whose names only its author knows
        hints = {}
    for item in fields(kind):
        hint = hints.get(item.name, Any)
        own = None if item.default is MISSING else item.default
        value = own if default is None else getattr(default, item.name)
        name = prefix + item.name.replace("_", "-")
        if is_dataclass(hint) and isinstance(hint, type):
            yield from flags_of(hint, f"{name}.", value)
        else:
            yield Flag(name, hint, value, words.get(item.name, ""))


def field_words(kind: type) -> dict[str, str]:
    """What is written below each field of a dataclass, in one line."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if not is_dataclass(one):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
        except (OSError, TypeError, SyntaxError):  # made at run time, or its file is gone
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, text in pairwise(body):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def expanded(
    given: Sequence[Given],
    known: Sequence[Flag],
    rest: Sequence[str] = (),
    others: Iterable[str] = (),
) -> list[str]:
    """Flags under their whole names, for tyro.

    Args:
        given: as ``words_of`` tells them.
        known: the flags that there are.
        rest: words that are no flags.
        others: further flags that an error may name as the nearest.

    Raises:
        ConfigError: for a flag that does not exist, or a short name of several; for other words.
    """
    argv = []
    for name, values in given:
        flag, negated = _flag_named(name, known, others)
        if negated and values:
            raise ConfigError(f"--{name} takes no value, '{values[0]}'")
        if flag.is_switch and not values:
            values = [str(not negated)]
        if not values and _takes_several(flag.hint):
            raise ConfigError(f"--{flag.name}: it must be {allowed(flag.hint)}")
        if len(values) > 1 and not _takes_several(flag.hint):
            raise stray(values[1], f"--{name} takes one value, and ")
        argv += [f"--{flag.name}", *values]
    for word in rest:
        raise stray(word)
    return argv


def stray(word: str, before: str = "") -> ConfigError:
    """The error for a word that is neither a flag nor a schedule, with the nearest that is one."""
    if near := get_close_matches(word, SCHEDULES, n=1, cutoff=0.5):
        return ConfigError(f"{before}unknown schedule '{word}': did you mean {near[0]}?")
    hint = ""
    if word.endswith(".py"):
        hint = f"; a schedule of your own is named with its file, {word}:NAME"
    elif word in OPTIMIZERS:
        hint = f"; the optimizer of that name is --optimizer {word}"
    return ConfigError(f"{before}'{word}' is no schedule or flag{hint}")


def _flag_named(name: str, known: Sequence[Flag], others: Iterable[str]) -> tuple[Flag, bool]:
    """The flag of a name, whole or short, and whether it has a ``no-`` before it."""
    plain = _one_of(name, known)
    if plain is not None:
        return plain, False
    head, dot, last = name.rpartition(".")
    for without in (name.removeprefix("no-"), f"{head}{dot}{last.removeprefix('no-')}"):
        if without != name and (flag := _one_of(without, known)) and flag.is_switch:
            return flag, True
    shorts = [flag.short for flag in known]
    names = {flag.name for flag in known} | {one for one in shorts if shorts.count(one) == 1}
    raise unknown("flag", f"--{name}", [*(f"--{one}" for one in names), *others])


def _one_of(name: str, known: Sequence[Flag]) -> Flag | None:
    whole = [flag for flag in known if flag.name == name]
    found = whole or [flag for flag in known if flag.short == name]
    if len(found) > 1:
        both = " and ".join(f"--{flag.name}" for flag in found)
        raise ConfigError(f"--{name} may be {both}: write one of them")
    return found[0] if found else None


def _takes_several(hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(map(_takes_several, get_args(hint)))
    return hint is Any or origin in (tuple, list, Sequence, dict, Mapping, set, frozenset)


def read(kind: type, argv: Sequence[str], default: Any, known: Sequence[Flag]) -> Any:
    """An object of a type from flags under their whole names.

    Raises:
        ConfigError: for whatever is wrong with a value, in one line that names the flag.
    """
    import tyro

    buffer = io.StringIO()
    options = {} if default is None else {"default": default}
    try:
        with redirect_stderr(buffer):
            return tyro.cli(
                kind, args=argv, prog="", config=(tyro.conf.FlagConversionOff,), **options
            )
    except SystemExit as stop:
        raise ConfigError(_why(stop.__context__, buffer.getvalue(), argv, known)) from stop


def _why(error: BaseException | None, box: str, argv: Sequence[str], known: Sequence[Flag]) -> str:
    """What tyro has against a command line: an error with the flag, or a box of words."""
    argument = getattr(error, "arg", None)
    message = getattr(error, "message", str(error))
    if error is not None and (argument is None or isinstance(argument, str)):
        return one_line(message)  # of a dataclass, about its own values
    lines = (re.sub("[│╭╮╰╯─]", " ", line).strip() for line in box.splitlines())
    text = " ".join(" ".join(line for line in lines if line.strip("-")).split())
    text = text.partition(" Argument helptext:")[0].partition(" For full helptext")[0]
    named = re.search(r"--(\w[\w.-]*)", text)
    flag = next((one for one in known if named and one.name == named[1].rstrip(".")), None)
    if flag is None:
        return one_line(text)
    place = argv.index(f"--{flag.name}") if f"--{flag.name}" in argv else len(argv)
    values = []
    for value in argv[place + 1 :]:
        if value.startswith("--"):
            break
        values.append(value)
    given, near = " ".join(values), _nearest(values, flag.hint)
    if not given and f"--{flag.name}" not in argv:
        return f"--{flag.name} is missing: it has no default, and must be {allowed(flag.hint)}"
    return f"--{flag.name} {given}".rstrip() + f": {near}it must be {allowed(flag.hint)}"


def _nearest(values: Sequence[str], hint: Any) -> str:
    """What was meant by the first value that is none of those allowed; empty if nothing is near."""
    names = [name for one in _parts(hint) if get_origin(one) is Literal for name in get_args(one)]
    hints = (did_you_mean(value, map(str, names)) for value in values if value not in names)
    return next(filter(None, hints), "")


def _parts(hint: Any) -> Iterator[Any]:
    """A type hint and those that it is made of."""
    yield hint
    if get_origin(hint) is not Literal:
        for one in get_args(hint):
            yield from _parts(one)


def allowed(hint: Any) -> str:
    """What a value on the command line may be, in words."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    words = []
    for one in (one for one in kinds if one is not NoneType):
        arguments = get_args(one)
        if get_origin(one) is tuple and Ellipsis not in arguments:
            words.append(f"{len(arguments)} values, each {described(arguments[0])}")
        elif get_origin(one) in (tuple, list, Sequence):
            words.append(f"one value or more, each {described(arguments[0])}")
        else:
            words.append(described(one).replace("true or false", "True or False"))
    return " or ".join([*words, *["None"] * (NoneType in kinds)])


def help_lines(groups: Mapping[str, Sequence[Flag]]) -> Iterator[str]:
    """A line for each flag but those of ``IN_FULL_HELP_ONLY``, as wide as the terminal.

    Args:
        groups: heading -> its flags.
    """
    width = max(60, shutil.get_terminal_size().columns)
    known = [flag for flags in groups.values() for flag in flags]
    for heading, flags in groups.items():
        yield textwrap.shorten(heading, width, placeholder=" ...")
        for flag in (flag for flag in flags if flag.name not in IN_FULL_HELP_ONLY):
            unique = sum(flag.short == one.short for one in known) == 1
            start = f"  --{flag.short if unique else flag.name} {_metavar(flag.hint)}".rstrip()
            if flag.default is not None and flag.default != ():
                start += f" ({_shown(flag.default)})"
            room = width - max(NAME_WIDTH, len(start)) - 2
            words = textwrap.shorten(flag.words, max(room, 4), placeholder=" ...")
            yield f"{start:<{NAME_WIDTH}}  {words}".rstrip()[:width]


def full_help(groups: Mapping[str, Sequence[Flag]]) -> Iterator[str]:
    """Each flag with all its words."""
    width = max(60, shutil.get_terminal_size().columns)
    for heading, flags in groups.items():
        yield ""
        yield from textwrap.wrap(heading, width)
        for flag in flags:
            default = "" if flag.default is None else f", by default {_shown(flag.default)}"
            yield f"  --{flag.name}: {allowed(flag.hint)}{default}"
            yield from textwrap.wrap(
                flag.words, width, initial_indent=" " * 6, subsequent_indent=" " * 6
            )


def _metavar(hint: Any) -> str:
    names = {int: "N", float: "X", bool: "", str: "TEXT"}
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    words = []
    for one in (one for one in kinds if one is not NoneType):
        arguments = get_args(one)
        if get_origin(one) is Literal:
            words.append("|".join(map(str, arguments)) if len(arguments) < 4 else "NAME")
        elif get_origin(one) in (tuple, list, Sequence):
            repeated = [item for item in arguments if item is not Ellipsis]
            words.append(" ".join(map(_metavar, repeated)) + " ..." * (Ellipsis in arguments))
        else:
            words.append(names.get(one, "VALUE"))
    return "|".join(dict.fromkeys(words))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(map(_shown, value)) if isinstance(value, tuple) else str(value)


def budget_of(recipe: Recipe, argv: Sequence[str]) -> Recipe:
    """The default recipe without the budget that a flag replaces by the other kind.

    Args:
        recipe: the default.
        argv: flags under their whole names.
    """
    if "--recipe.updates" in argv and "--recipe.epochs" not in argv:
        return replace(recipe, epochs=None, updates=1)
    if "--recipe.epochs" in argv and "--recipe.updates" not in argv:
        return replace(recipe, epochs=1, updates=None)
    return recipe
