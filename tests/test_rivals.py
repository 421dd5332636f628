"""Loss-driven rules that others wrote, against their own classes."""

import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers.optimization import GreedyLR

from toolkit.schedules import Greedy, GreedyPaper, Plateau, Schedule
from toolkit.schedules.reading import NO_ACTION, Facts, Reading

STREAMS = 1000


def stream(draw: random.Random) -> list[float]:
    """Descents, rises, walks and flat stretches; ties, negative losses, NaN."""
    level, slope = draw.uniform(-3, 3), draw.choice([-0.1, -0.01, 0.0, 0.05])
    noise, lost = draw.choice([0.0, 0.01, 0.5]), draw.choice([0.0, 0.0, 0.05])
    digits = draw.choice([1, 3, 17])
    losses = []
    for _ in range(draw.randint(1, 150)):
        level += slope + noise * draw.gauss(0, 1)
        losses.append(math.nan if draw.random() < lost else round(level, digits))
        slope = -slope if draw.random() < 0.02 else slope
    return losses


def readings(losses: list[float]) -> Iterator[Reading]:
    for update, loss in enumerate(losses, 1):
        lost = math.isnan(loss)
        yield Reading(update, update / 4, loss, 0.0 if lost else 7.0, int(lost))


def common(draw: random.Random) -> dict[str, Any]:
    return {
        "patience": draw.randint(0, 6),
        "threshold": draw.choice([0.0, 1e-6, 1e-4, 0.1]),
        "threshold_mode": draw.choice(["rel", "abs"]),
        "cooldown": draw.choice([0, 0, 1, 4]),
        "eps": draw.choice([0.0, 1e-8, 1e-3]),
    }


def compare(theirs: Any, ours: Schedule[Any], losses: list[float], base: float) -> set[str]:
    """Step both through a stream, compare every LR and return the actions."""
    optimizer, actions = theirs.optimizer, set()
    memory, _ = ours.start(base, Facts())
    for reading in readings(losses):
        theirs.step(reading.loss)
        memory, decision = ours.observe(memory, reading)
        rate = optimizer.param_groups[0]["lr"]
        assert memory.lr == rate
        assert math.isclose(base * ours.factor(memory, 0.5), rate, rel_tol=1e-15)
        actions.add(decision.action)
    return actions


def sgd(base: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)


def test_plateau_equals_torchs() -> None:
    draw, actions = random.Random(0), []
    for _ in range(STREAMS):
        base, cut, settings = 10 ** draw.uniform(-5, 0), draw.choice([0.1, 0.5, 0.9]), common(draw)
        settings["min_lr"] = draw.choice([0.0, 0.2 * base, base])
        theirs = ReduceLROnPlateau(sgd(base), factor=cut, **settings)
        actions.append(compare(theirs, Plateau(1, cut, **settings), stream(draw), base))
    assert sum("cut" in seen for seen in actions) > STREAMS / 4


def test_greedy_equals_transformers() -> None:
    draw, actions = random.Random(1), []
    for _ in range(STREAMS):
        base, cut, settings = 10 ** draw.uniform(-5, 0), draw.choice([0.5, 0.9, 0.95]), common(draw)
        settings |= {
            "min_lr": draw.choice([1e-3, 0.0, 0.5 * base]),
            "max_lr": draw.choice([1.0, 1.5 * base]),
            "smooth": draw.choice([False, True]),
            "window_size": draw.choice([1, 3, 50]),
            "reset_start": draw.choice([500, 1, 3]),
        }
        settings["min_lr"] = min(settings["min_lr"], settings["max_lr"])
        rest = draw.choice([0, 2])
        theirs = GreedyLR(sgd(base), factor=cut, warmup=rest, **settings)
        ours = Greedy(1, cut, raise_cooldown=rest, **settings)
        actions.append(compare(theirs, ours, stream(draw), base))
    for action in ("cut", "raise"):
        assert sum(action in seen for seen in actions) > STREAMS / 10


def test_defaults_are_those_of_the_classes() -> None:
    draw = random.Random(2)
    for _ in range(100):
        losses, base = stream(draw), 0.01
        compare(ReduceLROnPlateau(sgd(base)), Plateau(every=1), losses, base)
        compare(GreedyLR(sgd(base)), Greedy(every=1), losses, base)
        paper = GreedyLR(sgd(base), patience=10, min_lr=0.1 * base, smooth=True, window_size=50)
        compare(paper, GreedyPaper(), losses, base)


def test_greedy_at_its_defaults_cannot_cut_a_fine_tuning_rate() -> None:
    schedule = Greedy(every=1)
    memory, _ = schedule.start(2e-5, Facts())
    for reading in readings([1.0] * 100):
        memory, decision = schedule.observe(memory, reading)
        assert decision.action == "hold"
    assert memory.lr == 2e-5


@pytest.mark.parametrize("kind", [Plateau, Greedy])
@pytest.mark.parametrize(
    ("every", "judged"), [("epoch", [2.0, math.nan]), (3, [5 / 3, 3.0, math.nan])]
)
def test_it_judges_the_mean_of_a_stretch(
    kind: Any, every: Any, judged: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def judge(self: object, memory: Any, loss: float) -> Any:
        seen.append(loss)
        return memory, NO_ACTION

    schedule = kind(every=every)
    monkeypatch.setattr(kind, "_judge", judge)
    memory, _ = schedule.start(0.1, Facts())
    for reading in readings([1.0, 1.0, 3.0, 3.0, 3.0, 3.0, math.nan, 3.0, 3.0]):
        memory, _ = schedule.observe(memory, reading)
    assert seen == pytest.approx(judged, nan_ok=True)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (Plateau, {"every": 0}, "every = 0 .*'epoch' or at least 1 reading"),
        (Plateau, {"cut": 1.0}, "cut = 1.0 .*between 0 and 1"),
        (Plateau, {"patience": -1}, "patience = -1 .*0 or above"),
        (Greedy, {"every": -3}, "every = -3 .*'epoch' or at least 1 reading"),
        (Greedy, {"cut": 0.0}, "cut = 0.0 .*between 0 and 1"),
        (Greedy, {"window_size": 0}, "window_size = 0 .*at least 1"),
        (Greedy, {"reset_start": 0}, "reset_start = 0 .*at least 1"),
        (Greedy, {"min_lr": 2.0}, "min_lr = 2.0 .*0 to max_lr, 1"),
        (GreedyPaper, {"min_share": 1.5}, "min_share = 1.5 .*from 0 to 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(kind: Any, fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"schedule\.{message}"):
        kind(**fields)


def test_a_lower_bound_above_the_base_rate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"schedule\.min_lr = 0\.1 .*at most the base LR, 0.01"):
        Plateau(min_lr=0.1).start(0.01, Facts())
