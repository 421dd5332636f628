"""Runs that extend others: what they are, what they go on from, what is refused. On real digits."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Launch
from toolkit import cli, train
from toolkit.config import RunConfig, from_json, parse, run_folder, run_id, to_json
from toolkit.errors import ConfigError, RunError
from toolkit.records.result import Result
from toolkit.studies.study import Study
from toolkit.training import loop, manifest
from toolkit.training.build import build
from toolkit.training.run import Run

pytestmark = pytest.mark.long

TARGET = ["digits/vit_micro", "--wandb", "off", "--progress", "False", "--updates", "40"]
LAST, BEFORE = "--keep-last-checkpoint", "--keep-before-anneal"


def configured(*flags: str) -> RunConfig:
    return parse([*TARGET, *flags])


def fit(config: RunConfig, runs: Path, *hooks: Callable[[Run], None]) -> Result | None:
    run = build(config, runs)
    run.after_update.extend(hooks)
    try:
        return loop.fit(run)
    finally:
        if hasattr(run, "record"):
            loop.release(run)


def finished(config: RunConfig, runs: Path) -> Result:
    result = fit(config, runs)
    assert result is not None
    return result


def stop_after(update: int) -> Callable[[Run], None]:
    def hook(run: Run) -> None:
        if run.update == update:
            run.ask_to_stop()

    return hook


def fail_after(update: int) -> Callable[[Run], None]:
    def hook(run: Run) -> None:
        if run.update == update:
            raise MemoryError

    return hook


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def readings(folder: Path) -> list[dict[str, Any]]:
    return [event for event in events(folder) if "kind" not in event]


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``runs`` folder with finished runs of 40 updates that may be extended."""
    runs = tmp_path_factory.mktemp("parents") / "runs"
    for flags in (["wsd", BEFORE], ["cosine", LAST], ["cosine"]):
        finished(configured(*flags, *(["--seed", "1"] if flags == ["cosine"] else [])), runs)
    return runs


@pytest.fixture
def runs(parents: Path, tmp_path: Path) -> Path:
    return shutil.copytree(parents, tmp_path / "runs")


def test_wsd_goes_on_from_before_its_anneal_to_the_weights_of_the_longer_run(runs: Path) -> None:
    parent, child = configured("wsd"), configured("wsd", "--extend", "80")
    result, scratch = finished(child, runs), finished(configured("wsd", "--updates", "80"), runs)
    assert run_id(child) not in (run_id(parent), scratch.run_id)
    assert result.final_weights_sha == scratch.final_weights_sha
    assert result.batch_order_sha == scratch.batch_order_sha
    assert result.initial_weights_sha == scratch.initial_weights_sha
    assert result.metrics == scratch.metrics
    assert (result.parent, result.parent_update) == (run_id(parent), 32)
    assert (scratch.parent, scratch.parent_update) == (None, None)
    assert result.recipe_settings == scratch.recipe_settings
    folder = run_folder(child, runs)
    of_both = (readings(folder), readings(run_folder(configured("wsd", "--updates", "80"), runs)))
    one, other = ([{**e, "t": 0} for e in those] for those in of_both)
    assert one == other[32:]
    start = events(folder)[0]
    assert (start["kind"], start["update"], start["parent"]) == ("start", 32, run_id(parent))
    assert json.loads((folder / "config.json").read_text())["parent"] == run_id(parent)


def test_where_the_budget_decides_nothing_it_is_the_longer_run(tmp_path: Path) -> None:
    finished(configured("plateau", LAST), tmp_path)
    result = finished(configured("plateau", "--extend", "60"), tmp_path)
    scratch = finished(configured("plateau", "--updates", "60"), tmp_path)
    assert result.final_weights_sha == scratch.final_weights_sha


def test_an_extended_run_that_was_stopped_goes_on_to_the_same_weights(
    runs: Path, tmp_path: Path
) -> None:
    config = configured("cosine", "--extend", "60", "--save-every", "10")
    whole = finished(config, shutil.copytree(runs, tmp_path / "other"))
    with pytest.raises(MemoryError):  # before its first checkpoint: it begins anew
        fit(config, runs, fail_after(43))
    assert fit(config, runs, stop_after(55)) is None
    parent = run_folder(configured("cosine"), runs)
    shutil.rmtree(parent)  # it has a checkpoint of its own by now
    again = finished(config, runs)
    assert again.final_weights_sha == whole.final_weights_sha
    assert (again.parent, again.parent_update) == (parent.name, 40)
    both = (readings(run_folder(config, place)) for place in (runs, tmp_path / "other"))
    one, other = ([{**event, "t": 0} for event in those] for those in both)
    assert one == other
    assert [e["kind"] for e in events(run_folder(config, runs)) if "facts" in e] == ["start"]


def test_adaptive_goes_on_without_a_search_and_is_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [*TARGET, "adaptive", "--updates", "100"]
    assert cli.main(["train", *flags, LAST]) == 0
    assert cli.main(["train", *flags, "--extend", "150"]) == 0
    said = capsys.readouterr().out
    child, parent = (parse([*flags, *more]) for more in (["--extend", "150"], []))
    assert f"  extends: runs/single/{run_id(parent)}\n" in said
    assert f"extends {run_id(parent)} from update 100\n" in said
    folder = run_folder(child)
    found = [json.loads((run_folder(c) / "result.json").read_text()) for c in (parent, child)]
    assert found[0]["found"]["lr"] == found[1]["found"]["lr"]
    assert found[0]["found"]["updates"] == found[1]["found"]["updates"]
    made = readings(folder)
    assert made[0]["update"] == 101
    assert not {e["action"] for e in made} & {"trial", "restore", "rollback"}
    grown = found[0]["found"]["grown_lr"]
    assert max(e["lr"] for e in made) == pytest.approx(0.5 * grown, rel=0.05)
    assert made[-1]["lr"] < 0.05 * grown
    assert cli.main(["replay", str(folder)]) == 0
    assert "all 50 decisions and LRs of the run are reproduced, bit for bit" in _out(capsys)
    assert cli.main(["explain", str(folder), "--update", "101"]) == 0
    assert "seen       update 101, epoch 5.05" in _out(capsys)
    assert cli.main(["explain", str(folder), "--update", "100"]) == 2
    assert f"goes on from update 100 of the run that it extends, runs/single/{run_id(parent)}" in (
        capsys.readouterr().err
    )


def _out(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_replay_finds_what_was_changed_and_what_is_missing(runs: Path) -> None:
    finished(configured("plateau", LAST), runs)
    config = configured("plateau", "--extend", "50")
    finished(config, runs)
    folder = run_folder(config, runs)
    lines = (folder / "events.jsonl").read_text().splitlines(keepends=True)
    first = next(place for place, line in enumerate(lines) if '"kind"' not in line)
    (folder / "events.jsonl").write_text("".join([*lines[:first], *lines[first + 1 :]]))
    assert cli.main(["replay", str(folder)]) == 1
    start = json.loads(lines[0])
    start["begun"]["course"]["joint"]["first"] = 0.25
    (folder / "events.jsonl").write_text("".join([json.dumps(start) + "\n", *lines[1:]]))
    assert cli.main(["replay", str(folder)]) == 1
    right = start["begun"]["course"]["joint"]
    memory = start["begun"]["memory"]
    for wrong, lr in (("x", 1), ({"made": "x"}, 1), ({}, 1), (right, "x"), (right, None)):
        start["begun"] = {"course": {**start["begun"]["course"], "joint": wrong}, "memory": memory}
        memory["lr"] = lr
        (folder / "events.jsonl").write_text("".join([json.dumps(start) + "\n", *lines[1:]]))
        assert cli.main(["replay", str(folder)]) == 2


def test_a_run_is_extended_twice_and_in_epochs(tmp_path: Path) -> None:
    flags = ["digits/vit_micro", "--wandb", "off", "--progress", "False", "--epochs", "1", "linear"]
    finished(parse([*flags, LAST]), tmp_path)
    once = finished(parse([*flags, "--extend", "1.5", LAST]), tmp_path)
    twice = parse([*flags, "--extend", "1.5", "2", "--rewarm", "0.3"])
    with pytest.raises(RunError, match=r"train it first, with --extend 1\.5 and with --keep-last"):
        fit(twice, tmp_path)  # that of 1.5 was re-warmed to another share
    result = finished(replace(twice, rewarm=0.5), tmp_path)
    assert (once.updates, result.updates, result.epoch) == (30, 40, 2.0)
    assert (result.parent, result.parent_update) == (once.run_id, 30)


def test_a_stopped_run_is_extended_from_before_its_anneal_and_not_from_elsewhere(
    tmp_path: Path,
) -> None:
    for name, flag in (("wsd", BEFORE), ("cosine", LAST)):
        assert fit(configured(name, flag), tmp_path, stop_after(35)) is None
    scratch = finished(configured("wsd", "--updates", "60"), tmp_path)
    result = finished(configured("wsd", "--extend", "60"), tmp_path)
    assert result.final_weights_sha == scratch.final_weights_sha
    said = r"is not that far \(preempted at update 35\): cosine is extended from its end, which --k"
    with pytest.raises(RunError, match=said):
        fit(configured("cosine", "--extend", "60"), tmp_path)
    ended = finished(configured("wsd", BEFORE), tmp_path)  # the parent ends as ever
    assert ended.updates == 40
    assert ended.parent is None


def test_open_ended_is_kept_when_its_anneal_begins(tmp_path: Path) -> None:
    own = ["--schedule.window", "32", "--schedule.no-raises", "--schedule.no-oscillation"]
    flags = ["open-ended", *own, "--updates", "300", "--lr", "1e-7", "--read-every", "1"]
    parent = configured(*flags, BEFORE)
    finished(parent, tmp_path)
    folder = run_folder(parent, tmp_path)
    (asked,) = [event for event in readings(folder) if event["action"] == "anneal"]
    kept = json.loads((folder / "kept/before-anneal/toolkit.json").read_text())
    assert kept["update"] == asked["update"]
    result = finished(configured(*flags, "--extend", "310"), tmp_path)
    assert result.parent_update == asked["update"]
    first = readings(run_folder(configured(*flags, "--extend", "310"), tmp_path))[:20]
    assert {event["lr"] for event in first} == {asked["lr"]}


def test_what_is_kept_stays_and_is_not_counted_among_checkpoints(runs: Path) -> None:
    for name, kept in (("wsd", "before-anneal"), ("cosine", "last")):
        folder = run_folder(configured(name), runs)
        assert [path.name for path in (folder / "kept").iterdir()] == [kept]
        assert not (folder / "checkpoints").exists()
        assert train.train(configured(name), runs=runs) == 0  # without the flag
        assert (folder / "kept" / kept).is_dir()
    assert run_id(configured("wsd", BEFORE)) == run_id(configured("wsd"))
    assert run_id(configured("cosine", LAST)) == run_id(configured("cosine"))


def test_a_flag_that_comes_too_late_is_said(tmp_path: Path) -> None:
    assert fit(configured("wsd"), tmp_path, stop_after(35)) is None
    result = finished(configured("wsd", BEFORE), tmp_path)
    assert result.notes == ("the anneal has begun: there is no state from before it to keep",)


def test_what_is_kept_is_made_again_by_a_run_that_goes_on_from_before(tmp_path: Path) -> None:
    assert fit(configured("wsd"), tmp_path, stop_after(20)) is None
    result = finished(configured("wsd", BEFORE, "--read-every", "1"), tmp_path)
    assert result.notes == ()
    assert finished(configured("wsd", "--extend", "60"), tmp_path).parent_update == 32


def test_a_reading_is_the_last_before_the_anneal(tmp_path: Path) -> None:
    finished(configured("wsd", BEFORE, "--read-every", "5"), tmp_path)
    longer = finished(configured("wsd", "--read-every", "5", "--extend", "60"), tmp_path)
    assert longer.parent_update == 30
    with pytest.raises(ConfigError, match="the anneal begins before the first reading"):
        build(configured("wsd", BEFORE, "--read-every", "50"), tmp_path)


def damage(kept: Path) -> None:
    (kept / "optimizer.pt").write_bytes(b"")


def be_older(kept: Path) -> None:
    text = (kept / "manifest.json").read_text()
    (kept / "manifest.json").write_text(text.replace('"format": 1', '"format": 0'))


def be_anothers(kept: Path) -> None:
    other = next(path for path in kept.parents[2].glob("*/kept/before-anneal"))
    shutil.rmtree(kept)
    shutil.copytree(other, kept)


def be_earlier(kept: Path) -> None:
    (kept / "manifest.json").unlink()
    manifest.write(kept, kept.parents[1].name, 39, "ddp", 1)


def diverge(kept: Path) -> None:
    result = json.loads((kept.parents[1] / "result.json").read_text())
    result |= {"status": "diverged", "metrics": {"test": {}}}
    (kept.parents[1] / "result.json").write_text(json.dumps(result))
    shutil.rmtree(kept)


def vanish(kept: Path) -> None:
    shutil.rmtree(kept.parents[1])


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (damage, 1, "cannot be gone on from: optimizer.pt has 0 bytes"),
        (be_older, 1, "cannot be gone on from: manifest.json is not as it was written"),
        (be_anothers, 1, "cannot be gone on from: it is of the run "),
        (be_earlier, 1, "cannot be gone on from: it is of update 39, not 40; make it once more"),
        (diverge, 2, "diverged, there is nothing to go on with"),
        (vanish, 2, "train it first, without --extend and with --keep-last-checkpoint"),
    ],
)
def test_a_run_that_cannot_be_gone_on_from_is_one_line(
    change: Callable[[Path], None],
    code: int,
    said: str,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = configured("cosine", "--extend", "50")
    change(run_folder(configured("cosine"), runs) / "kept/last")
    monkeypatch.chdir(runs.parent)
    assert cli.main(["train", *TARGET, "cosine", "--extend", "50"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert run_folder(config, runs).exists() == (code == 1)


def test_a_run_that_stopped_early_is_not_extended_and_not_asked_for_once_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    often = ["constant", "--lr", "1", "--read-every", "2", "--eval-every", "2", "--patience", "1"]
    parent = finished(configured(*often, LAST), tmp_path / "runs")
    assert parent.selected is not None
    assert parent.selected.stopped_early
    assert parent.updates < 40
    assert train.main([*TARGET, *often, "--extend", "60", "--output-dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"was spent at update {parent.updates}, so no larger budget" in said
    assert "--fresh" not in said


def test_a_run_that_has_kept_nothing_says_what_keeps_it(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.train(configured("cosine", "--seed", "1", LAST), runs=runs) == 0
    assert "has kept nothing to extend: --fresh makes it once more" in _out(capsys)
    assert train.train(configured("cosine", LAST), runs=runs) == 0
    assert "nothing to extend" not in _out(capsys)
    said = "has kept nothing to go on with: cosine is extended from its end, which --keep-last-ch"
    with pytest.raises(ConfigError, match=said):
        train.train(configured("cosine", "--seed", "1", "--extend", "50"), runs=runs)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["cosine", "--extend", "40"], "extend = 40: it is the new budget in all, in updates"),
        (["cosine", "--extend", "60", "50"], "extend = 50: .* above the old one, 60"),
        (["cosine", "--extend", "60.5"], "in updates, which are whole, and must be above"),
        (["cosine", "--extend", "nan"], "extend = nan"),
        (["cosine", "--rewarm", "0.3"], "rewarm = 0.3: there is no extend"),
        (["cosine", "--extend", "60", "--rewarm", "0"], "rewarm = 0: it must be above 0"),
        (["wsd", "--extend", "60", "--rewarm", "0.3"], "rewarm = 0.3: wsd is extended from before"),
        (["cosine", BEFORE], "keep_before_anneal: cosine holds no LR before an anneal"),
        (["wsd", LAST], "keep_last_checkpoint: wsd is extended from before its anneal"),
        (["cosine", LAST, "--save-every", "0"], "keep_last_checkpoint and save_every = 0 contrad"),
    ],
)
def test_what_cannot_be_meant_is_refused(flags: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configured(*flags)


def test_a_budget_in_epochs_that_rounds_to_the_same_updates_is_refused(tmp_path: Path) -> None:
    flags = ["digits/vit_micro", "--epochs", "1", "linear", "--extend", "1.001"]
    with pytest.raises(ConfigError, match=r"extend = 1.001: that is 20 updates, and was 20"):
        build(parse(flags), tmp_path)


def test_every_part_is_in_the_id_and_survives_the_file() -> None:
    budgets = (["60"], ["61"], ["60", "70"])
    children = [configured("cosine", "--extend", *budget) for budget in budgets]
    children += [configured("cosine", "--extend", "60", "--rewarm", "0.3")]
    children += [configured("linear", "--extend", "60"), configured("cosine")]
    assert len({run_id(child) for child in children}) == len(children)
    for child in children:
        assert from_json(json.loads(json.dumps(to_json(child)))) == child


def test_studies_are_of_runs_from_scratch(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = configured("cosine", "--extend", "60", "--study", "mine")
    with pytest.raises(ConfigError, match="an extended run is not one from scratch"):
        Study("mine", "Which?", (child,))
    said = {"compare": "--extend is for toolkit train", "find": "unknown flag '--extend'"}
    for verb, words in said.items():
        assert cli.main([verb, "digits/vit_micro", "--extend", "60"]) == 2
        assert words in capsys.readouterr().err
    monkeypatch.chdir(runs.parent)
    assert cli.main(["train", *TARGET, "cosine", "--extend", "60"]) == 0
    folder = run_folder(configured("cosine", "--extend", "60"), Path("runs"))
    assert cli.main(["report", "runs/single"]) == 0
    left_out = f"1 run left out that extends another, such as {folder}"
    assert left_out in (runs / "single/report/report.md").read_text()
    assert folder.name not in (runs / "single/report/results.csv").read_text()


@pytest.mark.full
@pytest.mark.ranks
def test_more_ranks_go_on_with_the_same_updates(launch: Launch, tmp_path: Path) -> None:
    flags = ["-m", "toolkit.train", *TARGET, "cosine", "--precision", "fp64"]
    config = configured("cosine", "--precision", "fp64", "--extend", "60", "--study", "one")
    finished(configured("cosine", "--precision", "fp64", "--study", "one", LAST), tmp_path / "runs")
    shutil.copytree(tmp_path / "runs/one", tmp_path / "runs/two")
    finished(config, tmp_path / "runs")
    done = launch("cpu2", *flags, "--extend", "60", "--study", "two")
    assert done.returncode == 0, done.stderr
    folders = [run_folder(replace(config, study=s), tmp_path / "runs") for s in ("one", "two")]
    results = [(json.loads((f / "result.json").read_text()), readings(f)) for f in folders]
    (one, losses), (two, others) = results
    assert (one["world_size"], two["world_size"]) == (1, 2)
    assert one["batch_order_sha"] == two["batch_order_sha"]
    assert [e["loss"] for e in others] == pytest.approx([e["loss"] for e in losses], rel=1e-9)


@pytest.mark.full
@pytest.mark.ranks
@pytest.mark.parametrize(
    ("launched", "words"), [("zero2", "DeepSpeed's ZeRO-2"), ("fsdp", "FSDP2")]
)
def test_in_parts_it_is_the_longer_run_and_another_launch_is_refused(
    launch: Launch, tmp_path: Path, launched: str, words: str
) -> None:
    flags = ["-m", "toolkit.train", *TARGET, "wsd", "--global-batch", "256", "--micro-batch", "64"]
    for more in ([BEFORE], ["--extend", "60"], ["--updates", "60"]):
        done = launch(launched, "--num_processes", "2", *flags, *more)
        assert done.returncode == 0, done.stderr
    folders = [run_folder(parse([*flags[2:], *more]), tmp_path / "runs")
               for more in (["--extend", "60"], ["--updates", "60"])]  # fmt: skip
    child, scratch = (json.loads((folder / "result.json").read_text()) for folder in folders)
    assert child["final_weights_sha"] == scratch["final_weights_sha"]
    done = launch("cpu", *flags, "--extend", "70")
    assert f"was written under {words}, this is DDP or one process" in done.stderr
