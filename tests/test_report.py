"""The report: numbers, files, and every folder that cannot be reported on."""

import json
import re
import shlex
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from tests.studies import result_json, write_large_study, write_run, write_study
from toolkit.config import parse, run_id, to_json
from toolkit.errors import ConfigError
from toolkit.records.result import Result
from toolkit.report import figures, rate_tables
from toolkit.report.__main__ import main, write_report
from toolkit.report.figure_data.curves import corners, rate_curves, stack
from toolkit.report.files import markdown, run_table
from toolkit.report.html.page import commands, render
from toolkit.report.marks import legend
from toolkit.report.numbers.analyse import analyse
from toolkit.report.numbers.load import load_study
from toolkit.report.numbers.runs import Curve, RunRecord
from toolkit.report.text import verdict_sentences
from toolkit.studies import shipped
from toolkit.task import parse_target


def page_of(study: Path) -> str:
    """The page alone: the figures beside it take longer to draw."""
    return render(analyse(load_study(study)))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "mine")


def test_the_numbers_are_those_of_the_runs(study: Path) -> None:
    analysis = analyse(load_study(study))
    plan = np.array([92.0 + 0.1 * seed for seed in range(8)])
    cosine = np.array([90.0 + 0.1 * seed * (-1) ** seed for seed in range(8)])
    assert analysis.metric == "accuracy"
    rows = {row.group.schedule: row for row in analysis.groups}
    assert rows["plan"].mean == pytest.approx(plan.mean())
    assert rows["plan"].actions == (2, 2)
    assert rows["cosine"].seconds == pytest.approx(13.5)
    (row,) = analysis.family
    assert row.judged is not None
    reference = scipy_stats.ttest_rel(plan, cosine).confidence_interval(0.95)
    found = (row.judged.paired.low, row.judged.paired.high)
    assert found == pytest.approx((reference.low, reference.high), abs=1e-9)
    assert (row.judged.verdict, row.seconds_ratio) == ("better", pytest.approx(1.0))
    assert "plan is better than cosine by 2.40 points" in verdict_sentences(analysis)[0]


@pytest.mark.long
def test_all_files_are_written(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(study)]) == 0
    printed = capsys.readouterr().out
    assert "plan - cosine" in printed
    report = study / "report"
    page = (report / "index.html").read_text()
    assert (report / "index.html").stat().st_size < 200_000
    assert "http://" not in page
    assert "https://" not in page
    table = pd.read_csv(report / "results.csv")
    assert pd.read_parquet(report / "results.parquet").shape == table.shape
    assert len(table) == 16
    assert table.groupby("schedule").accuracy.mean()["plan"] == pytest.approx(92.35)
    text = (report / "report.md").read_text()
    assert "Use plan: it is better than cosine by 2.40 points of accuracy" in text
    assert len(text.split()) < 500
    figures = {file.name for file in (report / "figures").iterdir()}
    assert {"differences.png", "differences.svg", "differences.pdf"} <= figures
    assert {file.rpartition(".")[2] for file in figures} == {"png", "svg", "pdf"}


@pytest.mark.long
def test_equal_runs_give_equal_bytes(study: Path) -> None:
    files = ["index.html", "report.md", "results.csv", "figures/final-1.svg"]
    files += ["figures/differences.pdf", "figures/differences.svg"]
    folder = write_report(study).parent
    first = [(folder / name).read_bytes() for name in files]
    write_report(study)
    assert [(folder / name).read_bytes() for name in files] == first


def test_names_are_text(tmp_path: Path) -> None:
    hostile = '</script><script>alert("x")</script>'
    study = tmp_path / "mine"
    for seed in range(2):
        write_run(study, hostile, seed, 90.0, notes=[hostile], reason=hostile)
    page = page_of(study)
    body, _, script = page.partition("<script>")
    assert body.count("&lt;script&gt;alert") > 10
    assert "alert" not in script
    assert script.count("</script>") == 1


def test_a_name_with_dollars_is_no_formula(tmp_path: Path) -> None:
    study = tmp_path / "mine"
    for seed in range(2):
        write_run(study, "my/$x_$/s.py:Mine", seed, 90.0, model="m$x_$")
    assert "my/$x_$/s.py:Mine" in page_of(study)


def test_the_page_says_where_the_runs_were_made_and_by_what(tmp_path: Path) -> None:
    study = tmp_path / "mine"
    place = {"processor": "Abacus 3", "cores": 2, "threads": 1}
    for seed in range(3):
        code = {"commit": "c0ffee" if seed else "decade", "uncommitted": ["toolkit/lr.py"]}
        settings = {"window": 5}
        write_run(study, "plan", seed, 90.0, machine=place, code=code, schedule_config=settings)
    page = page_of(study)
    assert "Machine: processor Abacus 3, cores 2, threads 1." in page
    assert "The toolkit&#39;s code of 2 runs: commit <code>c0ffee</code>" in page.replace(
        "'", "&#39;"
    )
    assert "window 5" in page
    assert "once an epoch" in page  # the rule in words
    said = analyse(load_study(study)).warnings
    assert any("1 of 3 runs differs from the rest in their commit" in text for text in said)
    assert any("not that of a commit: toolkit/lr.py" in text for text in said)


def test_a_reader_learns_what_was_scored_on_how_much_and_whence_the_rates_are(
    tmp_path: Path,
) -> None:
    sizes = {"train": 7_654_321, "validation": 200, "test": 1_234}
    for seed in range(6):
        for schedule in ("plan", "cosine"):
            metrics = {"test": {"f1": 80.0 + seed}, "validation": {"f1": 79.0}}
            changes: dict[str, Any] = {"metrics": metrics, "samples": sizes, "argv": ["sweep.py"]}
            write_run(tmp_path, schedule, seed, 0.0, **changes)
    plan = {**shipped.headline_cpu().to_json(), "family": [], "pairs": {}, "left_out": {}}
    plan["source"] = "my studies.py:mine"
    (tmp_path / "study.json").write_text(json.dumps(plan))
    page, text = page_of(tmp_path), markdown(analyse(load_study(tmp_path)))
    for told in (page, text):
        assert "the best for cosine in headline_cpu-tuning" in told
        assert "mean of seeds 1000 and 1001." in told
    assert "; samples: train 7,654,321, validation 200, test 1,234;" in page
    assert "``" not in page.partition("<script")[0]
    assert "python -m toolkit.sweep &#39;my studies.py:mine&#39;" in page
    assert "the highest mean F1 is 82.50" in page
    assert "f1" not in text


def test_a_trial_does_not_push_the_training_off_the_axis(tmp_path: Path) -> None:
    study = tmp_path / "mine"
    for seed in range(2):
        folder = write_run(study, "plan", seed, 90.0)
        lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        for event in lines[:5]:
            event |= {"lr": 1000.0, "action": "trial"}
        lines[4]["action"] = "restore"
        (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in lines))
        write_run(study, "cosine", seed, 90.0, lr=0.01)
    analysis = analyse(load_study(study))
    marks = legend(["plan", "cosine"])
    (panel,) = rate_curves(analysis.groups, analysis.members, marks).panels
    assert panel.y.limits is not None
    low, high = panel.y.limits
    assert low < 0.01 < high < 0.2


@pytest.mark.long
def test_a_diverged_run_scores_zero_and_is_named(study: Path) -> None:
    folder = write_run(
        study, "plan", 8, 0, status="diverged", metrics={"test": {}, "validation": {}}
    )
    write_run(study, "cosine", 8, 90.0, batch_order_sha="a longer run")
    analysis = analyse(load_study(study))
    row = next(row for row in analysis.groups if row.group.schedule == "plan")
    assert (row.scores[8], row.diverged) == (0.0, 1)
    assert folder.name in page_of(study)


def test_an_unfinished_run_is_named(study: Path) -> None:
    folder = study / "half"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "state.json").write_text('{"status": "running"}')
    assert "half (running)" in page_of(study)


def test_runs_of_a_seed_that_did_not_start_alike_are_not_paired(study: Path) -> None:
    for key in ("initial_weights_sha", "batch_order_sha"):
        file = study / "plan-0.01-3-0" / "result.json"
        before = file.read_text()
        file.write_text(json.dumps(json.loads(before) | {key: "another"}))
        with pytest.raises(ConfigError, match=rf"plan-0.01-3-0.*cosine-0.01-3-0.*another {key}"):
            analyse(load_study(study))
        file.write_text(before)


@pytest.mark.long
def test_seeds_without_a_partner_are_said_and_left_out(study: Path) -> None:
    write_run(study, "plan", 11, 50.0)
    (row,) = analyse(load_study(study)).family
    assert row.missing == (11,)
    assert row.judged is not None
    assert row.judged.paired.n == 8
    assert "Left out, as only one of the two has them: seeds 11." in page_of(study)


def test_one_seed_has_numbers_and_no_interval(tmp_path: Path) -> None:
    study = tmp_path / "mine"
    write_run(study, "plan", 0, 91.0)
    write_run(study, "cosine", 0, 90.0)
    family = [{"pair": "digits/vit_micro@field", "lr": 0.01, "candidate": "plan"}]
    family[0]["baseline"] = "cosine"
    (study / "study.json").write_text(json.dumps({"family": family}))
    analysis = analyse(load_study(study))
    assert "1 common seed: no interval, no verdict" in verdict_sentences(analysis)[0]
    assert all(row.interval is None for row in analysis.groups)
    assert "one seed" in page_of(study)


def test_without_a_plan_everything_is_exploratory(study: Path) -> None:
    (study / "study.json").unlink()
    assert "everything below is exploratory" in verdict_sentences(analyse(load_study(study)))[0]
    write_report(study)


def test_mixed_versions_are_said(study: Path) -> None:
    write_run(study, "plan", 8, 92.0, versions={"torch": "2.14.0"})
    assert "The runs are of different versions" in page_of(study)


def test_an_arm_is_a_group_of_its_own(study: Path) -> None:
    write_run(study, "plan", 0, 92.0, arm=1)
    assert "plan (arm 1)" in page_of(study)


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda s: (s / "plan-0.01-0-0/result.json").write_text("{"),
            "result.json is not JSON: .*fresh",
        ),
        (lambda s: (s / "plan-0.01-0-0/result.json").write_text("[]"), "is not a JSON object"),
        (lambda s: (s / "plan-0.01-0-0/result.json").write_text("{}"), "result.json lacks status"),
        (
            lambda s: (s / "plan-0.01-0-0/events.jsonl").write_text('{"a'),
            "line 1 is not JSON",
        ),
        (lambda s: (s / "plan-0.01-0-0/events.jsonl").unlink(), "events.jsonl cannot be read"),
        (
            lambda s: change(s / "plan-0.01-0-0/config.json", schedule="plan"),
            "config.json is not the configuration of a run: config.schedule = 'plan' is not an obj",
        ),
        (
            lambda s: change(s / "plan-0.01-0-0/result.json", epoch=5e-324),
            "result.json is not what a run writes: 40 updates in 4.94066e-324 epochs",
        ),
        (lambda s: (s / "study.json").write_text("{"), r"study.json is not JSON: .*toolkit sweep"),
        (lambda s: (s / "plan-0.01-0-0").rename(s / "x") and write_run(s, "plan", 0, 9.0), "both"),
    ],
)
def test_a_broken_file_is_named_in_one_line(
    study: Path, break_it, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it(study)
    assert main([str(study)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    with pytest.raises(ConfigError, match=message):
        load_study(study)


def test_a_folder_without_runs_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no folder .*nowhere: run the study first"):
        load_study(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="holds no finished run"):
        load_study(tmp_path)


def test_loss_curves_are_averaged_honestly() -> None:
    numbers = [float(i) for i in range(1000)]
    table = stack([Curve(numbers, numbers, numbers, numbers)], binned=True)
    assert table is not None
    assert table["value"].shape == (1, 100)
    weights = np.diff(np.append(np.linspace(0, 1000, 101).astype(int)[:-1], 1000))
    assert np.average(table["value"][0], weights=weights) == pytest.approx(499.5)


def test_jumps_of_the_rate_stay_jumps() -> None:
    numbers = [float(i) for i in range(1000)]
    rates = [1.0] * 333 + [0.8] * 400 + [1.2] * 267
    kept = corners(Curve(numbers, numbers, numbers, rates))
    assert len(kept.value) < 150
    assert {332.0, 333.0, 732.0, 733.0, 0.0, 999.0} <= set(kept.update)


def test_commands_can_be_repeated() -> None:
    own = ["digits/vit_micro", "--study", "a b"]
    for argv in (["x/train.py", *own], ["bin/toolkit", "train", *own]):
        run = RunRecord(Path(), Result.from_json(result_json(argv=argv), Path()))
        assert commands([run]) == ["python -m toolkit.train digits/vit_micro --study 'a b'"]


MANY_RUNS = [pytest.param(name, marks=pytest.mark.full) for name in ("headline", "lr_robustness")]


@pytest.mark.parametrize("name", ["demo", "plan", "headline_cpu", *MANY_RUNS])
@pytest.mark.long
def test_the_command_of_a_run_of_a_sweep_is_that_very_run(name: str) -> None:
    configs = shipped.load(name).configs
    for config in (one for one in configs if one.seed == configs[0].seed):
        stored = json.loads(json.dumps(to_json(config)))
        target = parse_target(config.target)
        settings = {"sees": config.sees, "recipe_settings": stored["recipe"]}
        told = {**target._asdict(), **settings, "arm": config.arm, "argv": ["x/sweep.py", name]}
        told["schedule_config"] = stored["schedule"]["fields"]
        result = result_json(stored["schedule"]["name"], config.seed, **told)
        (text,) = commands([RunRecord(Path(), Result.from_json(result, Path()), stored)])
        python, module, program, *arguments = shlex.split(text)
        assert (python, module, program) == ("python", "-m", "toolkit.train")
        assert run_id(parse(arguments)) == run_id(config)


def test_runs_that_differ_in_their_seed_alone_share_a_command(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / "study", "plan", seed, 90.0)
    argv = ["somewhere/train.py", "digits/vit_micro", "--seed", "5"]
    write_run(tmp_path / "study", "cosine", 5, 90.0, argv=[*argv, "--arm", "0"])
    one, looped = sorted(commands(load_study(tmp_path / "study").runs), key=len)
    assert one == "python -m toolkit.train digits/vit_micro --seed 5 --arm 0"
    names = write_run(
        tmp_path / "odd", "plan", 7, 90.0, argv=["x/train.py", "my/$seed.py/m"]
    ).parent
    assert commands(load_study(names).runs) == ["python -m toolkit.train 'my/$seed.py/m'"]
    assert looped == (
        "for seed in 0 1 2; do python -m toolkit.train digits/vit_micro --seed $seed; done"
    )


@pytest.mark.slow
def test_hundreds_of_runs_take_seconds(tmp_path: Path) -> None:
    study = write_large_study(tmp_path / "large", 250)
    begin = time.process_time()
    analysis = analyse(load_study(study))
    assert time.process_time() - begin < 30 / 4
    assert len(analysis.study.runs) == 250
    assert write_report(study).stat().st_size < 1_500_000


def test_data_in_the_markdown_is_no_markup(study: Path) -> None:
    name = "`*<script>|x</script>`"
    for seed in range(2):
        found = {"base_lr": 0.5, "lr": 0.5, "updates": 1, "trials": 1, "grown_lr": 1, "seconds": 1}
        changes: dict[str, Any] = {"model": name, "notes": ["a ``` b"], "argv": ["sweep.py"]}
        write_run(study, "own.py:A", seed, 80.0, lr=0.5, found=found, **changes)
    plan = json.loads((study / "study.json").read_text())
    plan["question"] = "Is <img src=x onerror=alert(1)> [it](http://x) so?\n# Not a heading"
    plan["command"] = "toolkit compare 'a ``` b'"
    (study / "study.json").write_text(json.dumps(plan))
    text = markdown(analyse(load_study(study)))
    fence = next(line for line in text.splitlines() if line.startswith("```"))
    assert len(fence) > 3
    prose, _, rest = text.partition(f"\n{fence}\n")
    assert "a ``` b" in rest.partition(f"\n{fence}\n")[0]
    prose += rest.partition(f"\n{fence}\n")[2]
    tables = [line for line in prose.splitlines() if line.startswith("| ")]
    assert any("script" in line for line in tables)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {8, 11}
    text_alone = "\n".join(
        line for line in prose.splitlines() if not re.match(r"\| |\|( --- \|)+$", line)
    )
    assert not re.search(r"(?<!\\)\|", text_alone)
    assert not re.search(r"(?<!\\)[`<\[]", prose)
    assert r"\<img src=x onerror=alert(1)\> \[it\](http://x) so? # Not a heading" in prose


def test_figures_of_a_single_seed_are_drawn(tmp_path: Path) -> None:
    """The rounded mean of one seed lies outside its interval, which has no length."""
    study = tmp_path / "one"
    write_run(study, "cosine", 0, 90.123456789)
    write_run(study, "plan", 0, 100 / 3)
    figures.write_figures(analyse(load_study(study)), tmp_path / "figures")
    assert (tmp_path / "figures/final-1.png").exists()


def test_settings_are_compared_as_they_were_carried_out(tmp_path: Path) -> None:
    study = tmp_path / "mixed"
    recipe = {"lr": 0.01, "epochs": 2.0, "updates": None}
    write_run(study, "cosine", 0, 90.0, recipe_settings=recipe)
    write_run(study, "cosine", 1, 90.0, recipe_settings={**recipe, "epochs": None, "updates": 40})
    own = write_run(study, "plateau", 0, 90.0, sees="validation")
    change(own / "config.json", eval_every=20)
    write_run(study, "plateau", 1, 90.0, sees="validation")  # once an epoch, which has 20
    assert len(load_study(study).runs) == 4
    write_run(study, "cosine", 2, 90.0, recipe_settings={**recipe, "epochs": 1.0})
    with pytest.raises(ConfigError, match="differ in budget"):
        load_study(study)


def test_the_lr_that_searches_found_is_told_by_pair_and_base_lr(tmp_path: Path) -> None:
    study = tmp_path / "mine"
    for seed, lr in enumerate((0.01, 0.02, 0.04)):
        found = {"base_lr": 1e-4, "lr": lr, "updates": 20 + seed, "trials": 5}
        found |= {"grown_lr": 2 * lr, "seconds": 1.5}
        write_run(study, "adaptive", seed, 90.0 + seed, lr=1e-4, found=found)
        write_run(study, "cosine", seed, 80.0 + seed, lr=1e-4)
    analysis = analyse(load_study(study))
    (row,) = rate_tables.found(analysis).cells
    assert row == [
        *("adaptive", "0.0001", "0.02", "0.01 to 0.04"),
        *("0.04", "21", "5", "1.5", "3"),
    ]
    assert "| 0.0001 | 0.02 | 0.01 to 0.04 | 0.04 | 21 |" in markdown(analysis)
    assert '<td data-label="range">0.01 to 0.04</td>' in render(analysis)
    runs = run_table(analysis)
    assert list(runs[runs.schedule == "adaptive"].found_lr) == [0.01, 0.02, 0.04]
    assert runs[runs.schedule == "cosine"].found_lr.isna().all()
    assert {"found_base_lr", "found_updates", "found_trials", "found_seconds"} <= {*runs.columns}


def test_without_a_search_there_is_no_table_of_what_was_found(study: Path) -> None:
    analysis = analyse(load_study(study))
    assert not rate_tables.found(analysis).rows
    assert "The LR found" not in render(analysis)
    assert "found" not in " ".join(run_table(analysis).columns)
