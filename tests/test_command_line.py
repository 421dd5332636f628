"""The command line as a user types it: short flags, any order, errors, help, listings, pipes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit import cli, task
from toolkit.config import parse, parse_command, run_id
from toolkit.errors import ConfigError
from toolkit.run_arguments import parse_schedule
from toolkit.schedules import SCHEDULES, Adaptive, Cosine, Plateau
from toolkit.studies import shipped

DIGITS = "digits/vit_micro"
LONGEST_HELP = 60
NEEDS_AN_ARGUMENT = """
from dataclasses import dataclass
from toolkit.schedules.open_loop import OpenLoop

@dataclass(frozen=True)
class Mine(OpenLoop):
    height: float

    def shape(self, progress: float) -> float:
        return self.height
"""


@pytest.mark.parametrize(
    "short",
    [
        "--lr 0.5 --epochs 2 --seed 3 cosine --warmup 0.1",
        "cosine --seed=3 --warmup 0.1 --lr 0.5 --epochs 2",
        "--warmup=0.1 --seed 3 --recipe.lr 0.5 schedule:cosine --epochs 2",
        "--schedule.warmup 0.1 --lr 0.5 --seed 3 --epochs 2",
    ],
)
def test_short_flags_in_any_order_are_the_long_ones(short: str) -> None:
    long = "--recipe.lr 0.5 --recipe.epochs 2 --seed 3 schedule:cosine --schedule.warmup 0.1"
    assert parse([DIGITS, *short.split()]) == parse([DIGITS, *long.split()])


def test_true_and_false_have_short_forms() -> None:
    config = parse([DIGITS, "--no-progress", "--optimizer", "sgd", "--nesterov", "adaptive"])
    assert (config.progress, config.recipe.nesterov) == (False, True)
    assert config.schedule == Adaptive()
    assert parse([DIGITS, "--progress", "False", "--nesterov", "False"]).progress is False
    assert parse([DIGITS, "adaptive", "--no-growth"]).schedule == Adaptive(growth=False)
    assert parse([DIGITS, "adaptive", "--schedule.no-growth"]).schedule == Adaptive(growth=False)


def test_a_value_is_no_schedule_even_if_it_is_called_like_one() -> None:
    assert parse([DIGITS, "--study", "cosine", "linear"]).study == "cosine"
    betas = parse([DIGITS, "--betas", "0.8", "0.9", "linear"])
    assert betas.recipe.betas == (0.8, 0.9)
    assert type(betas.schedule) is SCHEDULES["linear"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--lrr 3", "unknown flag '--lrr': did you mean --lr or"),
        ("--schedule.window 3", "unknown flag '--schedule.window': did you mean --schedule.warmup"),
        ("wsd --decay 0.1", "--decay may be --recipe.decay and --schedule.decay: write one"),
        ("--seed x", "--seed x: it must be a whole number"),
        ("--seed", "--seed: it must be a whole number"),
        ("--epochs many", "--recipe.epochs many: it must be a finite number or None"),
        ("--betas 1", "--recipe.betas 1: it must be 2 values, each a finite number or None"),
        ("--sees all", "--sees all: it must be one of training, validation, both"),
        (
            "plateau --every never",
            "--schedule.every never: it must be a whole number or one of epoch",
        ),
        ("--seed 3 4", "--seed takes one value, and '4' is no schedule or flag"),
        ("--progress maybe", "'maybe' is no schedule or flag"),
        ("cosin", "unknown schedule 'cosin': did you mean cosine?"),
        ("mine.py", "'mine.py' is no schedule or flag; a schedule of your own is named with its"),
        ("schedule-free", "the optimizer of that name is --optimizer schedule-free"),
        ("--sees trainin", "--sees trainin: did you mean training? it must be one of"),
        ("plateau --every epoc", "--schedule.every epoc: did you mean epoch? it must be"),
        ("cosine linear", "cosine and linear: a run has one schedule; toolkit compare takes"),
        ("--no-seed", "unknown flag '--no-seed': did you mean --seed"),
        ("--optimizer adamm", "recipe.optimizer = adamm: did you mean adam"),
        ("--optimizer torch.optim", "or module:Class, such as torch.optim:RMSprop"),
        ("--optimizer sgd --betas 0.9 0.9", "recipe.betas = (0.9, 0.9): sgd has no such setting"),
        ("--nesterov", "recipe.nesterov = True: adamw has no such setting"),
        ("--dropout 1.5", "recipe.dropout = 1.5: it must be at least 0, below 1"),
        ("--momentum -1", "recipe.momentum = -1: it must be at least 0, below 1"),
        ("--betas 0.9 1", "recipe.betas = (0.9, 1.0): they must be two numbers, at least 0"),
    ],
)
def test_an_error_is_one_line_that_names_the_flag(
    argv: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", DIGITS, *argv.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("swep", "unknown verb 'swep': did you mean sweep?"),
        ("sweep demo --dryrun", "unknown flag '--dryrun': did you mean --dry-run or"),
        ("sweep", "the following arguments are required: study; toolkit sweep --help says more"),
        ("sweep demo --lease x", "--lease: could not convert string to float: 'x'; toolkit sweep"),
        ("report runs/a --wanb x", "unknown flag '--wanb': did you mean --wandb?"),
        ("list all", "'all' is one word too many; toolkit list --help says more"),
        ("replay x.csv --base 3", "unknown flag '--base': did you mean --base-lr"),
        ("replay x.csv cosin", "unknown schedule 'cosin': did you mean cosine?"),
        ("sweep demo {empty}", "'' is one word too many; toolkit sweep --help says more"),
        ("explain runs/a/b", "the following arguments are required: --update"),
    ],
)
def test_the_other_verbs_say_it_in_one_line_too(
    argv: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([word.format(empty="") for word in argv.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_schedule_without_defaults_says_what_it_lacks(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(NEEDS_AN_ARGUMENT)
    assert parse([DIGITS, f"{file}:Mine", "--height", "2"]).schedule.height == 2  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"--schedule\.height is missing"):
        parse([DIGITS, f"{file}:Mine"])


def test_a_schedule_alone_takes_the_same_forms() -> None:
    assert parse_schedule(["plateau", "--every", "3"]) == Plateau(every=3)
    assert parse_schedule(["schedule:cosine", "--schedule.warmup=0.5"]) == Cosine(warmup=0.5)
    assert parse_schedule([]) is None


@pytest.mark.parametrize("target", [DIGITS, "imdb/lstm-glove", "lm/gpt2", "squad_v2/roberta-base"])
def test_help_fits_a_screen_and_is_about_the_schedule_that_is_named(
    target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = {}
    for form in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as stop:
            cli.main(["train", target, "adaptive", form])
        assert not stop.value.code
        shown[form] = capsys.readouterr().out
    short = shown["--help"].splitlines()
    assert len(short) < LONGEST_HELP
    assert max(map(len, short[1:])) <= 80
    assert "--growth (True)" in shown["--help"]
    assert "--pct-start" not in shown["--help"]
    assert "Two such arms of a seed have the same first weights" in " ".join(
        shown["--help-all"].split()
    )


@pytest.mark.parametrize("verb", ["train", "compare", "find"])
def test_help_lists_no_flag_that_is_refused(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    of_one_run = ("--keep-best", "--patience", "--extend", "--keep-last-checkpoint")
    for form in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            cli.main([verb, DIGITS, form])
        shown = capsys.readouterr().out
        listed = {flag for flag in of_one_run if f"\n  {flag}" in shown}
        if verb == "train" and form == "--help-all":
            assert listed == {*of_one_run}
        elif verb == "train":
            assert listed == {"--keep-best", "--patience"}  # what extends a run is all or nothing
        else:
            assert not listed
    with pytest.raises(SystemExit):
        cli.main(["sweep", "--help"])
    assert not any(flag in capsys.readouterr().out for flag in of_one_run)


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in cli.VERBS:
        with pytest.raises(SystemExit) as stop:
            cli.main([verb, "--help"])
        assert not stop.value.code
        assert f"toolkit {verb}" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "toolkit 0.1.0\n"


@pytest.mark.processes
def test_the_list_needs_no_torch_and_names_everything() -> None:
    code = (
        "import sys; from toolkit import cli; cli.main(['list']);"
        "sys.exit(bool({'torch', 'transformers', 'pandas'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    named = {words[0]: words[1:] for words in lines}
    for name in (*task.names(), *SCHEDULES, *shipped.STUDIES):
        assert len(named[name]) > 1, name  # words beside it


def test_the_list_of_targets_is_that_of_the_tasks() -> None:
    package = task.package()
    listed = {
        f"{name}/{model}@{recipe}"
        for name, models in package.TARGETS.items()
        for model, recipes in models.items()
        for recipe in recipes
    }
    assert listed == set(task.targets())


@pytest.mark.processes
@pytest.mark.parametrize("argv", [("list",), ("train", DIGITS, "--help-all"), ("sweep", "--help")])
def test_a_reader_that_has_left_is_no_error(argv: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "toolkit.cli", *argv], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert done.returncode in (0, 1)  # argparse's own help is silent about it
    assert done.stderr == b""


@pytest.mark.long
def test_runs_lie_where_one_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = [DIGITS, "--updates", "2", "--wandb", "off", "--no-progress"]
    elsewhere = [*argv, "--output-dir", "else/where"]
    config, _, runs = parse_command(elsewhere)
    assert run_id(config) == run_id(parse(argv))
    assert runs == Path("else/where/runs")
    assert cli.main(["train", *elsewhere]) == 0
    (file,) = tmp_path.rglob("result.json")
    assert file.parent == tmp_path / runs / "single" / run_id(config)
    capsys.readouterr()
    assert cli.main(["train", *elsewhere]) == 0  # shows it
    assert "else/where/runs/single" in capsys.readouterr().out
    assert cli.main(["report", "runs/single", "--output-dir", "else/where"]) == 0
    assert (tmp_path / "else/where/runs/single/report/index.html").exists()
    assert not (tmp_path / "runs").exists()
