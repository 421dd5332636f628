"""Trackers other than W&B, by Accelerate's own classes, and which of them a run is told to."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Launch
from toolkit import cli
from toolkit.config import parse, run_id, to_json
from toolkit.errors import ConfigError
from toolkit.records.mirror_handle import check_trackers, mirrored_to, trackers, uploaded_to
from toolkit.records.mirror_rows import Row, follow, project_of
from toolkit.studies.study import Study
from toolkit.train import main

DIGITS = "digits/vit_micro"
FLAGS = [DIGITS, "--updates", "30", "--save-every", "10", "--no-progress", "plan"]


@pytest.fixture(autouse=True)
def no_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)


@pytest.mark.parametrize(
    ("flags", "variables", "found"),
    [
        ("", {}, {"wandb": False}),
        ("--wandb off", {}, {}),
        ("--log-with none", {}, {}),
        ("--log-with wandb", {}, {"wandb": True}),
        ("--log-with wandb", {"WANDB_MODE": "disabled"}, {}),
        ("", {"WANDB_MODE": "online"}, {"wandb": True}),
        ("", {"WANDB_MODE": "offline"}, {"wandb": False}),
        ("--project mine", {}, {"wandb": False}),
        ("", {"WANDB_PROJECT": "mine"}, {"wandb": True}),
        ("--log-with tensorboard", {"WANDB_PROJECT": "mine"}, {"tensorboard": False}),
        ("--log-with tensorboard wandb", {}, {"tensorboard": False, "wandb": True}),
        ("--log-with tensorboard --wandb off", {}, {"tensorboard": False}),
    ],
)
def test_wandb_keeps_a_record_here_unless_an_upload_is_asked_for(
    flags: str, variables: dict[str, str], found: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert trackers(parse([DIGITS, *flags.split()])) == found


def test_the_first_lines_say_where_a_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mirrored_to(parse([DIGITS, "--log-with", "none"])) == "mirrored nowhere"
    here = "mirrored to W&B on this machine (--log-with wandb uploads)"
    assert mirrored_to(parse([DIGITS])) == here
    several = parse([DIGITS, "--log-with", "wandb", "tensorboard", "--entity", "us"])
    assert mirrored_to(several) == "mirrored to W&B and TensorBoard"
    assert uploaded_to(several) == "; to be uploaded to W&B as us/adaptive-lr-toolkit"
    assert uploaded_to(parse([DIGITS])) == ""
    monkeypatch.setenv("WANDB_MODE", "offline")
    here = "mirrored to W&B on this machine (WANDB_MODE=offline) and TensorBoard"
    assert mirrored_to(several) == here
    assert uploaded_to(several) == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--log-with tensorbord", "--log-with tensorbord: did you mean tensorboard? it must be"),
        ("--log-with none wandb", "log_with = none wandb: none stands alone"),
        ("--log-with wandb --wandb off", "log_with = wandb and wandb = off contradict"),
    ],
)
def test_a_wrong_tracker_is_an_error_in_one_line(
    flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", DIGITS, *flags.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"log_with": ("comet",)}, r"log_with\[0\] = 'comet' is not one of wandb, tensorboard"),
        ({"log_with": "mlflow"}, "log_with = 'mlflow' is not a list"),
        ({"tags": "mine"}, "tags = 'mine' is not a list"),
        ({"wandb": "on"}, "wandb = 'on' is not one of auto, off"),
    ],
)
def test_python_is_told_what_trackers_are(told: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Study.grid(DIGITS, ["cosine"], **told)


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a#b", "a?b", "a%b", "a:b", "a" * 129])
def test_a_project_that_wandb_does_not_take_is_refused_before_the_run(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = ["--project", name]
    with pytest.raises(ConfigError, match=r"^project = .*at most 128 characters, and none of / "):
        check_trackers(parse([DIGITS, *named]))
    check_trackers(parse([DIGITS, *named, "--log-with", "tensorboard"]))  # it has no projects
    check_trackers(parse([DIGITS, "--project", "mine @field, 2"]))
    monkeypatch.setenv("WANDB_PROJECT", name)
    with pytest.raises(ConfigError, match=r"^WANDB_PROJECT = "):
        check_trackers(parse([DIGITS]))
    check_trackers(parse([DIGITS, "--project", "mine"]))


def test_what_trackers_are_told_is_no_part_of_the_experiment() -> None:
    flags = "--project p --entity e --tags a b --notes n --log-with none"
    told = parse([DIGITS, *flags.split()])
    assert (told.project, told.entity, told.tags, told.notes) == ("p", "e", ("a", "b"), "n")
    assert run_id(told) == run_id(parse([DIGITS]))


@pytest.mark.parametrize(
    ("flags", "variables", "project"),
    [
        ("", {}, "adaptive-lr-toolkit"),
        ("", {"WANDB_PROJECT": "of the shell"}, "of the shell"),
        ("--project mine", {"WANDB_PROJECT": "of the shell"}, "mine"),
    ],
)
def test_a_flag_names_the_project_before_the_environment_does(
    flags: str, variables: dict[str, str], project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert project_of(to_json(parse([DIGITS, *flags.split()])), "wandb") == project


def test_a_tracker_that_is_not_installed_is_refused_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main([*FLAGS, "--log-with", "mlflow"]) == 2
    error = capsys.readouterr().err
    assert error == (
        "error: --log-with mlflow needs the package mlflow: "
        "pip install 'adaptive-lr-toolkit[mlflow]'\n"
    )
    assert not list(tmp_path.rglob("config.json"))


def rows_of(folder: Path) -> list[Row]:
    import threading

    over = threading.Event()
    over.set()
    return [row for row, _ in follow(folder, 0, over)]


def read_tensorboard(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (place,) = folder.glob("tensorboard/*")
    read = EventAccumulator(str(place), {"scalars": 0, "tensors": 0})
    read.Reload()
    return read


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> steps and values, as TensorBoard itself reads them."""
    read = read_tensorboard(folder)
    return {
        tag: [(one.step, one.value) for one in read.Scalars(tag)] for tag in read.Tags()["scalars"]
    }


def check_scalars(folder: Path) -> None:
    """TensorBoard has each number of the run's events once, and no others."""
    found = scalars(folder)
    expected: dict[str, list[tuple[int, float]]] = {}
    for row in rows_of(folder):
        for name, value in row.values.items():
            expected.setdefault(name, []).append((int(row.axes["update"]), value))
    assert set(expected) <= set(found)
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        assert [v for _, v in found[name]] == pytest.approx([v for _, v in points], rel=1e-6)


@pytest.mark.processes
@pytest.mark.ranks
def test_tensorboard_has_the_numbers_of_the_events_of_two_ranks(
    launch: Launch, tmp_path: Path
) -> None:
    # As SLURM has it where a launcher is started on each of two nodes.
    env: Any = {"WANDB_MODE": None, "PMI_SIZE": "2", "PMI_RANK": "0"}
    flags = [*FLAGS[:-1], "--tags", "first", "so long", "--notes", "Why?", "--clip", "1", "plan"]
    flags += ["--log-with", "tensorboard", "--eval-every", "10"]
    done = launch("cpu2", "-m", "toolkit.train", *flags, env=env, cold=True)
    assert done.returncode == 0, done.stderr
    (folder,) = (file.parent for file in tmp_path.glob("runs/single/*/result.json"))
    check_scalars(folder)
    assert scalars(folder)["rollbacks"] == [(30, 0.0)]
    assert not list(folder.glob("wandb"))
    assert "train/grad_norm" in scalars(folder)
    (settings,) = folder.glob("tensorboard/*/*/hparams.yml")
    assert {"recipe_settings.lr: 0.01", "parameters: 13770"} <= {*settings.read_text().split("\n")}
    assert settings.parts[-3] == "digits-vit_micro@field plan LR 0.01 seed 0"
    read = read_tensorboard(folder)
    for tag, text in (("tags", b"first, so long"), ("notes", b"Why?")):
        (one,) = read.Tensors(f"{tag}/text_summary")
        assert list(one.tensor_proto.string_val) == [text]


@pytest.mark.processes
def test_a_run_that_goes_on_has_no_step_twice(python: Launch, tmp_path: Path) -> None:
    task = (
        "import os, sys\nfrom toolkit import train\n"
        "def kill(run):\n    if run.update == 25:\n"
        "        run.record.close()\n        sys.exit(9)\n"
        f"raise SystemExit(train.main({[*FLAGS, '--log-with', 'tensorboard']!r}, HOOKS))"
    )
    assert python("-c", task.replace("HOOKS", "[kill]")).returncode == 9
    done = python("-c", task.replace("HOOKS", "[]"))
    assert done.returncode == 0, done.stderr
    (folder,) = (file.parent for file in tmp_path.glob("runs/single/*/result.json"))
    assert "resume" in (folder / "events.jsonl").read_text()
    check_scalars(folder)
    said = (folder / "console.log").read_text().splitlines()
    assert sum(line.startswith("digits/vit_micro@field, seed 0: plan") for line in said) == 2
    assert said[-1] == done.stdout.splitlines()[-1]
    assert json.loads((folder / "result.json").read_text())["status"] == "done"
