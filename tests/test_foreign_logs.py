"""Logs as other tools write them: losses, updates, passes and LRs, and what the user is told."""

import json
import math
import random
from pathlib import Path

import pytest

from toolkit.errors import ConfigError
from toolkit.records import recorded_losses
from toolkit.records.log_columns import Columns
from toolkit.records.recorded_losses import Losses
from toolkit.replay import main

NAN = math.nan
TRAINER = json.dumps(
    {
        "epoch": 2.0,
        "global_step": 40,
        "max_steps": 40,
        "log_history": [
            {"epoch": 0.5, "grad_norm": 1.2, "learning_rate": 0.0005, "loss": 2.5, "step": 10},
            {"epoch": 1.0, "grad_norm": 1.1, "learning_rate": 0.001, "loss": 2.0, "step": 20},
            {"epoch": 1.0, "eval_loss": 2.1, "eval_runtime": 0.2, "step": 20},
            {"epoch": 1.5, "grad_norm": 1.0, "learning_rate": 0.0005, "loss": 1.5, "step": 30},
            {"epoch": 2.0, "grad_norm": 0.9, "learning_rate": 0.00005, "loss": NAN, "step": 40},
            {"epoch": 2.0, "train_loss": 2.0, "train_runtime": 9.0, "step": 40},
        ],
    },
    indent=2,
)
TIMM = """\
epoch,train_loss,eval_loss,eval_top1,eval_top5,lr
0,6.9,6.8,0.5,2.1,1e-05
1,6.5,6.2,3.5,9.1,0.1
2,5.9,5.5,9.5,19.1,0.005
"""
KERAS = """\
epoch,accuracy,learning_rate,loss,val_accuracy,val_loss
0,0.61,0.01,1.2,0.71,0.9
1,0.72,0.01,0.8,0.75,0.8
2,0.81,0.001,0.5,NA,NA
"""
KERAS_2 = "epoch;loss;lr;val_loss\n0;1.2;0.01;0.9\n1;0.8;0.01;0.8\n2;0.5;0.001;0.8\n"
LIGHTNING = """\
epoch,lr-Adam,lr-Adam-momentum,lr-Adam-weight_decay,step,train_loss,val_loss
,0.01,0.9,0.0,49,,
0,,,,49,2.5,
,0.01,0.9,0.0,99,,
0,,,,99,2.0,
0,,,,99,,2.2
,0.005,0.9,0.0,149,,
1,,,,149,1.5,
,0.005,0.9,0.0,199,,
1,,,,199,1.2,
1,,,,199,,1.9
"""
ULTRALYTICS = """\
epoch,time,train/box_loss,train/cls_loss,train/dfl_loss,metrics/precision(B),val/box_loss,\
val/cls_loss,val/dfl_loss,lr/pg0,lr/pg1,lr/pg2
1,11.8,1.46,4.01,1.69,0.29,0.87,3.41,1.28,0.0946,0.0006,0.0006
2,17.9,1.03,2.17,1.36,0.73,0.97,1.73,1.54,0.0882,0.0013,0.0013
3,23.9,0.99,1.81,1.30,0.69,1.52,3.36,1.85,0.0044,0.0018,0.0018
"""
YOLOV5 = """\
               epoch,      train/box_loss,        val/box_loss,               x/lr0
                   0,                0.11,                0.12,              0.0033
                   1,                0.09,                0.10,              0.0066
"""
WANDB_HISTORY = """\
,_step,_runtime,_timestamp,train/loss,train/learning_rate,train/epoch,train/global_step,eval/loss
0,0,12.1,1700000000,2.5,0.0005,0.5,10,
1,1,13.1,1700000001,2.0,0.001,1.0,20,
2,2,14.1,1700000002,,,1.0,20,2.1
3,3,15.1,1700000003,1.5,0.0005,1.5,30,
"""
WANDB_CHART = """\
"Step","sunny-sea-7 - train/loss","sunny-sea-7 - train/loss__MIN","sunny-sea-7 - train/loss__MAX"
"0","2.5","2.5","2.5"
"10","2.0","2.0","2.0"
"20","1.5","1.5","1.5"
"""
TWO_RUNS = """\
"Step","b - train/loss","b - train/lr","a - train/loss","a - train/lr"
"1","2.5","0.1","3.5","0.2"
"2","2.0","0.1","3.0","0.2"
"""
WANDB_JSON = json.dumps(
    [
        {"_step": 0, "_timestamp": 1.7e9, "train/loss": 2.5, "lr": 0.1, "val/loss": None},
        {"_step": 1, "_timestamp": 1.7e9, "train/loss": None, "lr": None, "val/loss": 2.4},
        {"_step": 2, "_timestamp": 1.7e9, "train/loss": "NaN", "lr": 0.05, "val/loss": None},
    ]
)
WANDB_LINES = '{"_step": 0, "train/loss": 2.5, "lr": 0.1}\n{"_step": 1, "train/loss": null}\n'
TENSORBOARD = "Wall time,Step,Value\n1710537876.8,50,2.5\n1710538086.9,100,2.0\n"
TENSORBOARD_JSON = "[[1710537876.8, 0, 2.5], [1710538086.9, 1, 2.0]]"
HISTORY = json.dumps({"loss": [1.2, 0.8], "val_loss": [0.9, 0.8], "learning_rate": [0.01, 0.002]})

LOGS: dict[str, tuple[str, Columns, list[tuple[int, float, float, float | None]]]] = {
    "trainer": (
        TRAINER,
        Columns(),
        [
            (10, 0.5, 2.5, 0.0005),
            (20, 1.0, 2.0, 0.001),
            (30, 1.5, 1.5, 0.0005),
            (40, 2.0, NAN, 0.00005),
        ],
    ),
    "timm": (TIMM, Columns(), [(1, 1, 6.9, 1e-5), (2, 2, 6.5, 0.1), (3, 3, 5.9, 0.005)]),
    "keras": (KERAS, Columns(), [(1, 1, 1.2, 0.01), (2, 2, 0.8, 0.01), (3, 3, 0.5, 0.001)]),
    "keras2": (KERAS_2, Columns(), [(1, 1, 1.2, 0.01), (2, 2, 0.8, 0.01), (3, 3, 0.5, 0.001)]),
    "lightning": (
        LIGHTNING,
        Columns(),
        [(50, 0, 2.5, 0.01), (100, 1, 2.0, 0.01), (150, 1, 1.5, 0.005), (200, 2, 1.2, 0.005)],
    ),
    "ultralytics": (
        ULTRALYTICS,
        Columns(loss="train/cls_loss"),
        [(1, 1, 4.01, 0.0946), (2, 2, 2.17, 0.0882), (3, 3, 1.81, 0.0044)],
    ),
    "yolov5": (YOLOV5, Columns(), [(1, 1, 0.11, 0.0033), (2, 2, 0.09, 0.0066)]),
    "wandb-history": (
        WANDB_HISTORY,
        Columns(),
        [(10, 0.5, 2.5, 0.0005), (20, 1.0, 2.0, 0.001), (30, 1.5, 1.5, 0.0005)],
    ),
    "wandb-chart": (
        WANDB_CHART,
        Columns(),
        [(1, 0, 2.5, None), (11, 0, 2.0, None), (21, 0, 1.5, None)],
    ),
    "two-runs": (
        TWO_RUNS,
        Columns(loss="a - train/loss"),
        [(1, 0, 3.5, 0.2), (2, 0, 3.0, 0.2)],
    ),
    "wandb-json": (WANDB_JSON, Columns(), [(1, 0, 2.5, 0.1), (3, 0, NAN, 0.05)]),
    "wandb-lines": (WANDB_LINES, Columns(), [(1, 0, 2.5, 0.1), (2, 0, NAN, 0.1)]),
    "tensorboard": (TENSORBOARD, Columns(), [(50, 0, 2.5, None), (100, 0, 2.0, None)]),
    "tensorboard-json": (TENSORBOARD_JSON, Columns(), [(1, 0, 2.5, None), (2, 0, 2.0, None)]),
    "history": (HISTORY, Columns(), [(1, 0, 1.2, 0.01), (2, 0, 0.8, 0.002)]),
}


def loaded(folder: Path, text: str, columns: Columns) -> Losses:
    file = folder / "log"
    file.write_text(text)
    return recorded_losses.load(file, columns)


@pytest.mark.parametrize("name", LOGS)
def test_every_tools_log_is_read(name: str, tmp_path: Path) -> None:
    text, columns, expected = LOGS[name]
    losses = loaded(tmp_path, text, columns)
    rates = losses.lrs or [None] * len(expected)
    found = [
        (reading.update, reading.epoch, reading.loss, rate)
        for reading, rate in zip(losses.readings, rates, strict=True)
    ]
    assert repr(found) == repr(  # nan is like nan
        [(u, float(e), float(x), r) for u, e, x, r in expected]
    )
    stated = [rate for *_, rate in expected if rate is not None]
    assert losses.base_lr == max(stated, default=None)
    assert losses.has_epochs == any(epoch for _, epoch, *_ in expected)
    assert losses.facts.budget == (40 if name == "trainer" else None)


def test_what_timm_and_the_trainer_write_is_read(tmp_path: Path) -> None:
    from timm.utils.summary import update_summary
    from transformers import TrainerState

    for epoch, (loss, rate) in enumerate([(2.5, 0.1), (2.0, 0.05), (NAN, 0.01)]):
        update_summary(epoch, {"loss": loss}, {"top1": 0.5}, tmp_path / "summary.csv", lr=rate)
    timm = recorded_losses.load(tmp_path / "summary.csv")
    assert [reading.epoch for reading in timm.readings] == [1, 2, 3]
    assert [reading.nonfinite for reading in timm.readings] == [0, 0, 1]
    assert timm.lrs == (0.1, 0.05, 0.01)
    history = json.loads(TRAINER)["log_history"]
    state = TrainerState(max_steps=80, log_history=history)
    state.save_to_json(str(tmp_path / "trainer_state.json"))
    trainer = recorded_losses.load(tmp_path / "trainer_state.json")
    assert repr(trainer.readings) == repr(loaded(tmp_path, TRAINER, Columns()).readings)
    assert trainer.base_lr == 0.001
    assert trainer.facts.budget == 80


def said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, *argv: str, code: int = 0
) -> str:
    """What replay prints of a log."""
    file = tmp_path / "log"
    file.write_text(text)
    assert main([str(file), *argv]) == code
    out, err = capsys.readouterr()
    return err if code else out


@pytest.mark.parametrize(
    ("name", "argv", "notes"),
    [
        (
            "trainer",
            ["schedule:constant"],
            [
                "constant from base LR 0.001: 0 decisions",
                "the base LR 0.001 is the largest LR that column learning_rate states",
                "from update 10 on, where the LR is another",
            ],
        ),
        (
            "timm",
            ["schedule:constant", "--base-lr", "1e-05"],
            [
                "the loss is column train_loss, a row is taken to be an update, the epoch column "
                "epoch, the LR column lr\n",
                "column epoch counts epochs from 0: the last row of an epoch e is taken to be its "
                "end, after e + 1 passes",
                "the base LR is as given; 0.1 is the largest LR that column lr states",
                "from update 2 on",
            ],
        ),
        (
            "keras",
            ["schedule:plateau", "--schedule.patience", "0"],
            ["the base LR 0.01 is the largest", "from update 3 on"],
        ),
        (
            "lightning",
            ["schedule:constant"],
            [
                "rows without a value in train_loss (6 of 10) are left out",
                "column step counts updates from 0 (the first row has 49): each is one more",
                "rows without a value in lr-Adam (4) have the last one stated before them",
                "from update 150 on",
            ],
        ),
        (
            "ultralytics",
            ["schedule:constant", "--loss-column", "TRAIN/BOX_LOSS", "--lr-column", "lr/pg1"],
            [
                "the loss is column train/box_loss",
                "the LR column lr/pg1, of lr/pg1, lr/pg0, lr/pg2, which differ (--lr-column",
                "from base LR 0.0018",
            ],
        ),
        (
            "tensorboard",
            ["schedule:constant"],
            [
                "the loss is column Value, the update column Step\n",
                "the base LR is 0.01, and the file states none (--base-lr sets it)",
                "the file tells no epochs",
                "the LR stays as it was when these losses were recorded, if that was one LR",
            ],
        ),
    ],
)
def test_what_was_taken_and_why_is_said(
    name: str,
    argv: list[str],
    notes: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = said(tmp_path, capsys, LOGS[name][0], *argv)
    for note in notes:
        assert note in out


def test_an_lr_that_stays_is_told_from_one_that_falls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{update},{2 - update / 10},0.1\n" for update in range(1, 11)]
    still = "step,loss,lr\n" + "".join(rows)
    out = said(tmp_path, capsys, still, "schedule:constant")
    assert out.endswith("the LR stays as it was when these losses were recorded\n")
    linear = "step,loss,lr\n" + "".join(
        f"{update},1.0,{0.1 * (1 - (update - 1) / 10):.5g}\n" for update in range(1, 11)
    )
    out = said(tmp_path, capsys, linear, "schedule:linear", "--budget", "10")
    assert out.endswith("the LR stays as it was when these losses were recorded\n")
    out = said(tmp_path, capsys, linear, "schedule:constant")
    assert "from update 2 on" in out


def test_epochs_from_0_and_from_1_judge_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = [3.0, 2.0, 1.5, 1.4, 1.4, 1.4, 1.4, 1.39]
    rule = ("schedule:plateau", "--schedule.patience", "1", "--json")
    found = []
    for first in (0, 1):
        rows = "".join(f"{epoch},{loss}\n" for epoch, loss in enumerate(losses, first))
        found.append(said(tmp_path, capsys, "epoch,loss\n" + rows, *rule))
    assert found[0] == found[1]
    assert '"action": "cut"' in found[0]


@pytest.mark.parametrize(
    ("text", "argv", "message"),
    [
        (
            ULTRALYTICS,
            [],
            "has 3 columns of losses, train/box_loss, train/cls_loss, train/dfl_loss: "
            "--loss-column NAME says which",
        ),
        (TWO_RUNS, [], "has 2 columns of losses, b - train/loss, a - train/loss: --loss-column"),
        (
            "epoch,val_loss\n1,2\n",
            [],
            "has no column 'loss': its columns are epoch, val_loss; --loss-column NAME",
        ),
        (TIMM, ["--loss-column", "los"], "--loss-column = los: the columns of"),
        (TIMM, ["--lr-column", "rate"], "--lr-column = rate: the columns of"),
        (KERAS, ["--step-column", "loss"], "row 2: loss = '1.2' is not a whole number"),
        (TIMM + TIMM.partition("\n")[2], [], "row 5: epoch = 0 comes after 2: is it the log of"),
        (
            "step,loss\n1,2\n1,2\n",
            [],
            "row 3: step = 1 does not follow 1; is it the log of two runs, or does --step-column",
        ),
        ("loss,lr\n1,-0.1\n", [], "row 2: lr = -0.1 is not 0 or above"),
        ("loss,lr\n1,fast\n", [], "row 2: lr = 'fast' is not a number"),
        ("loss,loss\n1,2\n", [], "has more than one column 'loss': rename the others"),
        ("loss;lr\n0,5;0,1\n", [], "row 2: loss = '0,5' is not a number"),
        ("loss,lr\n0,5,0,1\n", [], "row 2 has 4 of 2 fields"),
        ("step,loss\n1,\n", [], "holds no reading: no row states a loss"),
        ('[{"loss": 1}, 2]', [], "entry 2 is not a JSON object"),
        ('[{"loss": 1}', [], "is not JSON"),
        ("[" * 100_000, [], "is not JSON"),
        ('{"loss": [1, 2], "lr": [1]}', [], "differ in length: loss has 2, lr has 1"),
        ('{"log_history": [3]}', [], "entry 1 of log_history is not a JSON object"),
        ('{"loss": {"0": 1}}', [], "row 1: loss = {'0': 1} is not a number"),
        (f'[{{"loss": 1{"0" * 400}}}]', [], "entry 1: loss = 10000"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_helps(
    text: str,
    argv: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    err = said(tmp_path, capsys, text, "schedule:constant", *argv, code=2)
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert len(err) < 400


def test_a_log_that_is_being_written_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    assert len(loaded(tmp_path, TIMM[:-12], Columns()).readings) == 2


def test_columns_are_refused_for_a_run_of_this_toolkit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event = '{"kind": "start", "total_updates": 9}\n'
    err = said(tmp_path, capsys, event, "schedule:plan", "--loss-column", "loss", code=2)
    assert "is of a run of this toolkit: columns are for other tools' logs" in err


def test_events_without_their_configuration_tell_the_base_lr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = said(tmp_path, capsys, TRAINER, "schedule:linear", "--json")
    events = "".join(line + "\n" for line in out.splitlines() if line.startswith("{"))
    out = said(tmp_path, capsys, events, "schedule:linear", "--budget", "40")
    assert "the base LR 0.001 is the LR of the events over its factor" in out
    assert "the LR stays as it was when these losses were recorded\n" in out


PIECES = (
    *(",", "\n", '"', "{", "}", "[", "]", ";", "\t", "\r", "\x00", " ", ":", "-", "e", "9", "."),
    *("NaN", "null", "1e999", "-1", "true", '""', "\ufeff", "é", "loss", "epoch", "step", "lr"),
)


def damaged(text: str, dice: random.Random) -> str:
    """A text after a few cuts, doublings and insertions."""
    for _ in range(dice.randrange(1, 4)):
        begin, end = sorted(dice.randrange(len(text) + 1) for _ in range(2))
        end = min(end, begin + dice.randrange(1, 30))
        middle = dice.choice(["", text[begin:end] * 2, dice.choice(PIECES)])
        text = text[:begin] + middle + text[end:]
    return text


@pytest.mark.parametrize("name", LOGS)
def test_damage_is_read_or_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    text, columns, _ = LOGS[name]
    dice = random.Random(name)
    read, refused = 0, 0
    sentences: set[str] = set()
    for _ in range(80):
        try:
            losses = loaded(tmp_path, damaged(text, dice), columns)
        except ConfigError as error:
            refused += 1
            sentences.add(str(error))
            continue
        read += 1
        updates = [reading.update for reading in losses.readings]
        assert updates == sorted(set(updates))
        assert all(0 <= reading.epoch < math.inf for reading in losses.readings)
        assert all(rate is None or 0 <= rate < math.inf for rate in losses.lrs)
    assert min(read, refused) > 1
    assert not any("\n" in sentence for sentence in sentences)
