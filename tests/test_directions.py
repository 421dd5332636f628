"""A metric declares its direction: everything that ranks, judges or tunes obeys it.

The method is a mirror: the same numbers with the other sign and the other direction must give the
same verdicts, with the other sign; the same numbers with the other direction alone the opposite.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.studies import write_run
from toolkit import task
from toolkit.config import RunConfig, parse, run_id
from toolkit.errors import ConfigError
from toolkit.report.figure_data import sections
from toolkit.report.numbers.analyse import Analysis, analyse
from toolkit.report.numbers.caveats import warnings
from toolkit.report.numbers.load import load_study
from toolkit.report.tables import family, schedules, seeds
from toolkit.report.text import findings, summary
from toolkit.scales import Scale
from toolkit.stats import best_rate, compare, first_reaching, judge, sensitivity, tuning_cost
from toolkit.studies.study import Contrast, Study
from toolkit.training.build import build
from toolkit.training.loop import evaluate, fit, release

PAIR = "digits/vit_micro@field"
RATES = (0.001, 0.01, 0.1)


def write_mirrored(
    study: Path, sign: int, higher: bool, rope: dict[str, float] | None = None
) -> Analysis:
    """``plan`` above ``cosine`` by 2 in the metric of sign 1, at three base LRs over 8 seeds."""
    scales = {"accuracy": {"higher_is_better": higher, "diverged": -300.0 * sign, "decimals": 3}}
    noise = np.random.default_rng(0).normal(0, 0.2, (3, 8))
    for place, lr in enumerate(RATES):
        for seed in range(8):
            base = 90 - 3 * abs(place - 1) + noise[place, seed]
            for schedule, gain in (("plan", 2.0), ("cosine", 0.0)):
                score = sign * (base + gain)
                validation = {"accuracy": score}
                metrics = {"test": {"accuracy": score}, "validation": validation}
                folder = write_run(
                    study, schedule, seed, score, lr=lr, metrics=metrics, scales=scales
                )
                events = folder / "events.jsonl"
                lines = [json.loads(line) for line in events.read_text().splitlines()]
                for line in lines:
                    if line.get("kind") == "evaluation":
                        line["accuracy"] = score - sign * (10 - line["update"] / 4)
                events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    contrasts = [
        {"pair": PAIR, "lr": lr, "candidate": "plan", "baseline": "cosine"} for lr in RATES
    ]
    plan: dict[str, Any] = {"name": study.name, "family": contrasts, "tuning": True}
    plan["rope"] = {"digits": 0.5} if rope is None else rope
    (study / "study.json").write_text(json.dumps(plan))
    return analyse(load_study(study))


def judged_of(analysis: Analysis) -> list[Any]:
    return [row.judged for row in analysis.family]


def test_the_mirrored_metric_has_the_mirrored_verdict(tmp_path: Path) -> None:
    rising = write_mirrored(tmp_path / "rising", 1, higher=True)
    falling = write_mirrored(tmp_path / "falling", -1, higher=False)
    turned = write_mirrored(tmp_path / "turned", 1, higher=False)
    for a, b, c in zip(judged_of(rising), judged_of(falling), judged_of(turned), strict=True):
        assert (a.verdict, b.verdict, c.verdict) == ("better", "better", "worse")
        assert b.paired.mean == -a.paired.mean
        assert (b.paired.low, b.paired.high) == (-a.paired.high, -a.paired.low)
        assert (b.p_adjusted, b.paired.superiority) == (a.p_adjusted, 1.0)
        assert c.paired.mean == a.paired.mean
        assert c.paired.superiority == 0.0
    for a, b in zip(rising.rates, falling.rates, strict=True):
        assert a.sensitivity.best_rate == b.sensitivity.best_rate == 0.01
        assert a.sensitivity.decades == b.sensitivity.decades
        assert a.sensitivity.loss == b.sensitivity.loss
        assert a.sensitivity.loss.value > 0
        assert [s.value for s in b.tuning.scores] == [-s.value for s in a.tuning.scores]
    assert [row.lr for row in rising.tuned] == [row.lr for row in falling.tuned] == [0.01, 0.01]
    for a, b in zip(rising.targets, falling.targets, strict=True):
        assert b.target == -a.target
        assert b.updates == a.updates
    assert any(row.reached for row in falling.targets)
    a, b = rising.overall, falling.overall
    assert a is not None
    assert b is not None
    for one, other in zip(a.iqm, b.iqm, strict=True):
        assert one is not None
        assert other is not None
        assert other.value == pytest.approx(-one.value)


def test_words_tables_and_axes_say_the_direction(tmp_path: Path) -> None:
    analysis = write_mirrored(tmp_path / "falling", -1, higher=False)
    lowest = next(text for text in summary(analysis) if "lowest mean accuracy" in text)
    assert "by plan at base LR 0.01" in lowest
    assert "-2.000" in family(analysis).cells[0]
    run = seeds(analysis).cells[0]
    assert run[5] == run[6]  # the last validation score of a curve that falls is its best
    final = sections.of_pair(analysis, PAIR)["final"]
    assert "accuracy (lower is better)" in final.title
    assert "what its metric declares" in schedules(analysis).caption


def test_a_diverged_run_is_behind_every_other(tmp_path: Path) -> None:
    """With its declared value, or with the worst of the pair's runs if that is worse."""
    write_mirrored(tmp_path / "study", -1, higher=False)
    lost: dict[str, Any] = {"status": "diverged", "metrics": {"test": {}, "validation": {}}}
    for declared, counted in ((300.0, 300.0), (-200.0, None)):
        scales = {"accuracy": {"higher_is_better": False, "diverged": declared}}
        folder = write_run(tmp_path / "study", "wsd", int(abs(declared)), 0, scales=scales, **lost)
        runs = load_study(tmp_path / "study").runs
        run = next(run for run in runs if run.folder == folder)
        worst = max(run.score for run in runs if not run.diverged)
        # The first file of the pair says how the metric is read; all of a study say the same.
        assert run.metric == "accuracy"
        assert run.score == max(run.score, worst)
        if counted is not None:
            assert run.score == counted


def test_a_diverged_run_counts_as_the_worst_where_its_loss_has_no_declared_value(
    tmp_path: Path,
) -> None:
    """A loss that a task does not declare is known to fall, and no more."""
    test: dict[str, Any] = {
        "scales": {},
        "metrics": {"test": {"loss": 0.5}, "validation": {"loss": 0.7}},
    }
    write_run(tmp_path / "study", "plan", 0, 0, **test)
    lost: dict[str, Any] = {"scales": {}, "metrics": {"test": {}, "validation": {"loss": None}}}
    folder = write_run(tmp_path / "study", "cosine", 0, 0, status="diverged", **lost)
    study = load_study(tmp_path / "study")
    assert {run.score for run in study.runs} == {0.5}
    assert {run.validation_score for run in study.runs} == {0.7}
    (said,) = [one for one in warnings(study) if "diverged" in one]
    assert "1 run diverged and scores as the worst of their pair's others" in said
    for other in (tmp_path / "study").iterdir():
        if other != folder:
            shutil.rmtree(other)
    with pytest.raises(ConfigError, match="does not say what loss is without training"):
        load_study(tmp_path / "study")


def test_without_a_rope_there_are_intervals_and_no_verdict(tmp_path: Path) -> None:
    analysis = write_mirrored(tmp_path / "study", 1, higher=True, rope={})
    for row in analysis.family:
        assert row.judged is None
        assert row.paired is not None
        assert row.rope is None
    (first, *_) = findings(replace(analysis, tuned=[]))
    assert "a difference of +2.000 in accuracy" in first.headline
    assert "no ROPE is declared" in first.details
    assert "95 % interval" in first.details
    cells = family(analysis).cells[0]
    assert "none: no ROPE is declared" in cells[-1]
    assert "+2.000" in cells
    assert sections.of_study(analysis)["differences"].panels


def test_the_direction_reaches_every_statistic() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(5, 4))
    rates = [10.0**k for k in range(5)]
    a, b = scores[0], scores[0] - 1 - rng.random(4)
    paired = [compare(a, b), compare(-a, -b, higher_is_better=False)]
    assert [judge([one], [0.1])[0].verdict for one in paired] == ["undecided"] * 2
    assert paired[0].superiority == paired[1].superiority == 1.0
    assert paired[0].gain == pytest.approx(paired[1].gain)
    assert best_rate(rates, scores) == best_rate(rates, -scores, higher_is_better=False)
    up, down = sensitivity(rates, scores, 0.1), sensitivity(rates, -scores, 0.1, False)
    assert (up.best_rate, up.decades, up.loss) == (down.best_rate, down.decades, down.loss)
    assert sensitivity(rates, scores, None).decades is None
    up_cost, down_cost = (
        tuning_cost(scores, scores + 1),
        tuning_cost(-scores, -scores - 1, higher_is_better=False),
    )
    assert [s.value for s in up_cost.scores] == pytest.approx([-s.value for s in down_cost.scores])
    assert first_reaching([3.0, 2.0, 1.0], [1, 2, 3], 2.0, higher_is_better=False) == 2
    assert first_reaching([3.0, 2.0, 1.0], [1, 2, 3], 0.5, higher_is_better=False) == float("inf")


OWN = '''
"""Digits with an error in place of an accuracy."""
from dataclasses import replace

import numpy as np
from toolkit import task
from toolkit.scales import Scale

digits = task.load("digits")


class Errors(type(digits)):
    rope = None

    def scales(self, recipe, splits):
        return {"error": Scale(False, 100.0, 3), "accuracy": Scale()}

    def metrics(self, predictions, labels, split):
        accuracy = super().metrics(predictions, labels, split)["accuracy"]
        return {"error": 100 - accuracy, "accuracy": accuracy}


TASK = Errors()
'''


def config_of(file: Path, *flags: str) -> RunConfig:
    return parse([f"{file}/vit_micro", "--recipe.updates", "2", "--wandb", "off", *flags])


def test_a_run_writes_its_direction_down_and_takes_the_metric_it_is_told(tmp_path: Path) -> None:
    file = tmp_path / "errors.py"
    file.write_text(OWN)
    run = build(config_of(file), tmp_path)
    assert list(run.scales) == ["error", "accuracy"]
    result = fit(run)
    release(run)
    assert result is not None
    assert result.headline == "error"
    assert not result.scale_of("error").higher_is_better
    record = load_study(tmp_path / "single").runs[0]
    assert record.scale == Scale(False, 100.0, 3)
    assert record.score == result.metrics.test["error"]
    chosen = build(config_of(file, "--recipe.metric", "accuracy"), tmp_path)
    assert next(iter(evaluate_once(chosen))) == "accuracy"
    with pytest.raises(ConfigError, match=r"unknown recipe.metric 'acuracy'.*accuracy"):
        build(config_of(file, "--recipe.metric", "acuracy"), tmp_path)


def test_an_error_in_what_a_task_declares_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "errors.py"
    file.write_text(OWN.replace('"accuracy": Scale()', '"accuracy": Scael()'))
    with pytest.raises(ConfigError, match=r"scales of '.*errors.py', line 16: NameError: .*Scael"):
        build(config_of(file), tmp_path)


def evaluate_once(run: Any) -> Any:
    from toolkit.training import checkpoint

    checkpoint.start_or_resume(run)
    metrics = evaluate(run, "validation")
    release(run)
    return metrics


def test_the_metric_is_in_a_run_id_only_where_it_is_chosen() -> None:
    plain = parse(["digits/vit_micro"])
    named = parse(["digits/vit_micro", "--recipe.metric", "accuracy"])
    assert run_id(plain) != run_id(named)
    assert "metric" not in json.dumps(task.load("digits").recipes["vit_micro"]["plan"].metric or "")


def test_a_study_judges_by_the_ropes_that_are_declared(tmp_path: Path) -> None:
    file = tmp_path / "errors.py"
    file.write_text(OWN)
    config = replace(config_of(file), study="mine")
    assert Study("mine", "Is it?", (config,)).rope == {}
    stated = Study("mine", "Is it?", (config,), rope={str(file): 0.1})
    assert stated.rope == {str(file): 0.1}
    digits = replace(parse(["digits/vit_micro"]), study="mine")
    other = replace(digits, recipe=replace(digits.recipe, metric="accuracy"))
    assert Study("mine", "Is it?", (digits,)).rope == {"digits": 0.5}
    contrast = Contrast(PAIR, digits.recipe.lr, "cosine", "cosine")
    assert Study("mine", "Is it?", (other,), (contrast,)).rope == {}


def test_runs_of_different_data_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path, "plan", 0, 90.0, data="sha256:one")
    write_run(tmp_path, "cosine", 0, 90.0, data="sha256:one")
    write_run(tmp_path, "cosine", 1, 90.0)
    load_study(tmp_path)
    write_run(tmp_path, "wsd", 0, 90.0, data="sha256:other")
    with pytest.raises(ConfigError, match=r"are both of .* but of different data: give each its"):
        load_study(tmp_path)
