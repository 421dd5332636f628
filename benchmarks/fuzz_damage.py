"""What can happen to a file or a command line: seeded damage for ``fuzz.py``. Pure."""

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS = ("nan", "inf", "-inf", "-1", "0", "-0.0", "1e400", "1e-400", "1.5", "9" * 400, "9" * 5000)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 1e308, 10**400, float("nan"), float("inf"), ""),
    *("x", "nan", "<script>", "a\nb", "\x00", "\ud800", [], [1], [[]], {}, {"a": 1}, [None]),
)
"""What may stand in the place of another value of a JSON file."""
TOKENS = (
    *NUMBERS[:-1],
    *("", ".", "..", "/", "a/b", "../x", "--", "-", "-h", "--help", "{", "None", "True", "x" * 300),
    *("\udcff", "a b", "a\nb", "$HOME", "*", "schedule:", "schedule:nope", "schedule:adaptive"),
    *("schedule:raises.py:X", "schedule:constant.py:X", "schedule:nowhere.py:X"),
    *("schedule:syntax.py:X", "raises.py/m", "constant.py/m", "digits/", "/m", "@", "digits/m@x"),
    *("--recipe.lr=nan", "--recipe.weight-decay", "--study", "--seed", "--base-lr", "--budget"),
)
"""What may stand in the place of another argument of a command."""
CHUNKS = (b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"\r", b",", b'"', b"'", b"{", b"[", b"}")
DEEP = 100_000
"""Brackets that no parser's stack holds."""


def command(dice: random.Random, words: Sequence[str]) -> list[str]:
    """A command line that is a little wrong, or with a little luck still right."""
    found = list(words)
    for _ in range(dice.randint(0, 3)):
        place = dice.randrange(len(found)) if found else 0
        match dice.randrange(6):
            case 0:
                del found[place : place + 1]
            case 1:
                found[place:place] = found[place : place + 1]
            case 2:
                found.insert(place, dice.choice(TOKENS))
            case 3 if found:
                found[place] = _typo(dice, found[place])
            case 4 if found:
                found.append(found.pop(place))
            case _:
                found[place : place + 1] = [dice.choice(TOKENS)]
    return found


def _typo(dice: random.Random, word: str) -> str:
    if not word:
        return "x"
    place = dice.randrange(len(word))
    return word[:place] + dice.choice(("", "x", ".", "-", "/", word[place] * 2)) + word[place + 1 :]


def data(dice: random.Random, content: bytes) -> bytes:
    """A file's bytes with a few things done to them."""
    for _ in range(dice.randint(1, 3)):
        content = dice.choice(_OF_BYTES)(dice, content)
    return content


def _cut(dice: random.Random, content: bytes) -> bytes:
    return content[: dice.randrange(len(content) + 1)]


def _flip(dice: random.Random, content: bytes) -> bytes:
    if not content:
        return b"\x01"
    found = bytearray(content)
    found[dice.randrange(len(found))] ^= 1 << dice.randrange(8)
    return bytes(found)


def _lose(dice: random.Random, content: bytes) -> bytes:
    begin = dice.randrange(len(content) + 1)
    return content[:begin] + content[begin + dice.randint(1, 200) :]


def _insert(dice: random.Random, content: bytes) -> bytes:
    place = dice.randrange(len(content) + 1)
    return content[:place] + dice.choice(CHUNKS) * dice.randint(1, 3) + content[place:]


def _lines(dice: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    if not lines:
        return content
    place = dice.randrange(len(lines))
    match dice.randrange(4):
        case 0:
            del lines[place]
        case 1:
            lines.insert(place, lines[place])
        case 2:
            lines.insert(dice.randrange(len(lines)), lines.pop(place))
        case _:
            dice.shuffle(lines)
    return b"".join(lines)


def _number(dice: random.Random, content: bytes) -> bytes:
    """Another number, or something that is none, where one begins."""
    places = [i for i, byte in enumerate(content[:20_000]) if chr(byte).isdecimal()]
    if not places:
        return content
    begin = dice.choice(places)
    end = begin
    while end < len(content) and chr(content[end]) in "0123456789.e+-":
        end += 1
    return content[:begin] + dice.choice(NUMBERS).encode() + content[end:]


def _other(dice: random.Random, content: bytes) -> bytes:
    deep = dice.choice((b"[" * DEEP, b'{"a":' * DEEP))
    return dice.choice((b"", b"\x00" * 64, b"null", b"[]", b"{}", b"\n\n", deep, content + content))


def _endings(dice: random.Random, content: bytes) -> bytes:
    return content.replace(b"\n", dice.choice((b"\r\n", b"\r", b"\n\n")))


_OF_BYTES: Sequence[Callable[[random.Random, bytes], bytes]] = (
    *(_cut, _cut, _flip, _flip, _lose, _insert, _lines, _lines, _number, _number, _other, _endings),
)


def value(dice: random.Random, found: Any) -> Any:
    """A JSON value with another value, name or length at one or two places."""
    damaged = json.loads(json.dumps(found))
    for _ in range(dice.randint(1, 2)):
        damaged = _value(dice, damaged)
    return damaged


def _value(dice: random.Random, found: Any) -> Any:
    if isinstance(found, dict | list) and found and dice.random() < 0.9:
        keys: list[Any] = list(found) if isinstance(found, dict) else list(range(len(found)))
        key = dice.choice(keys)
        if dice.random() < 0.25:
            kept = found.pop(key)
            if isinstance(found, dict) and dice.random() < 0.5:
                found[f"{key}x"] = kept
        else:
            found[key] = _value(dice, found[key])
        return found
    return copy.deepcopy(dice.choice(VALUES))  # or the next case would damage it


def text(found: Any) -> bytes:
    """JSON, also of what JSON does not have."""
    return json.dumps(found).encode("utf-8", "surrogatepass")
