"""What the report's numbers beyond the verdicts are: by hand, from made-up runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.studies import write_run, write_study
from toolkit.errors import ConfigError
from toolkit.report.files import markdown
from toolkit.report.numbers.analyse import analyse
from toolkit.report.numbers.load import load_study
from toolkit.report.tables import schedules, seeds
from toolkit.report.text import findings, summary, verdict_sentences
from toolkit.stats import compare, tuning_cost

PAIR = "digits/vit_micro@field"


def declare(study: Path, **plan: object) -> Path:
    (study / "study.json").write_text(json.dumps(plan))
    return study


def test_every_run_is_a_row(tmp_path: Path) -> None:
    write_run(tmp_path, "plan", 3, 92.0)
    lost: dict[str, Any] = {"status": "diverged", "metrics": {"test": {}, "validation": {}}}
    write_run(tmp_path, "plan", 4, 50.0, updates=20, **lost)
    analysis = analyse(load_study(tmp_path))
    good, bad = seeds(analysis).cells
    assert good[3:] == ["3", "92.00", "91.00", "91.00", "", "13.0"]
    assert bad[3:] == ["4", "0.00", "", "", "diverged", "14.0"]
    assert "1 run diverged and scores 0" in analysis.warnings[-1]


def test_times_are_judged_like_a_metric(tmp_path: Path) -> None:
    analysis = analyse(load_study(write_study(tmp_path / "mine")))
    (row,) = analysis.family
    assert row.speed is not None
    assert (row.speed.verdict, row.speed.ratio, row.speed.low) == ("equivalent", 1, 1)
    assert "1.00 times the training time (times equivalent" in verdict_sentences(analysis)[0]


def test_the_time_of_a_diverged_run_is_infinite(tmp_path: Path) -> None:
    study = write_study(tmp_path / "mine")
    lost: dict[str, Any] = {"status": "diverged", "metrics": {"test": {}, "validation": {}}}
    write_run(study, "plan", 8, 0, **lost)
    write_run(study, "cosine", 8, 90.0)
    (row,) = analyse(load_study(study)).family
    assert (row.seconds_ratio, row.speed) == (float("inf"), None)
    assert row.judged is not None


@pytest.mark.long
def test_comparisons_that_cannot_be_made_count_for_holm(tmp_path: Path) -> None:
    """A family is what was declared, however much of it has been run."""
    study = tmp_path / "mine"
    for seed in range(6):
        write_run(study, "plan", seed, 92.0 + 0.1 * seed)
        write_run(study, "cosine", seed, 90.0)
    one = {"pair": PAIR, "lr": 0.01, "candidate": "plan", "baseline": "cosine"}
    family = [one, {**one, "baseline": "linear"}, {**one, "baseline": "greedy"}]
    (first, *others) = analyse(load_study(declare(study, family=family))).family
    assert first.judged is not None
    assert first.judged.p_adjusted == pytest.approx(3 * 2 / 2**6)
    assert first.judged.verdict == "undecided"
    assert first.speed is not None
    assert first.speed.judged.p_adjusted == 1
    assert [row.judged for row in others] == [None, None]
    (alone,) = analyse(load_study(declare(study, family=[one]))).family
    assert alone.judged is not None
    assert alone.judged.verdict == "better"


def test_times_on_several_machines_are_not_judged(tmp_path: Path) -> None:
    study = write_study(tmp_path / "mine")
    for seed in range(8):
        for schedule, cores in (("plan", 64), ("cosine", 2)):
            file = study / f"{schedule}-0.01-{seed}-0/result.json"
            machine = {"machine": {"processor": "x", "cores": cores}}
            file.write_text(json.dumps(json.loads(file.read_text()) | machine))
    analysis = analyse(load_study(study))
    assert analysis.family[0].speed is None
    assert "which is not judged: the runs are of several machines" in verdict_sentences(analysis)[0]
    assert any("the runs are of several machines" in text for text in analysis.warnings)


def test_runs_of_a_group_differ_in_their_seed_alone(tmp_path: Path) -> None:
    write_run(tmp_path, "plan", 0, 90.0, recipe_settings={"lr": 0.01, "micro_batch": 64})
    write_run(tmp_path, "plan", 1, 90.0, recipe_settings={"lr": 0.01, "micro_batch": 32})
    load_study(tmp_path)
    write_run(tmp_path, "plan", 2, 90.0, recipe_settings={"lr": 0.01, "weight_decay": 0.1})
    with pytest.raises(ConfigError, match=r"but differ in weight_decay: give each its own --study"):
        load_study(tmp_path)


def test_the_summary_says_where_verdicts_fell_and_equivalence_is_told_apart(tmp_path: Path) -> None:
    study, rng = tmp_path / "mine", np.random.default_rng(3)
    for lr, gain in ((0.01, 3.0), (0.1, 0.05)):
        for seed in range(8):
            write_run(study, "plan", seed, 90 + gain + rng.normal(0, 0.3), lr=lr)
            write_run(study, "cosine", seed, 90 + rng.normal(0, 0.3), lr=lr)
    family = [
        {"pair": PAIR, "lr": lr, "candidate": "plan", "baseline": "cosine"} for lr in (0.01, 0.1)
    ]
    analysis = analyse(load_study(declare(study, family=family, rope={"digits": 0.2})))
    assert "better in 1 (base LR 0.01), undecided in 1 (base LR 0.1)" in summary(analysis)[0]
    assert "show them to be equivalent, if the difference is as seen" in str(findings(analysis)[1])
    assert "seeds to equivalence)" in markdown(analysis)


def test_the_summary_names_no_places_where_all_went_one_way(tmp_path: Path) -> None:
    study = tmp_path / "mine"
    for lr in (0.01, 0.1):
        for seed in range(8):
            write_run(study, "plan", seed, 93.0 + seed / 10, lr=lr)
            write_run(study, "cosine", seed, 90.0, lr=lr)
    family = [
        {"pair": PAIR, "lr": lr, "candidate": "plan", "baseline": "cosine"} for lr in (0.01, 0.1)
    ]
    analysis = analyse(load_study(declare(study, family=family)))
    assert summary(analysis)[0].startswith("plan against cosine, 2 comparisons: better in all;")


def test_the_summary_says_that_nothing_is_decided_and_who_did_nothing(tmp_path: Path) -> None:
    study, rng = tmp_path / "mine", np.random.default_rng(1)
    for lr in (0.01, 0.1):
        for seed in range(8):
            for schedule in ("plan", "greedy"):
                write_run(study, schedule, seed, 90 + rng.normal(), lr=lr)
    write_run(study, "plan", 9, 80.0, task="imdb", updates=15)
    family = [
        {"pair": PAIR, "lr": lr, "candidate": "plan", "baseline": "greedy"} for lr in (0.01, 0.1)
    ]
    analysis = analyse(load_study(declare(study, family=family)))
    told = summary(analysis)
    assert told[0] == "None of the 2 comparisons is decided."
    assert "greedy never changed the LR in 16 runs: it is a constant LR here." in told
    assert "plan never changed" not in " ".join(told)
    assert any(text.startswith("plan made no decision on imdb/vit_micro:") for text in told)
    assert "do not decide: 0 is in the interval, p is not below 0.05" in str(findings(analysis)[0])


def test_an_undecided_comparison_says_what_it_could_have_found(tmp_path: Path) -> None:
    study = tmp_path / "mine"
    rng = np.random.default_rng(0)
    for seed in range(8):
        write_run(study, "plan", seed, 90 + rng.normal())
        write_run(study, "cosine", seed, 90 + rng.normal())
    declare(study, family=[{"pair": PAIR, "lr": 0.01, "candidate": "plan", "baseline": "cosine"}])
    (sentence,) = verdict_sentences(analyse(load_study(study)))
    assert "undecided" in sentence
    assert "or more in four studies of five" in sentence


def test_means_that_are_equal_as_they_are_shown_are_level(tmp_path: Path) -> None:
    for seed in range(8):
        write_run(tmp_path / "mine", "plan", seed, 90.0 + 3 * (-1) ** seed)
        write_run(tmp_path / "mine", "cosine", seed, 90.001)
    one = {"pair": PAIR, "lr": 0.01, "candidate": "plan", "baseline": "cosine"}
    (sentence,) = verdict_sentences(analyse(load_study(declare(tmp_path / "mine", family=[one]))))
    assert "undecided. plan is level with cosine, which these 8 seeds do not decide: " in sentence


def test_what_was_not_declared_has_an_interval_and_no_verdict(tmp_path: Path) -> None:
    study = write_study(tmp_path / "mine")
    for seed in range(8):
        write_run(study, "step", seed, 91.0 + seed / 10)
    (row,) = analyse(load_study(study)).exploratory
    assert (row.candidate, row.baseline, row.judged) == ("step", "cosine", None)
    cosine = [90.0 + 0.1 * seed * (-1) ** seed for seed in range(8)]
    assert row.paired == compare([91.0 + seed / 10 for seed in range(8)], cosine)


def test_arms_that_are_one_run_are_invalid(tmp_path: Path) -> None:
    arms = {"candidate": "cosine", "baseline": "cosine", "candidate_arm": 1}
    declare(tmp_path, family=[{"pair": PAIR, "lr": 0.01, **arms}])
    for seed in range(20):
        write_run(tmp_path, "cosine", seed, 90.0 + seed)
        write_run(tmp_path, "cosine", seed, 90.0 + seed + seed % 3 - 1, arm=1)
    (row,) = analyse(load_study(tmp_path)).family
    assert (row.same_run, row.problem, row.candidate_arm) == (0, "", 1)
    assert row.judged is not None
    for seed in range(2):
        file = tmp_path / f"cosine-0.01-{seed}-1" / "result.json"
        other = json.loads((tmp_path / f"cosine-0.01-{seed}-0" / "result.json").read_text())
        sha = {"final_weights_sha": other["final_weights_sha"]}
        file.write_text(json.dumps(json.loads(file.read_text()) | sha))
    analysis = analyse(load_study(tmp_path))
    (row,) = analysis.family
    assert (row.same_run, row.judged) == (2, None)
    assert (
        "cosine (arm 1) against cosine cannot be judged; invalid: 2 of 20 pairs are the same"
        in (verdict_sentences(analysis)[0])
    )


def test_targets_are_those_of_the_reference(tmp_path: Path) -> None:
    # On validation a run of score s has s - 4, s - 2, s - 4/3, s - 1 at updates 10, 20, 30, 40.
    for seed in range(3):
        write_run(tmp_path, "cosine", seed, 91.0)  # ends at 90: the target
        write_run(tmp_path, "plan", seed, 92.0)  # at 90 after 20 updates
        write_run(tmp_path, "step", seed, 90.5)  # never
    analysis = analyse(load_study(tmp_path))
    rows = {row.group.schedule: row for row in analysis.targets}
    assert {row.target for row in rows.values()} == {90.0}
    assert [rows[name].median_updates for name in ("cosine", "plan", "step")] == [40, 20, np.inf]
    assert rows["plan"].seconds == {0: 5.0, 1: 5.5, 2: 6.0}
    assert (rows["plan"].reached, rows["step"].reached) == (3, 0)
    overall = analysis.overall
    assert overall is not None
    assert overall.updates is not None
    place = {name: number for number, name in enumerate(overall.schedules)}
    scores = overall.updates.profile.scores
    assert scores[place["plan"]].value == 1
    assert scores[place["cosine"]].value == pytest.approx((4 - 2) / 3)
    assert scores[place["step"]].value == 0
    speedup = overall.updates.speedups[place["plan"]]
    assert speedup is not None
    assert speedup.ratio.value == pytest.approx(2)
    assert overall.updates.speedups[place["cosine"]] is None
    difference = overall.iqm_difference[place["plan"]]
    assert difference is not None
    assert (difference.value, difference.low) == (pytest.approx(1), pytest.approx(1))


def test_base_rates_have_a_curve_and_a_cost_of_tuning(tmp_path: Path) -> None:
    table = {0.001: (80.0, 81.0), 0.01: (95.0, 96.0), 0.1: (50.0, 60.0)}
    for lr, scores in table.items():
        for seed, score in enumerate(scores):
            write_run(tmp_path, "plan", seed, score, lr=lr)
    (row,) = analyse(load_study(tmp_path)).rates
    assert (row.sensitivity.rates, row.sensitivity.best_rate) == ((0.001, 0.01, 0.1), 0.01)
    assert (row.seeds, row.tuning.tries) == ((0, 1), (1, 2, 3))
    test = np.array(list(table.values()))
    assert row.tuning == tuning_cost(test, test)
    assert row.tuning.scores[0].value == pytest.approx(test.mean())


def test_a_tuning_half_names_its_choice(tmp_path: Path) -> None:
    declare(tmp_path, tuning=True)
    for lr, score in ((0.001, 80.0), (0.01, 95.0), (0.1, 97.0)):
        for seed in (1000, 1001):
            write_run(tmp_path, "cosine", seed, score, lr=lr)
    (sentence,) = verdict_sentences(analyse(load_study(tmp_path)))
    assert "base LR 0.1 is best for cosine, with 96.00" in sentence
    assert "that is an end of the grid" in sentence


def test_the_report_says_what_was_not_run(tmp_path: Path) -> None:
    write_run(tmp_path, "plan", 0, 92.0)
    other = "cifar10/resnet18@plan"
    declare(
        tmp_path,
        runs=5,
        pairs={PAIR: 5},
        reduced={PAIR: "half of it"},
        left_out={other: "no time"},
    )
    analysis = analyse(load_study(tmp_path))
    rows = [(r.pair, r.scale, r.note, r.finished, r.planned) for r in analysis.coverage]
    assert rows == [(PAIR, "reduced", "half of it", 1, 5), (other, "not run", "no time", 0, 0)]
    assert f"* {PAIR}: reduced, 1 of 5 runs (half of it)\n* {other}: not run (no time)\n" in (
        markdown(analysis)
    )
    assert "4 planned runs have not been started" in analysis.warnings


def test_runs_of_other_versions_are_named(tmp_path: Path) -> None:
    study = write_study(tmp_path / "mine")
    write_run(study, "plan", 8, 92.0, versions={"torch": "2.14.0"})
    (warning,) = analyse(load_study(study)).warnings
    assert "1 of 17 runs differs from the rest in their versions" in warning
    assert "plan-0.01-8-0/result.json" in warning


def test_runs_of_another_kind_of_launch_are_named(tmp_path: Path) -> None:
    study = write_study(tmp_path / "mine")  # of a version that did not note it
    write_run(study, "plan", 8, 92.0, launch="ddp")
    write_run(study, "plan", 9, 92.0, launch="ddp")
    assert analyse(load_study(study)).warnings == []
    write_run(study, "plan", 10, 92.0, launch="zero-2")
    (warning,) = analyse(load_study(study)).warnings
    assert "1 of 19 runs differs from the rest in their launch" in warning
    assert "plan-0.01-10-0/result.json: repeat them with one launch config" in warning


def test_what_lies_between_two_attempts_is_not_the_runs_time(tmp_path: Path) -> None:
    file = write_run(tmp_path, "plan", 0, 92.0) / "events.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    late = [{**event, "t": event["t"] + (5000 if event["update"] > 20 else 0)} for event in lines]
    middle = next(i for i, event in enumerate(late) if event["update"] > 20)
    late.insert(middle, {"kind": "resume", "update": 20, "t": 6020.5})
    file.write_text("".join(json.dumps(event) + "\n" for event in late))
    (run,) = load_study(tmp_path).runs
    assert run.loss.seconds[-1] == pytest.approx(39, abs=1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"argv": "train"}, "what a run writes: argv = 'train' is not a list"),
        ({"status": "failed"}, "what a run writes: status = 'failed'"),
        ({"metrics": {"test": {}}}, r"what a run writes: metrics.test of a finished run is empty"),
        ({"metrics": {"test": {"accuracy": float("nan")}}}, "JSON: NaN is no number"),
        ({"timing": {}}, r"what a run writes: timing.train_seconds"),
        ({"recipe_settings": {}}, r"what a run writes: recipe_settings.lr is missing"),
    ],
)
def test_a_result_that_no_run_writes_is_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    write_run(tmp_path, "plan", 0, 92.0, **changes)
    with pytest.raises(ConfigError, match=rf"result.json is not {named}"):
        load_study(tmp_path)


def test_an_event_of_another_version_is_refused(tmp_path: Path) -> None:
    file = write_run(tmp_path, "plan", 0, 92.0) / "events.jsonl"
    file.write_text('{"t": 1, "kind": "start", "update": 0}\n{"t": 2, "update": 3}\n')
    with pytest.raises(ConfigError, match=r"line 2 is no event of this version: it lacks epoch"):
        load_study(tmp_path)


@pytest.mark.parametrize("plan", [{"family": [{"pair": PAIR}]}, {"family": {}}, {"pairs": []}])
def test_a_declaration_that_no_sweep_writes_is_refused(
    tmp_path: Path, plan: dict[str, object]
) -> None:
    write_run(tmp_path, "plan", 0, 92.0)
    declare(tmp_path, **plan)
    with pytest.raises(ConfigError, match=r"study.json is not what a sweep writes: study."):
        load_study(tmp_path)


def test_a_folder_that_is_misspelt_is_guessed(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    with pytest.raises(ConfigError, match=r"dmeo: did you mean .*/demo\?"):
        load_study(tmp_path / "dmeo")


@pytest.mark.parametrize(("second", "noted"), [(99.0, True), (90.2, False), (2.0, True)])
def test_an_interval_beyond_the_possible_scores_is_explained_and_not_cut_off(
    tmp_path: Path, second: float, noted: bool
) -> None:
    write_run(tmp_path, "plan", 0, 90.0)
    write_run(tmp_path, "plan", 1, second)
    analysis = analyse(load_study(tmp_path))
    (row,) = analysis.groups
    assert row.interval is not None
    assert (row.interval[0] < 0 or row.interval[1] > 100) is noted
    table = schedules(analysis)
    assert f"{row.interval[0]:.2f} to {row.interval[1]:.2f}" in table.cells[0]
    assert ("one that reaches above 100 or below 0" in table.caption) is noted
