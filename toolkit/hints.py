"""Whether what was read from a file is of the type that is written down for it. Pure.

A type hint says what a JSON value must be: ``int`` and ``float`` take no booleans, ``float`` takes
finite numbers only, a tuple or list is a JSON array, a mapping or a ``TypedDict`` a JSON object.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    NoneType: "null",
    list: "a list",
    tuple: "a list",
    dict: "an object",
}
LARGEST = 2**53
"""Whole numbers up to here are floats, too; nothing counts further."""
LONGEST = 40
"""Characters of a value that a message shows."""


def misfits(value: Any, hint: Any, name: str) -> Iterator[str]:
    """What is wrong with a value, a phrase for each place, such as ``lr = 'x' is not a number``.

    Args:
        value: from a JSON file.
        hint: what it must be.
        name: what to call it; parts of it are named ``name.part`` and ``name[0]``.
    """
    origin = get_origin(hint)
    if origin is Annotated:
        yield from misfits(value, get_args(hint)[0], name)
    elif is_typeddict(hint) and isinstance(value, dict):
        yield from _of_object(value, hint, name)
    elif origin in (dict, Mapping) and _is_object(value):
        for key, part in value.items():
            yield from misfits(part, get_args(hint)[1], f"{name}.{key}")
    elif origin in (tuple, list, Sequence) and isinstance(value, list | tuple):
        yield from _of_list(value, hint, name)
    elif not fits(value, hint):
        yield f"{name} = {shown(value)} is not {described(hint)}"


def fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is what a type hint says."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in arguments)
    if origin is not None or is_typeddict(hint):
        kind = list | tuple if origin in (tuple, list, Sequence) else dict
        return isinstance(value, kind) and not any(misfits(value, hint, ""))
    if hint is float:
        return _is_finite(value)
    if hint is int:
        return type(value) is int and abs(value) <= LARGEST
    return isinstance(value, NoneType if hint is None else hint)


def described(hint: Any) -> str:
    """What a type hint allows, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(described, arguments)))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if is_typeddict(hint) or origin in (dict, Mapping):
        return WORDS[dict]
    return WORDS.get(NoneType if hint is None else origin or hint, f"of {hint}")


def shown(value: Any) -> str:
    """A value for a message: not all of a long one."""
    if isinstance(value, int) and abs(value) > 10**LONGEST:  # repr refuses those of 4,300 digits
        return "a very large number"
    text = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that is beyond any float
        return False


def _of_object(value: Mapping[str, Any], hint: Any, name: str) -> Iterator[str]:
    """Of an object with known fields; others may be there, which a newer version has written."""
    hints = _hints(hint)
    for key in sorted(hint.__required_keys__ - value.keys()):
        yield f"{name}.{key} is missing"
    for key in hints.keys() & value.keys():
        yield from misfits(value[key], hints[key], f"{name}.{key}")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _of_list(value: Sequence[Any], hint: Any, name: str) -> Iterator[str]:
    arguments = get_args(hint)
    if get_origin(hint) is tuple and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            yield f"{name} has {len(value)} entries, not {len(arguments)}"
            return
    else:
        arguments = (arguments[0],) * len(value)
    for number, (part, one) in enumerate(zip(value, arguments, strict=True)):
        yield from misfits(part, one, f"{name}[{number}]")
