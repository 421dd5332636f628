"""Schedules and their names: those of the list, and a user's own, which a name finds in a file.

A user's own is ``path/file.py:NAME``, where NAME is a class of schedules, a frozen dataclass of
settings, or a function of the progress that returns the factor of the base LR; further arguments of
it have defaults, and are settings. Objects of a user's own class get that name from where the class
is defined, so that a worker, a resumed run and a replay find it again.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import field, is_dataclass, make_dataclass
from types import FunctionType
from typing import Any

from toolkit import userfile
from toolkit.errors import ConfigError, one_line, unknown
from toolkit.schedules import SCHEDULES, Schedule
from toolkit.schedules.open_loop import OpenLoop
from toolkit.schedules.simulate import CHANGED, check_protocol, check_schedule

TRIED_AT = (0.0, 0.5, 0.99)
"""Progress at which a user's function must return a factor before it is trained with."""


def class_named(name: str) -> type:
    """The class of a schedule.

    Raises:
        ConfigError: if there is none of this name, or a user's file is wrong.
    """
    if ".py:" not in name:
        if name not in SCHEDULES:
            raise unknown("schedule", name, SCHEDULES)
        return SCHEDULES[name]
    path, _, attribute = name.rpartition(":")
    try:
        found = userfile.attribute_of("schedule", path, attribute)
    except ConfigError as error:
        cause = error.__cause__
        if isinstance(cause, ImportError) and (cause.name or "").startswith("toolkit."):
            raise ConfigError(f"{error}; {CHANGED}") from error
        raise
    where = f"schedule file '{path}'"
    kind = _of_function(found, f"{where}, {attribute}", path) if _is_function(found) else found
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise ConfigError(
            f"{where}: {attribute} is {one_line(repr(kind))[:40]}, and must be a class of "
            "schedules, a frozen dataclass of settings, or a function: progress -> factor"
        )
    check_protocol(kind, f"{where}, {attribute}")
    return _known_as(kind, name)


def as_schedule(given: Any) -> Schedule[Any]:
    """A schedule of what a user wrote in Python.

    Args:
        given: a schedule; the name of one, which then has its default settings; or a function
            of the progress that returns a factor.

    Raises:
        ConfigError: if it is none of that, or other processes could not find it.
    """
    if isinstance(given, str):
        given = class_named(given.removeprefix("schedule:"))()
    elif _is_function(given):
        source = userfile.source_of(given)
        path = source.rpartition(":")[0]
        given = _known_as(_of_function(given, f"'{path}', {given.__name__}", path), source)()
    check_schedule(given)
    name_of(given)
    schedule: Schedule[Any] = given
    return schedule


def name_of(schedule: object) -> str:
    """The name to store: of the list, or ``path/file.py:NAME`` for a user's own.

    Raises:
        ConfigError: if its class cannot be found by such a name.
    """
    kind = type(schedule)
    own: str | None = vars(kind).get("toolkit_source")
    if own is not None:
        return own
    if (name := next((n for n, shipped in SCHEDULES.items() if shipped is kind), None)) is not None:
        return name
    if not is_dataclass(kind):
        raise ConfigError(f"schedule {kind.__name__}: its class must be a frozen dataclass")
    source = userfile.source_of(kind)
    _known_as(kind, source)
    return source


def source_sha(schedule: object) -> str | None:
    """SHA-256 of the file of a user's own schedule; None for those of the list.

    As it was when the class was loaded, which is what runs, whatever has become of the file.
    """
    kind, name = type(schedule), name_of(schedule)
    if ".py:" not in name:
        return None
    own: str | None = vars(kind).get("toolkit_sha")
    return own or userfile.sha256(name.rpartition(":")[0])


def _known_as(kind: type, source: str) -> type:
    """The class, which remembers its file; a shipped one that a file only imports stays itself."""
    if kind in SCHEDULES.values():
        return kind
    kind.toolkit_source = source  # type: ignore[attr-defined]
    kind.toolkit_sha = userfile.sha256(source.rpartition(":")[0])  # type: ignore[attr-defined]
    return kind


def _is_function(thing: object) -> bool:
    return isinstance(thing, FunctionType)


def _of_function(function: Callable[..., Any], where: str, path: str) -> type:
    """The class of schedules whose factor a function returns; its settings are its arguments.

    Raises:
        ConfigError: if it is not called as such a function, or returns no factor.
    """
    arguments = list(inspect.signature(function).parameters.values())
    empty = inspect.Parameter.empty
    if not arguments or any(one.default is empty for one in arguments[1:]):
        raise ConfigError(
            f"{where}: a schedule's function takes the progress, in [0, 1), and settings that have "
            "defaults"
        )
    settings = {one.name: one for one in arguments[1:]}
    if taken := sorted({*settings} & {*dir(OpenLoop)}):
        raise ConfigError(f"{where}: a setting cannot be called {taken[0]}")

    def shape(self: object, progress: float) -> float:
        return float(function(progress, **{name: getattr(self, name) for name in settings}))

    kind = make_dataclass(
        function.__name__,
        [
            (name, type(one.default) if one.annotation is empty else one.annotation,
             field(default=one.default))
            for name, one in settings.items()
        ],
        bases=(OpenLoop,),
        frozen=True,
        namespace={
            "shape": shape, "__doc__": function.__doc__, "__module__": function.__module__
        },
    )  # fmt: skip
    for progress in TRIED_AT:
        call = lambda at=progress: function(at)  # noqa: E731
        factor = userfile.raise_as_config_error(where, path, call)
        if not _is_factor(factor):
            raise ConfigError(
                f"{where}: at progress {progress:g} it returns {one_line(repr(factor))[:40]}, and "
                "must return a factor of the base LR, a number, at least 0"
            )
    return kind


def _is_factor(value: object) -> bool:
    try:
        return math.isfinite(float(value)) and float(value) >= 0  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
