"""What evaluations tell that a training loss cannot: that more training does harm. Pure.

Under over-fitting or wrong labels the training loss falls on and on; no rule that sees it alone can
know. With l the validation loss at an evaluation and b the lowest so far, ``IN_A_ROW`` evaluations
in a row with l > (1 + ``MARGIN``) b say so. Then growth ends, and the LR is halved; if it goes on,
once more, and so on: a run whose validation loss stays above comes to a stop within a few
evaluations, one that finds a new best goes on as it was.

>>> state, told = Validation(), []
>>> for loss in (2.0, 1.0, 1.2, 1.3, 1.4, 1.5, 0.9):
...     state, above = observe(state, loss)
...     told.append(state.factor)
>>> told
[1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
"""

import math
from typing import NamedTuple

MARGIN = 0.1
"""Share of the lowest validation loss by which another must exceed it to count as above it. While
its LR is high, evaluations of a healthy run differ by several per cent; with a fifth of this margin
one lost two points."""
IN_A_ROW = 2
"""Evaluations in a row above it that cut the LR."""
CUT = 0.5
"""Factor of the LR then."""


class Validation(NamedTuple):
    """The state of the rule.

    Attributes:
        best: the lowest validation loss so far; 0 before the first.
        above: evaluations in a row above it, since the last cut.
        factor: what the cuts have left of the LR.
    """

    best: float = 0.0
    above: int = 0
    factor: float = 1.0


def observe(state: Validation, loss: float) -> tuple[Validation, bool]:
    """The state after an evaluation, and whether it has cut the LR.

    A loss that is not finite tells nothing here: the guard is for that.
    """
    if not math.isfinite(loss):
        return state, False
    if not state.best or loss < state.best:
        return state._replace(best=loss, above=0), False
    if loss <= (1 + MARGIN) * state.best:
        return state._replace(above=0), False
    if state.above + 1 < IN_A_ROW:
        return state._replace(above=state.above + 1), False
    return state._replace(above=0, factor=CUT * state.factor), True
