"""Errors that a user can act on: the entry points print them as one line, without a traceback."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """The command, configuration or data is wrong; exit code 2."""


class OlderVersionError(ConfigError):
    """The run is of an older version, and what is asked for takes that version."""


class MissingDataError(ConfigError):
    """The data of a configuration are not on this machine, and cannot be fetched."""


class RunError(RuntimeError):
    """The run could not be carried out; exit code 1."""


class StoppedError(RunError):
    """The process was asked to stop before it had begun with a run; exit code 75."""


def outcome(call: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """Call code that may raise anything; what it returned, or what it raised.

    For code that is not the toolkit's, such as a user's file or W&B, and for what must be written
    down however it ends. ``tests/test_errors.py`` says who may call this and why; everywhere else
    what can go wrong is caught by its kind, where it goes wrong.
    """
    try:
        return call(), None
    except Exception as error:
        return None, error


def one_line(text: object) -> str:
    """A text for a terminal: in one line, and without characters that would steer it."""
    words = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


def first_line(error: BaseException) -> str:
    """The first line of an error's words; empty if it has none."""
    return next(iter(str(error).strip().splitlines()), "")


def error_text(error: BaseException | None) -> str:
    """An error of another program's code, in one line: its type and its first line."""
    return "no error" if error is None else f"{type(error).__name__}: {first_line(error)}"


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """The nearest of the names that exist, as the begin of a sentence; empty if none is near."""
    near = get_close_matches(name, list(valid), n=1)
    return f"did you mean {near[0]}? " if near else ""


def unknown(what: str, name: str, valid: Iterable[str]) -> ConfigError:
    """The error for a name that does not exist, with the nearest that do.

    Args:
        what: the kind of thing, e.g. ``"schedule"``.
        name: what the user wrote.
        valid: the names that exist.
    """
    names = sorted(valid)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there is {', '.join(names[:20])}"
    return ConfigError(f"unknown {what} '{name}': {hint}")
