"""Recorded losses judged once more: every format, every schedule, every mistake."""

import json
import math
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit import cli
from toolkit.config import parse, to_json
from toolkit.records import recorded_losses
from toolkit.records.events import decision_of, reading_of, to_event
from toolkit.replay import main
from toolkit.schedules import SCHEDULES
from toolkit.schedules.reading import NO_ACTION, Decision, Reading
from toolkit.training import loop
from toolkit.training.build import build
from toolkit.training.lr import ScheduledLR

BUDGET, PER_EPOCH, READ_EVERY = 240, 8, 2
FIELDS = {
    *("update", "epoch", "loss", "count", "nonfinite", "lr", "factor"),
    *("pattern", "statistic", "action", "reason", "t"),
}


def stream(length: int) -> list[float]:
    draw = random.Random(3)
    fall = [2 / (1 + u / 30) + draw.gauss(0, 0.05) for u in range(length)]
    fall[length // 3] = math.nan
    return fall


def run_folder(folder: Path, name: str) -> Path:
    """A run's files, with a real optimizer under the schedule and losses that are made up."""
    flags = ["--recipe.updates", str(BUDGET), "--read-every", str(READ_EVERY)]
    config = parse(["digits/vit_micro", *flags, f"schedule:{name}"])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.recipe.lr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one that goes back would like to have a model
        lr = ScheduledLR(optimizer, config.schedule, BUDGET)
    lines = []
    for update, loss in enumerate(stream(BUDGET), 1):
        rate, factor = lr.used[0], lr.factor
        optimizer.step()
        if update % READ_EVERY == 0:
            reading = Reading.of(update, update / PER_EPOCH, loss, 64.0)
            lines.append({**to_event(reading, lr.observe(reading), rate, factor), "t": 1.0})
        lr.step()
    (folder / "config.json").write_text(json.dumps(to_json(config)))
    evaluation = {"kind": "evaluation", "update": BUDGET, "t": 2.0}
    text = "".join(json.dumps(line) + "\n" for line in [*lines, evaluation])
    (folder / "events.jsonl").write_text(text)
    return folder


def write_csv(file: Path, columns: str = "update,epoch,loss") -> Path:
    rows = [
        {"update": u, "step": u, "epoch": u / PER_EPOCH, "loss": x}
        for u, x in enumerate(stream(BUDGET), 1)
    ]
    names = columns.split(",")
    lines = [",".join(str(row[name]) for name in names) for row in rows]
    file.write_text("\n".join([columns, *lines]) + "\n")
    return file


def replayed(capsys: pytest.CaptureFixture[str], *argv: object) -> list[dict[str, Any]]:
    """The objects that ``--json`` prints."""
    assert main([*map(str, argv), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_under_every_schedule_is_reproduced_to_the_bit(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path, name)
    assert main([str(folder)]) == 0
    told = capsys.readouterr().out
    assert f"all {BUDGET // READ_EVERY} decisions and LRs of the run" in told
    assert ("LR  decision" in told) == (": 0 decisions" not in told)
    recorded = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert replayed(capsys, folder, f"schedule:{name}") == recorded[:-1]


FACTS = {"total_updates": BUDGET, "pretrained": False, "restores": False}


@pytest.mark.parametrize("name", ["cosine", "plan", "greedy-paper", "adaptive"])
def test_a_run_of_the_older_protocol_is_replayed_where_that_is_exact(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path, name)
    start = {"kind": "start", "update": 0, "epoch": 0.0, **FACTS, **NO_ACTION._asdict()}
    del start["amount"]
    events = (folder / "events.jsonl").read_text()
    (folder / "events.jsonl").write_text(json.dumps(start) + "\n" + events)
    code = main([str(folder)])
    told = capsys.readouterr()
    if name == "adaptive":
        assert code == 2
        assert told.err.count("\n") == 1
        assert "under whose protocol of schedules adaptive decided otherwise" in told.err
        assert main([str(folder), "schedule:plan"]) == 0
    else:
        assert code == 0
        assert "decisions and LRs of the run are reproduced" in told.out


def test_what_no_schedule_of_this_version_judges_again_is_explained_as_it_was_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of ``adaptive`` before it looked for an edge: other settings, another memory."""
    folder = run_folder(tmp_path, "adaptive")
    stored = json.loads((folder / "config.json").read_text())
    stored["schedule"]["fields"] = {"search": "auto", "plateau": "auto", "sharp_drop": "off"}
    (folder / "config.json").write_text(json.dumps(stored))
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    lines[3] |= {"action": "cut", "pattern": "plateau", "statistic": 2.5, "reason": "was so"}
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli.main(["explain", str(folder), "--update", "7"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:3] == [
        f"reading    up to update 8, epoch {8 / PER_EPOCH:.2f}",
        f"loss       {lines[3]['loss']} over 64 items",
        f"LR         {lines[3]['lr']:.6g} in its last update",
    ]
    assert told[3:7] == [
        *("pattern    plateau", "statistic  2.5", "action     cut", "reason     was so"),
    ]
    assert told[7] == "settings   adaptive: search = auto, plateau = auto, sharp_drop = off"
    assert told[8].startswith("note       the run is of an older version of adaptive")
    assert len(told) == 9
    assert cli.main(["explain", str(folder), "--update", str(BUDGET + 1)]) == 2
    assert "has no reading of it" in capsys.readouterr().err


def test_the_fields_of_an_event_are_few_and_come_back() -> None:
    plain = Reading.of(3, 0.5, 2.0, 64.0)
    event = json.loads(json.dumps(to_event(plain, NO_ACTION, 0.1, 1.0)))
    assert set(event) == FIELDS - {"t"}
    assert (reading_of(event), decision_of(event)) == (plain, NO_ACTION)
    judged = plain._replace(kind="judge", distance=(0.25, 3.0))
    anneal = Decision("plateau", -1.5, "anneal", "why", 40)
    event = json.loads(json.dumps(to_event(judged, anneal, 0.1, 1.0)))
    assert set(event) == FIELDS - {"t"} | {"kind", "distance", "amount"}
    assert (reading_of(event), decision_of(event)) == (judged, anneal)


@pytest.mark.long
def test_a_run_of_the_loop_is_reproduced_and_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = ["schedule:plateau", "--schedule.every", "1", "--schedule.patience", "1"]
    quiet = ["--wandb", "off", "--save-every", "0", "--progress", "False", "--recipe.epochs", "2"]
    run = build(parse(["digits/vit_micro", *quiet, *rule]), tmp_path)
    loop.fit(run)
    loop.release(run)
    assert cli.main(["replay", str(run.folder / "events.jsonl")]) == 0
    assert "all 40 decisions and LRs" in capsys.readouterr().out
    cut = next(event for event in replayed(capsys, run.folder) if event["action"] == "cut")
    asked = ["explain", str(run.folder), "--update", str(cut["update"])]
    assert cli.main(asked) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "LR         0.01 in its last update",
        "           0.001 in the next",
        "decided    cut: no new best in 2 judgements, patience 1: LR 0.001",
        "number     2, for the pattern plateau",
    ]
    assert cli.main([*asked[:-1], str(cut["update"] + 1)]) == 0
    told = capsys.readouterr().out
    assert "decided    hold: nothing to act on\n" in told
    assert f"before     update {cut['update']}: cut: no new best in 2 judgements" in told
    assert cli.main([*asked, "--memory"]) == 0
    shown = capsys.readouterr().out
    assert f"reading    update {cut['update']}, epoch" in shown
    assert "statistic  2\naction     cut" in shown
    assert "reason     no new best in 2 judgements, patience 1: LR 0.001" in shown
    assert "LR         0.01 in its last update\n           0.001 in the next" in shown
    assert "settings   plateau: every = 1, cut = 0.1, patience = 1" in shown


def test_a_run_in_progress_is_read_as_far_as_it_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = run_folder(tmp_path, "plan") / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    events.write_text("".join(lines[:50]) + lines[50][:20])
    assert main([str(tmp_path)]) == 0
    assert "all 50 decisions and LRs of the run are reproduced" in capsys.readouterr().out


def test_what_is_not_reproduced_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = run_folder(tmp_path, "plan") / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    lines[9] = json.dumps({**json.loads(lines[9]), "factor": 0.5}) + "\n"
    events.write_text("".join(lines))
    assert main([str(tmp_path)]) == 1
    assert "is not reproduced: at update 20 factor is 1.0, was 0.5" in capsys.readouterr().err


def test_a_reason_in_other_words_is_no_other_decision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Versions word reasons differently; what a reason rests on is another matter."""
    events = run_folder(tmp_path, "plan") / "events.jsonl"
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    acted = next(line for line in lines if line.get("reason"))
    acted["reason"] = "as an older version put it"
    events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main([str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "are reproduced, bit for bit\n1 of their reasons are in other words" in told
    acted["statistic"] += 1e-12
    events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main([str(tmp_path)]) == 1
    assert "is not reproduced: at update" in capsys.readouterr().err


def test_the_same_losses_from_every_format_give_the_same_decisions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = ("schedule:plan", "--schedule.window", "3", "--budget", BUDGET, "--base-lr", "0.01")
    history: list[dict[str, Any]] = [
        {"step": u, "epoch": u / PER_EPOCH, "loss": loss, "learning_rate": 0.1}
        for u, loss in enumerate(stream(BUDGET), 1)
    ]
    history.insert(5, {"step": 5, "epoch": 5 / PER_EPOCH, "eval_loss": 3.0})
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}, indent=1))
    bare = [json.dumps({"update": e["step"], **e}) for e in history if "loss" in e]
    (tmp_path / "bare.jsonl").write_text("\n".join(bare))
    write_csv(tmp_path / "losses.csv")
    write_csv(tmp_path / "steps.csv", "step,loss,epoch")
    files = ("losses.csv", "steps.csv", "trainer_state.json", "bare.jsonl")
    found = [replayed(capsys, tmp_path / file, *rule) for file in files]
    assert found[1:] == found[:-1]
    assert set(found[0][0]) == FIELDS
    assert len(found[0]) == BUDGET
    lost = [event["update"] for event in found[0] if event["loss"] is None]
    assert lost == [BUDGET // 3 + 1]
    assert sum(event["action"] != "hold" for event in found[0]) > 5
    assert found[0][0]["lr"] == 0.01


def test_the_base_rate_and_the_budget_are_those_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_csv(tmp_path / "losses.csv", "loss")
    half = replayed(capsys, file, "schedule:linear", "--base-lr", 2, "--budget", 2 * BUDGET)
    assert half[-1]["lr"] == pytest.approx(1.0, abs=0.01)
    open_ended = replayed(capsys, file, "schedule:linear", "--base-lr", "2")
    assert {event["lr"] for event in open_ended} == {2.0}
    state = {"max_steps": 2 * BUDGET, "log_history": [{"step": BUDGET, "epoch": 1, "loss": 1.0}]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert recorded_losses.load(tmp_path / "state.json").facts.budget == 2 * BUDGET


def test_decisions_after_a_change_of_the_rate_are_called_hypothetical(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_csv(tmp_path / "losses.csv")
    rule = ["schedule:plan", "--schedule.window", "3"]
    first = next(e["update"] for e in replayed(capsys, file, *rule) if e["action"] != "hold")
    assert main([str(file), *rule]) == 0
    assert f"from update {first + 1} on" in capsys.readouterr().out
    assert main([str(file), "schedule:constant"]) == 0
    assert "the LR stays as it was" in capsys.readouterr().out
    assert main([str(run_folder(tmp_path, "plan")), "schedule:plateau"]) == 0
    assert "the decisions are hypothetical" in capsys.readouterr().out
    assert main([str(write_csv(tmp_path / "bare.csv", "loss")), "schedule:plan"]) == 0
    assert "the file tells no epochs" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture(suffix: str, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "losses.csv")
    drawn = []
    for number in (1, 2):
        figure = tmp_path / f"{number}.{suffix}"
        rule = ["schedule:plan", "--schedule.window", "3"]
        assert main([str(file), *rule, "--figure", str(figure)]) == 0
        drawn.append(figure.read_bytes())
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith(b"\x89PNG" if suffix == "png" else b"<?xml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("update,value\n1,2\n", "has no column 'loss': its columns are update, value"),
        ("", "has no column 'loss': it is empty"),
        ("loss\n", "holds no reading"),
        ("loss\n1.0\nhigh\n", "row 3: loss = 'high' is not a number"),
        ("loss,update\n1.0,1\n1.0\n", "row 3 has 1 of 2 fields"),
        ("loss,update\n1.0,1.5\n", "row 2: update = '1.5' is not a whole number, 0 or above"),
        ("loss,update\n1.0,4\n1.0,4\n", "row 3: update = 4 does not follow 4"),
        ("loss,epoch\n1.0,-1\n", "row 2: epoch = -1.0 is not 0 or above"),
        ('{"loss": 1}\n{"loss": "x"}\n', "row 2: loss = 'x' is not a number"),
        ('{"loss": 1}\n{"lo\n', "row 2 is not JSON"),
        ('{"loss": 1}\n[1]\n', "row 2 is not a JSON object"),
        ('{"update": 1}\n', "has no column 'loss': its columns are update"),
        ('{"log_history": []}', "holds no reading"),
        ('{"log_history": [{"loss": [1]}]}', "entry 1 of log_history: loss = [1] is not a number"),
    ],
)
def test_a_wrong_file_is_one_sentence(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "losses.txt"
    file.write_text(text)
    assert main([str(file), "schedule:plan"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {file}")
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["no.csv", "schedule:plan"], "no.csv cannot be read: No such file"),
        (["losses.csv"], "no run's config.json is beside losses.csv: name a schedule:NAME"),
        (["losses.csv", "schedule:pla"], "unknown schedule 'pla': did you mean plan"),
        (["losses.csv", "schedule:plan", "--schedule.window", "0"], "schedule.window = 0"),
        (["losses.csv", "schedule:plan", "--base-lr", "-1"], "--base-lr = -1: it must be"),
        (["losses.csv", "schedule:plan", "--budget", "9"], "goes on to update 240"),
        (["losses.csv", "schedule:plan", "--figure", "a.gif"], "must end in one of .png, .svg"),
        (["losses.csv", "schedule:plan", "--figure", "no/a.png"], "there is no folder no"),
    ],
)
def test_a_wrong_command_is_one_sentence(
    argv: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "losses.csv")
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1


def test_explain_needs_a_run_and_one_of_its_updates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_csv(tmp_path / "losses.csv")
    assert cli.main(["explain", str(file), "--update", "3"]) == 2
    assert "there is no config.json beside it" in capsys.readouterr().err
    folder = run_folder(tmp_path, "plan")
    assert cli.main(["explain", str(folder), "--update", "241"]) == 2
    assert "has updates 1 to 240" in capsys.readouterr().err
    assert cli.main(["explain", str(folder), "--update", "3"]) == 0
    assert "seen       updates 3 to 4, epoch 0.50: loss" in capsys.readouterr().out


OWN = """
from dataclasses import dataclass
from toolkit.schedules import Plateau

@dataclass(frozen=True)
class Mine(Plateau):
    every: int = 1
"""


def test_a_schedule_of_the_users_file_runs_only_where_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "mine.py"
    own.write_text(OWN)
    folder = run_folder(tmp_path, f"{own}:Mine")
    assert main([str(folder), f"schedule:{own}:Mine"]) == 0
    assert "are reproduced, bit for bit" in capsys.readouterr().out
    own.write_text("raise SystemExit('ran')")
    assert main([str(folder)]) == 2
    assert f"is of a file: name it, schedule:{own}:Mine" in capsys.readouterr().err
