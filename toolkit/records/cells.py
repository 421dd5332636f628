"""One value of a log as a number, or a sentence that says where it stands and what is allowed."""

import math
from typing import Any, NoReturn

from toolkit.errors import ConfigError


def number(where: str, name: str, value: Any) -> float:
    """A number, finite or not.

    Args:
        where: file and row, in words.
        name: the value's name in the file.
        value: what stands there.

    Raises:
        ConfigError: for anything else, a number beyond any float included.
    """
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        refuse(where, name, value, "a number")


def number_from(where: str, name: str, value: Any, least: float) -> float:
    """A finite number that is ``least`` or above.

    Raises:
        ConfigError: for anything else.
    """
    found = number(where, name, value)
    if not least <= found < math.inf:
        refuse(where, name, found, f"{least:g} or above")
    return found


def whole(where: str, name: str, value: Any, least: int) -> int:
    """A whole number that is ``least`` or above, also if it is written as 10.0.

    Raises:
        ConfigError: for anything else.
    """
    found = number(where, name, value)
    if not math.isfinite(found) or found != int(found) or found < least:
        refuse(where, name, value, f"a whole number, {least} or above")
    return int(found)


def refuse(where: str, name: str, value: Any, allowed: str) -> NoReturn:
    """Say what is wrong with a value.

    Raises:
        ConfigError: always.
    """
    shown = repr(value)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    raise ConfigError(f"{where}: {name} = {shown} is not {allowed}")
