"""What a run tells while it trains: lines in a log file, a bar at a terminal, and its story."""

import os
import pty
import re
import subprocess
import sys
import termios
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from tests.conftest import Launch
from tests.studies import result_json
from toolkit.config import parse
from toolkit.records import console
from toolkit.records.console import Console, beside, came_to, scores
from toolkit.records.result import FoundLR, Metrics, Result
from toolkit.scales import Scale, loss_of_classes
from toolkit.schedules.reading import NO_ACTION, Decision, Reading
from toolkit.train import _announce
from toolkit.training.build import build

FOLDER = Path("runs/single/1")
RUN = ["-m", "toolkit.train", "digits/vit_micro", "--recipe.epochs", "6", "--wandb", "off"]


class Clock:
    """Seconds that pass when they are told to; training takes all of them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def told(clock: Clock, shown: bool = True) -> Console:
    """A console of a run of 100 updates of 8 samples, in a log file."""
    return Console(shown, 100, 8, {"perplexity": Scale(False, 65.0, 4)}, clock, clock)


def read(shows: Console, update: int, loss: float = 2.0, decision: Decision = NO_ACTION) -> None:
    shows.reading(Reading.of(update, update / 10, loss), decision, 0.0178)


def test_a_log_file_gets_a_line_at_least_every_30_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    shows, times = told(clock), [0.0]
    for update in range(1, 51):
        clock.now = 7.0 * update
        read(shows, update, loss=update)
        if capsys.readouterr().out:
            times.append(clock.now)
    assert times[1:4] == [28.0, 56.0, 84.0]
    assert max(b - a for a, b in pairwise(times)) <= 30


def test_a_line_says_how_the_run_is_going_since_the_line_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    shows = told(clock)
    for update in range(1, 41):
        clock.now = 0.5 * update
        read(shows, update, loss=3.0 if update <= 20 else 1.0 + update % 2)
        if update in (20, 40):
            shows.validated(update, update / 10, {"perplexity": 7.0, "loss": None})
    assert capsys.readouterr().out.splitlines() == [
        "update 20/100, epoch 2, loss 3.0000, lr 0.0178, "
        "validation perplexity 7.0000, loss is not a number, 16 samples/s, ETA 40 s",
        "update 40/100, epoch 4, loss 1.5000, lr 0.0178, "
        "validation perplexity 7.0000, loss is not a number, 16 samples/s, ETA 30 s",
    ]


def test_without_a_reading_since_the_line_before_there_is_no_loss(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    shows = told(clock)
    clock.now = 31.0
    read(shows, 5)
    shows.validated(5, 0.5, {"perplexity": 7.0})
    read(shows, 6, loss=float("nan"))
    shows.validated(6, 0.6, {"perplexity": 7.0})
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("update 5/100, epoch 0.5, loss 2.0000, lr 0.0178, ")
    assert second.startswith("update 5/100, epoch 0.5, lr 0.0178, validation perplexity 7.0000")
    assert third.startswith("update 6/100, epoch 0.6, loss nan, lr 0.0178, ")


def test_the_end_of_a_search_and_a_rollback_are_told_with_their_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shows = told(Clock())
    for action in ("trial", "restore", "raise", "rollback", "hold"):
        read(shows, 5, decision=Decision("none", None, action, f"why {action}"))
    assert capsys.readouterr().out.splitlines() == [
        "update 5: restore: why restore",
        "update 5: rollback: why rollback",
    ]


def test_after_an_earlier_attempt_neither_speed_nor_eta_counts_its_updates(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    shows = told(clock)
    shows.go_on(60)
    clock.now = 10.0
    read(shows, 80)
    shows.validated(80, 8.0, {"perplexity": 7.0})
    first, line = capsys.readouterr().out.splitlines()
    assert first == "goes on after update 60"
    assert line.endswith("16 samples/s, ETA 10 s")


def test_a_run_that_is_to_be_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    shows = told(clock, shown=False)
    shows.go_on(1)
    clock.now = 100.0
    read(shows, 5, decision=Decision("none", None, "restore", "why"))
    shows.validated(5, 0.5, {"perplexity": 7.0})
    shows.close()
    assert capsys.readouterr() == ("", "")


def test_what_a_run_has_come_to_is_told_of_what_it_did() -> None:
    plain = Result.from_json(result_json(rollbacks=0), FOLDER)
    found = FoundLR(1e-4, 0.0178, 23, 5, 0.0178, 1.5)
    why = f"why: toolkit replay {FOLDER}"
    assert len(came_to(plain, FOLDER)) == 1
    assert came_to(replace(plain, rollbacks=1), FOLDER)[1:] == [f"1 rollback; {why}"]
    assert came_to(replace(plain, found=found), FOLDER)[1:] == [
        f"base LR 0.0001 -> 0.0178 found in 23 updates (5 trials); 0 rollbacks; {why}"
    ]
    kept = replace(plain, found=found._replace(lr=1e-4, grown_lr=1e-4), rollbacks=2)
    assert came_to(kept, FOLDER)[1:] == [
        f"base LR 0.0001 kept after a search of 23 updates (5 trials); 2 rollbacks; {why}"
    ]


def test_scores_that_no_training_would_have_had_too_are_said() -> None:
    scales = {"accuracy": Scale(), "loss": loss_of_classes(10)}
    plain = replace(Result.from_json(result_json(rollbacks=0), FOLDER), scales=scales)
    broken = replace(plain, metrics=Metrics({"accuracy": 2.8, "loss": 1620705.0}, {}))
    (_, note) = came_to(broken, FOLDER)
    assert note.startswith("note: loss on test is no better than without any training (loss 2.3026")
    learned = replace(plain, metrics=Metrics({"accuracy": 90.0, "loss": 2.3}, {}))
    undeclared = replace(broken, scales={"accuracy": Scale()})
    for run in (learned, undeclared, replace(broken, status="diverged")):
        assert len(came_to(run, FOLDER)) == 1


def test_an_average_of_the_weights_is_told_where_it_was_judged() -> None:
    plain = Result.from_json(result_json(), FOLDER)
    averaged = replace(plain, recipe_settings={**plain.recipe_settings, "ema_decay": 0.9})
    said = " on test, by the EMA of the weights, after "
    assert said in scores(averaged) == scores(plain).replace(" on test after ", said)
    lost = replace(averaged, status="diverged", metrics=Metrics({}, {}))
    assert "EMA" not in scores(lost)


@pytest.mark.parametrize(
    ("flags", "phrases"),
    [
        ("digits/vit_micro", []),
        ("digits/vit_micro --ema-decay 0 --label-smoothing 0", []),
        (
            "digits/vit_micro --ema-decay 0.9995 --label-smoothing 0.1 --compile",
            [
                "label smoothing 0.1",
                "an average of the weights for evaluation (EMA, decay 0.9995)",
                "torch.compile",
            ],
        ),
        ("imdb/bert-base-uncased --gradient-checkpointing", ["gradient checkpointing"]),
    ],
)
def test_what_a_recipe_has_beside_its_optimizer_is_told(flags: str, phrases: list[str]) -> None:
    assert beside(parse(flags.split()).recipe) == phrases


def test_the_start_says_what_is_beside_and_how_the_weights_are_shared_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = "digits/vit_micro --label-smoothing 0.1 --precision bf16 --log-with none"
    run = build(parse(flags.split()), tmp_path / "runs")
    _announce(run)
    lines = capsys.readouterr().out.splitlines()
    assert lines[4] == "  with: label smoothing 0.1"
    assert re.fullmatch(r"  on: cpu, bf16, \d+ threads? a rank", lines[5])
    kinds = {DistributedType.FSDP: "FSDP2", DistributedType.DEEPSPEED: "DeepSpeed's ZeRO-3"}
    for kind, words in kinds.items():
        state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3))
        shared = SimpleNamespace(distributed_type=kind, state=state, device=torch.device("cpu"))
        monkeypatch.setattr(run, "accelerator", shared)
        _announce(run)
        assert f"  on: cpu, bf16, {words}, " in capsys.readouterr().out


def test_a_run_tells_its_story_in_a_log_file(python: Launch, tmp_path: Path) -> None:
    done = python(*RUN, "schedule:adaptive")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (folder,) = (path.relative_to(tmp_path) for path in tmp_path.glob("runs/single/*"))
    assert lines[0] == "digits/vit_micro@field, seed 0: adaptive from base LR 0.01, adamw"
    assert lines[1:4] == [
        "  samples: train 1,280, validation 200, test 317",
        "  model: 13,770 parameters, random first weights",
        "  budget: 6 epochs, 120 updates of 64 samples = 1 rank x 1 micro-batch x 64",
    ]
    assert f"  in: {folder}, mirrored nowhere" in lines
    evaluations = [line for line in lines if "validation accuracy" in line]
    assert [line.split(",")[0] for line in evaluations] == [
        f"update {update}/120" for update in range(20, 121, 20)
    ]
    assert re.fullmatch(
        r"base LR 0.01 -> \S+ found in \d+ updates \(\d trials\)(, raised to \S+ in training)?; "
        rf"0 rollbacks; why: toolkit replay {folder}",
        lines[-1],
    )
    assert "%|" not in done.stdout + done.stderr


@pytest.mark.processes
def test_a_terminal_of_80_columns_shows_loss_and_lr_first(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, *RUN[:-3], "3", *RUN[-2:], "schedule:cosine"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=theirs, stderr=theirs)
    os.close(theirs)
    output = b""
    while part := _read(ours):
        output += part
    assert process.wait(60) == 0
    bars = [row for row in re.split(r"[\r\n]", output.decode()) if "%|" in row][1:]
    assert bars
    assert all(len(row) <= 80 for row in bars)
    assert all(re.match(r"loss \d\.\d{4}, lr \d\.\d\de-\d\d +\d+%\|", row) for row in bars)
    assert output.count(b"validation accuracy") == 3


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the last process at the other end has left
        return b""


@pytest.mark.processes
def test_a_reader_who_leaves_does_not_end_the_run() -> None:
    code = (
        "import sys; from toolkit.records.console import say\n"
        "say('one'); sys.stdin.read(); say('two'); say('three'); print('four')"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"one\n"
    process.stdout.close()
    process.stdin.close()
    process.stdout = process.stdin = None
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, b"")


def test_what_is_said_is_in_the_order_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("one", "two")
    console.say("three")
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_a_budget_without_room_for_a_search_is_told(python: Launch) -> None:
    done = python(*RUN[:3], "--recipe.updates", "20", "--wandb", "off", "adaptive")
    told = "  adaptive: the untouched model; LR 0.01 is kept: too few updates for a search"
    assert told in done.stdout.splitlines()
