"""Count the windows of SQuAD v2 whose labelled tokens, read by their offsets, are not the answer.

Counted are both splits in $TOOLKIT_DATA, with the tokenizers there, as they are and with offsets
that are wrong: a character late or early, and bytes in place of characters. The share from which
``tasks/squad_v2.py`` refuses a tokenizer lies between the two.

usage: python benchmarks/squad_spans.py [DATA]      default: squad_v2
"""

import sys
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

from toolkit import task
from toolkit.config import parse

task.load("squad_v2")
from toolkit_tasks import answer_spans, squad_v2, text  # noqa: E402 - exists once a task has been loaded

Offsets = list[int]
MODELS = ("bert-base-uncased", "roberta-base")
LENGTH, STRIDE, ROWS = 384, 128, 1000


def main(folder: str) -> None:
    """Print a line for each split, tokenizer and kind of offsets."""
    source = squad_v2._load(folder)
    for name in MODELS:
        tokenizer = text.fitting_tokenizer(name, parse([f"squad_v2/{name}"]).recipe)
        for split in squad_v2.SPLITS:
            for kind, change in KINDS.items():
                stray, total = _count(source[split], tokenizer, change)
                print(f"{folder} {split} {name} {kind}: {stray} of {total}, {stray / total:.2%}")


def _count(part: Any, tokenizer: Any, change: Callable[[str, Offsets], Offsets]) -> tuple[int, int]:
    stray = total = 0
    for begin in range(0, len(part), ROWS):
        rows = part[begin : begin + ROWS]
        found = answer_spans.windows(tokenizer, rows["question"], rows["context"], LENGTH, STRIDE)
        for number, stated in zip(found["example"], found["offsets"], strict=True):
            context, answer = rows["context"][number], squad_v2._first_span(rows["answers"][number])
            offsets = change(context, stated)
            target = answer_spans.target_tokens(offsets, answer)
            total += target != (0, 0)
            stray += answer_spans.strays(offsets, target, context, answer)
    return stray, total


def _moved(by: int) -> Callable[[str, Offsets], Offsets]:
    return lambda _, offsets: [
        max(0, at + by) if at != answer_spans.NO_OFFSET else at for at in offsets
    ]


def _in_bytes(context: str, offsets: Offsets) -> Offsets:
    places = list(accumulate((len(character.encode()) for character in context), initial=0))
    return [places[at] if at != answer_spans.NO_OFFSET else at for at in offsets]


KINDS: Mapping[str, Callable[[str, Offsets], Offsets]] = {
    "as they are": _moved(0),
    "one late": _moved(1),
    "one early": _moved(-1),
    "in bytes": _in_bytes,
}

if __name__ == "__main__":
    main(*sys.argv[1:] or ["squad_v2"])
