"""Does A beat B? Paired intervals, exact tests, verdicts, profiles. Pure: arrays in, numbers out.

The rules are those of ``docs/decisions.md`` (comparison): a verdict rests on the paired
t-interval, the exact sign-flip p adjusted by Holm over the primary family, and the region of
practical equivalence (ROPE). Everything by resampling draws from one fixed seed: equal input,
equal output to the bit.

``paired``: one comparison. ``verdicts``: a family of them. ``bootstrap``: intervals of anything
else. ``targets``: how soon a target is reached. ``tuning``: what the choice of the LR costs.
"""

from toolkit.stats.bootstrap import Estimate, iqm, iqm_difference, iqms
from toolkit.stats.paired import (
    ALPHA,
    Paired,
    compare,
    compare_seconds,
    sign_flip_p,
    t_interval,
)
from toolkit.stats.targets import Profile, Speedup, first_reaching, profile, speedup
from toolkit.stats.tuning import Sensitivity, TuningCost, best_rate, sensitivity, tuning_cost
from toolkit.stats.verdicts import SECONDS_ROPE, Speed, Verdict, judge, judge_seconds

__all__ = [
    "ALPHA",
    "SECONDS_ROPE",
    "Estimate",
    "Paired",
    "Profile",
    "Sensitivity",
    "Speed",
    "Speedup",
    "TuningCost",
    "Verdict",
    "best_rate",
    "compare",
    "compare_seconds",
    "first_reaching",
    "iqm",
    "iqm_difference",
    "iqms",
    "judge",
    "judge_seconds",
    "profile",
    "sensitivity",
    "sign_flip_p",
    "speedup",
    "t_interval",
    "tuning_cost",
]
