"""When a run counts as diverged: one rule for every launch, and the reason in words.

While it trains: 20 readings in a row with a loss that is not finite. At its end: a weight that is
not finite, a buffer with a NaN or with an infinity that was not there at the start (masks hold
infinities by design), or more than a tenth of its readings rolled back or of its updates skipped,
as gradient scalers and DeepSpeed do with gradients that are not finite. A scaler may skip the few
in which it finds its scale, also where they are more than that.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from accelerate.utils import broadcast_object_list
from torch import Tensor

from toolkit.training.scaling import HALVINGS

if TYPE_CHECKING:
    from toolkit.training.run import Run

NONFINITE_READINGS = 20
"""So many readings in a row with a loss that is not finite, on whichever rank, and no update brings
the weights back."""
LOST_SHARE = 0.1
"""A run that has lost more than this share of its readings or updates has not been trained."""


def note_reading(run: "Run", nonfinite: int, rolled_back: bool) -> None:
    """Count a reading, and call the run lost if too many in a row were not finite."""
    run.readings += 1
    run.rollbacks += rolled_back
    run.nonfinite_readings = run.nonfinite_readings + 1 if nonfinite else 0
    if run.nonfinite_readings >= NONFINITE_READINGS:
        run.lost = f"{NONFINITE_READINGS} readings in a row had a loss that is not finite"


def note_end(run: "Run", state: Mapping[str, Tensor]) -> None:
    """Look at the run as a whole. A collective: all ranks call it, and agree with rank 0.

    Args:
        run: after its last update.
        state: its weights and buffers as they are evaluated. Rank 0's are looked at: under ZeRO-3
            no other rank has them.
    """
    found = [""]
    if run.accelerator.is_main_process:
        found = [run.lost or _too_much_lost(run) or not_finite(state, run.infinite_at_start)]
    broadcast_object_list(found)
    run.lost = found[0]


def _too_much_lost(run: "Run") -> str:
    skipped = run.lr.skipped
    if run.rollbacks > LOST_SHARE * run.readings:
        return f"{run.rollbacks} of {run.readings} readings were rolled back"
    if skipped > _usually_skipped(run):
        return f"{skipped} of {run.update} updates were skipped: their gradients were not finite"
    return ""


def _usually_skipped(run: "Run") -> float:
    """Updates that may be skipped; a gradient scaler looks for its scale in the first ones."""
    usual = LOST_SHARE * run.update
    searched = min(HALVINGS, run.update / 2) if run.accelerator.scaler is not None else 0.0
    return max(usual, searched)


def not_finite(state: Mapping[str, Tensor], infinite_at_start: frozenset[str]) -> str:
    """The first weight or buffer that is not what it may be, in words; empty if there is none."""
    for name, tensor in state.items():
        if not tensor.is_floating_point() or bool(tensor.isfinite().all()):
            continue
        if bool(tensor.isnan().any()) or name not in infinite_at_start:
            return f"{name} is not finite after the last update"
    return ""
