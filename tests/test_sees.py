"""Schedules that see the validation loss instead of the training loss."""

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import toolkit
from tests.conftest import Launch
from tests.studies import write_run
from toolkit import cli
from toolkit.config import from_json, parse, run_id, to_json
from toolkit.errors import ConfigError, RunError
from toolkit.records.config_file import check_folder
from toolkit.records.events import decision_of, decision_to_json, entrant, event_of
from toolkit.records.mirror_rows import decision, describe, values
from toolkit.report.html.page import commands
from toolkit.report.numbers.analyse import analyse
from toolkit.report.numbers.load import load_study
from toolkit.schedules.adaptive import validation
from toolkit.studies import shipped
from toolkit.training import loop
from toolkit.training.batches import evaluation_shards
from toolkit.training.build import build
from toolkit.training.evaluation import validation_reading
from toolkit.training.run import Run

RULE = ["schedule:plateau", "--schedule.every", "1", "--schedule.patience", "0"]
RULE += ["--schedule.threshold", "0.3"]
FLAGS = ["--sees", "validation", "--eval-every", "10", "--wandb", "off", "--progress", "False"]
SHORT = ["--recipe.updates", "60", "--recipe.eval-batch", "50"]


def events_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    built = build(parse(["digits/vit_micro", *SHORT, *FLAGS, *RULE]), tmp_path_factory.mktemp("r"))
    loop.fit(built)
    loop.release(built)
    return built


def test_it_decides_on_validation_alone_and_from_the_next_update_on(run: Run) -> None:
    events = events_of(run.folder)
    seen = [event for event in events if event.get("kind") == "validation_reading"]
    read = {event["update"]: event for event in events if "kind" not in event}
    assert [event["update"] for event in seen] == [10, 20, 30, 40, 50, 60]
    assert {event["count"] for event in seen} == {len(run.splits.validation)}
    assert {event["action"] for event in read.values()} == {"hold"}
    cuts = [event["update"] for event in seen if event["action"] == "cut"]
    assert cuts
    for event in seen[:-1]:
        before, after = read[event["update"]]["lr"], read[event["update"] + 1]["lr"]
        assert event["lr"] == before
        assert after == pytest.approx(before * (0.1 if event["update"] in cuts else 1))


def test_the_loss_is_the_mean_over_the_split_in_evaluation_mode(run: Run) -> None:
    model = toolkit.trained(run.folder).eval()
    split = run.splits.validation
    batch = split.__getitems__(list(range(len(split))))
    with torch.no_grad():
        logits = model(run.task.normalise(batch["image"], model))  # type: ignore[attr-defined]
    last = [e for e in events_of(run.folder) if e.get("kind") == "validation_reading"][-1]
    expected = F.cross_entropy(logits, batch["label"]).item()
    assert last["loss"] == pytest.approx(expected, rel=1e-5)


def test_it_is_replayed_and_explained(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["replay", str(run.folder)]) == 0
    assert "all 6 decisions and LRs of the run" in capsys.readouterr().out
    cut = next(event for event in events_of(run.folder) if event.get("action") == "cut")
    assert cli.main(["explain", str(run.folder), "--update", str(cut["update"])]) == 0
    assert "decided    cut: " in capsys.readouterr().out


def test_the_report_calls_it_by_what_it_sees(run: Run, tmp_path: Path) -> None:
    study = load_study(run.folder.parent)
    record = study.runs[0]
    assert record.group.schedule == "plateau (sees validation)"
    assert [action.action for action in record.actions] == [
        event["action"] for event in events_of(run.folder) if event.get("action") == "cut"
    ]
    swept = write_run(tmp_path, "plateau", 0, 90.0, sees="validation", argv=["sweep.py"])
    swept = swept.rename(tmp_path / "seeing")
    (swept / "config.json").write_text(json.dumps(to_json(run.config)))
    write_run(tmp_path, "plateau", 0, 90.0, final_weights_sha="another")
    both = load_study(tmp_path)
    assert {one.group.schedule for one in both.runs} == {"plateau", "plateau (sees validation)"}
    (line,) = [line for line in commands(both.runs) if "sees" in line]
    assert "--sees validation --read-every 1 --eval-every 10" in line
    assert not any("--sees training" in line for line in commands(both.runs))
    assert {row.group.schedule for row in analyse(both).groups} == {
        *("plateau", "plateau (sees validation)")
    }


def test_wandb_is_told(run: Run) -> None:
    described = describe(json.loads((run.folder / "config.json").read_text()))
    assert described["schedule"] == "plateau (sees validation)"
    seen = [e for e in events_of(run.folder) if e.get("kind") == "validation_reading"]
    assert values(event_of(seen[0], "")) == {"validation/loss": seen[0]["loss"]}
    cut = next(event for event in seen if event["action"] == "cut")
    row = decision(event_of(cut, ""))
    assert row == {"lr": cut["lr"], **decision_to_json(decision_of(cut))}
    held = (event for event in seen if event["action"] == "hold")
    assert not any(decision(event_of(event, "")) for event in held)


def test_the_pass_that_the_schedule_costs_is_training_time(tmp_path: Path) -> None:
    run = build(parse(["digits/vit_micro", "--recipe.updates", "2", *FLAGS, *RULE]), tmp_path)
    loss, slept = run.task.loss, []

    def slow(model: Any, batch: Any) -> Any:
        if not model.training:
            slept.append(0.2)
            time.sleep(slept[-1])
        return loss(model, batch)

    run.task.loss = slow  # type: ignore[method-assign]
    try:
        result = loop.fit(run)
    finally:
        del run.task.loss
        loop.release(run)
    assert result is not None
    assert slept  # at the end alone, which has an evaluation for the metrics, too
    assert result.timing.spans["reading"] >= sum(slept)
    assert result.timing.train_seconds >= result.timing.spans["reading"]
    assert result.timing.spans["evaluation"] > 0


@pytest.mark.ranks
def test_two_ranks_see_the_same_loss_as_one(launch: Launch, tmp_path: Path, run: Run) -> None:
    """7 batches, the last of them short: one rank has a batch more than the other."""
    exact = ["--recipe.precision", "fp64", "--recipe.eval-batch", "30", "--recipe.updates", "30"]
    command = ["digits/vit_micro", *FLAGS, *exact, *RULE]
    assert len(run.splits.validation) == 200
    done = launch("cpu2", "-m", "toolkit.train", *command)
    assert done.returncode == 0, done.stderr
    two = events_of(next(tmp_path.glob("runs/single/*/events.jsonl")).parent)
    alone = build(parse(command), tmp_path / "alone")
    loop.fit(alone)
    loop.release(alone)
    one = events_of(alone.folder)
    assert alone.folder.name == next(tmp_path.glob("runs/single/*")).name
    pairs = [
        [event for event in events if event.get("kind") == "validation_reading"]
        for events in (one, two)
    ]
    assert len(pairs[0]) == 3
    for a, b in zip(*pairs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-12)
        assert (a["count"], a["lr"], a["action"]) == (b["count"], b["lr"], b["action"])


class Numbered:
    def __init__(self, count: int, lengths: bool) -> None:
        self.count = count
        if lengths:
            self.lengths = np.random.default_rng(count).integers(1, 9, count)

    def __len__(self) -> int:
        return self.count


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 7, 20, 61])
def test_ranks_share_a_split_without_a_sample_twice(count: int, ranks: int, lengths: bool) -> None:
    split = Numbered(count, lengths)
    shards = [list(evaluation_shards(split, 10, rank, ranks)) for rank in range(ranks)]  # type: ignore[arg-type]
    assert len({len(shard) for shard in shards}) == 1
    assert all(ids for shard in shards for ids, _ in shard)
    owned = [sample for shard in shards for ids, own in shard if own for sample in ids]
    assert sorted(owned) == list(range(count))


def test_it_is_another_experiment_and_the_default_is_the_old_one(tmp_path: Path) -> None:
    default, other = (parse(["digits/vit_micro", "--sees", sees]) for sees in SEES)
    assert run_id(default) == "a32bfbbb11cfc83f"
    assert run_id(other) != run_id(default)
    stored = json.loads(json.dumps(to_json(default)))
    stored.pop("sees")  # as older versions wrote it
    (tmp_path / "config.json").write_text(json.dumps(stored))
    check_folder(tmp_path, default)
    assert from_json(stored) == default
    with pytest.raises(ConfigError, match=r"\(sees differ\)"):
        check_folder(tmp_path, other)
    (tmp_path / "config.json").write_text(json.dumps(to_json(other)))
    with pytest.raises(ConfigError, match=r"\(sees differ\)"):
        check_folder(tmp_path, default)


SEES = ("training", "validation")


def test_adaptive_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="sees = validation: adaptive may ask for more than an LR"
    ):
        parse(["digits/vit_micro", "--sees", "validation", "schedule:adaptive"])


def test_the_headline_study_has_a_row_of_each_rival_that_its_authors_feed_so() -> None:
    """Where its epochs are more than the patience; elsewhere it would be a constant LR."""
    rows: dict[str, set[str]] = {}
    for config in shipped.headline().configs:
        name = entrant(type(config.schedule).__name__.lower(), config.sees)
        rows.setdefault(name, set()).add(config.target)
    images = {"cifar10/resnet18@field", "cifar10/efficientnet_b0@field"}
    for name in ("greedy", "plateau"):
        assert len(rows[name]) == 6
        assert rows[f"{name} (sees validation)"] == images
    assert sum("sees" in name for name in rows) == 2


def test_a_run_that_has_not_been_evaluated_yet_is_said_to_be_so(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (run.folder / "events.jsonl").read_text().splitlines(keepends=True)
    early = [line for line in lines if json.loads(line)["update"] < 10]
    (tmp_path / "events.jsonl").write_text("".join(early))
    (tmp_path / "config.json").write_text((run.folder / "config.json").read_text())
    assert cli.main(["replay", str(tmp_path)]) == 2
    assert "holds no validation loss yet" in capsys.readouterr().err


def test_replay_tells_which_losses_they_are_with_and_without_a_configuration(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "events.jsonl").write_text((run.folder / "events.jsonl").read_text())
    for place in (run.folder, tmp_path):
        assert cli.main(["replay", str(place), *RULE]) == 0
        assert "6 readings, updates 10 to 60" in (told := capsys.readouterr().out)
        assert "plateau (sees validation) from base LR 0.01" in told
    assert cli.main(["replay", str(run.folder), "--json"]) == 0
    seen = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    recorded = [e for e in events_of(run.folder) if e.get("kind") == "validation_reading"]
    assert seen == recorded
    assert cli.main(["explain", str(run.folder), "--update", "15"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("update 15 has no evaluation; the next one is after update 20:")
    assert "seen       update 20, epoch 1.00: loss" in told
    assert "over 200 validation items" in told


def test_what_cannot_be_replayed_on_validation_losses_is_one_sentence(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["replay", str(run.folder), "schedule:adaptive"]) == 2
    assert "adaptive needs the training loss of every update" in capsys.readouterr().err
    assert cli.main(["explain", str(run.folder), "--update", "61"]) == 2
    assert "has no evaluation after update 60" in capsys.readouterr().err


BACK = """
from dataclasses import dataclass
from toolkit.schedules.reading import Decision
from toolkit.schedules import Constant

@dataclass(frozen=True)
class Back(Constant):
    def observe(self, memory, reading):
        return memory, Decision("spike", 1.0, "rollback", "why not")
"""


def test_more_than_an_lr_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "back.py").write_text(BACK)
    flags = [*SHORT, *FLAGS, f"schedule:{tmp_path}/back.py:Back"]
    built = build(parse(["digits/vit_micro", *flags]), tmp_path)
    try:
        with pytest.raises(RunError, match="asks for 'rollback' at update 10: a schedule that"):
            loop.fit(built)
    finally:
        loop.release(built)


@pytest.mark.parametrize(("sees", "every"), [("validation", "eval"), ("training", "read")])
def test_runs_that_see_at_other_times_are_not_one_group(
    tmp_path: Path, sees: str, every: str
) -> None:
    for seed, updates in enumerate((10, 20)):
        folder = write_run(tmp_path, "plateau", seed, 90.0, sees=sees)
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), f"{every}_every": updates}))
    with pytest.raises(ConfigError, match=f"differ in {every}_every"):
        load_study(tmp_path)


BOTH = ["schedule:adaptive", "--schedule.judge", "validation"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run of adaptive that sees both, with a small margin: a short run over-fits but little."""
    flags = ["--recipe.updates", "240", "--recipe.lr", "0.01", "--recipe.eval-batch", "50"]
    quiet = ["--eval-every", "10", "--wandb", "off", "--progress", "False"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "MARGIN", 0.02)
        folder = tmp_path_factory.mktemp("judged")
        built = build(parse(["digits/vit_micro", *flags, *quiet, *BOTH]), folder)
        loop.fit(built)
        loop.release(built)
        yield built


def test_adaptive_sees_both_and_cuts_by_the_validation_loss(judged: Run) -> None:
    events = events_of(judged.folder)
    assert judged.config.sees == "both"
    readings = [event for event in events if event.get("kind") in (None, "validation_reading")]
    searched = next(i for i, event in enumerate(readings) if event["action"] == "restore")
    assert not any("kind" in event for event in readings[:searched])
    seen = [event for event in readings if "kind" in event]
    last = readings[searched]["update"]
    assert [event["update"] for event in seen] == [u for u in range(10, 241, 10) if u >= last]
    trained = {event["update"]: event for event in readings if "kind" not in event}
    assert len(trained) == 240
    cuts = [event for event in seen if event["action"] == "cut"]
    assert cuts
    for event in seen:
        assert event["lr"] == trained[event["update"]]["lr"]
        assert "distance" not in event
    first = cuts[0]["update"]
    left = (240 - first) / (240 - first + 1)
    assert trained[first + 1]["lr"] == pytest.approx(0.5 * left * trained[first]["lr"])


def test_the_seconds_of_what_a_schedule_sees_are_training_seconds(tmp_path: Path) -> None:
    """One pass more in the second update: its span and the training seconds grow by as much."""
    flags = ["--recipe.updates", "3", "--eval-every", "3", "--sees", "validation"]
    quiet = ["--wandb", "off", "--progress", "False"]
    built = build(parse(["digits/vit_micro", *flags, *quiet, *RULE]), tmp_path)
    taken: list[float] = []

    def look(run: Run) -> None:
        watch = run.record.stopwatch
        if run.update == 2:
            spans = dict(watch.seconds)
            began = watch.train_seconds
            validation_reading(run)
            taken.append(watch.train_seconds - began)
            taken.append(watch.seconds["reading"] - spans["reading"])
            taken.append(watch.seconds["evaluation"] - spans.get("evaluation", 0.0))

    built.after_update.append(look)
    loop.fit(built)
    loop.release(built)
    trained, reading, evaluation = taken
    assert evaluation == 0
    assert 0 < reading <= trained


def test_what_sees_both_is_replayed_explained_and_marked(
    judged: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["replay", str(judged.folder)]) == 0
    told = capsys.readouterr().out
    assert "decisions and LRs of the run are reproduced, bit for bit" in told
    assert "adaptive (sees validation) from base LR 0.01" in told
    cut = next(e for e in events_of(judged.folder) if e.get("kind") and e.get("action") == "cut")
    assert cli.main(["explain", str(judged.folder), "--update", str(cut["update"])]) == 0
    told = capsys.readouterr().out
    assert told.count("seen       update") == 2
    assert "over 200 validation items" in told
    assert f"decided    cut: {cut['reason']}" in told
    assert (
        cli.main(["replay", str(judged.folder), "schedule:plateau", "--schedule.every", "1"]) == 0
    )
    assert "240 readings, updates 1 to 240 of 240; plateau from" in capsys.readouterr().out
    assert load_study(judged.folder.parent).runs[0].group.schedule == "adaptive (sees validation)"
    result = json.loads((judged.folder / "result.json").read_text())
    assert (result["sees"], result["schedule_config"]["judge"]) == ("both", "validation")
    described = describe(json.loads((judged.folder / "config.json").read_text()))
    assert described["schedule"] == "adaptive (sees validation)"


def test_losses_on_training_alone_are_too_little_for_a_schedule_that_sees_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "losses.csv").write_text("update,loss\n1,2.0\n2,1.0\n")
    assert cli.main(["replay", str(tmp_path / "losses.csv"), *BOTH]) == 2
    said = capsys.readouterr().err
    assert "has no validation losses for readings, and adaptive, as it is set, needs them" in said


def test_it_goes_on_in_the_middle_to_the_bit(judged: Run, tmp_path: Path) -> None:
    """From a checkpoint at an evaluation, between two cuts."""
    config = replace(judged.config, save_every=60)
    half = build(config, tmp_path)

    def stop_at_120(run: Run) -> None:
        if run.update == 120:
            signal.raise_signal(signal.SIGTERM)

    half.after_update.append(stop_at_120)
    assert loop.fit(half) is None
    loop.release(half)
    again = build(config, tmp_path)
    loop.fit(again)
    loop.release(again)

    def plain(folder: Path) -> list[dict[str, Any]]:
        kinds = (None, "validation_reading")
        events = [e for e in events_of(folder) if e.get("kind") in kinds]
        return [{k: v for k, v in e.items() if k != "t"} for e in events]

    assert plain(again.folder) == plain(judged.folder)
