"""The command line, the run id and every wrong configuration."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

from tests.conftest import ROOT
from toolkit import cli, launch_files, task
from toolkit.config import (
    RunConfig,
    from_json,
    parse,
    resolve,
    run_folder,
    run_id,
    schedule_name,
    to_json,
)
from toolkit.errors import ConfigError, OlderVersionError
from toolkit.recipe import Recipe
from toolkit.records.config_file import check_folder
from toolkit.schedules import Cosine, GreedyPaper, Plan
from toolkit.task import Target, parse_target

DIGITS = "digits/vit_micro"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cifar10/resnet18", Target("cifar10", "resnet18", "field")),
        ("cifar10/resnet18@plan", Target("cifar10", "resnet18", "plan")),
        ("imdb/a/folder/of/mine", Target("imdb", "a/folder/of/mine", "field")),
        ("my/own.py/net@x", Target("my/own.py", "net", "x")),
    ],
)
def test_target_grammar(text: str, expected: Target) -> None:
    assert parse_target(text) == expected
    assert parse_target(str(expected)) == expected


@pytest.mark.parametrize("text", ["", "digits", "/x", "digits/", "digits/x@"])
def test_a_malformed_target_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="TASK/MODEL"):
        parse_target(text)


def test_flags_override_the_recipe_and_choose_the_schedule() -> None:
    flags = "--seed 3 --recipe.lr 0.5 --recipe.epochs 2 schedule:cosine --schedule.warmup 0.1"
    config = parse([f"{DIGITS}@plan", *flags.split()])
    assert config.schedule == Cosine(warmup=0.1)
    assert (config.seed, config.recipe.lr, config.recipe.epochs) == (3, 0.5, 2)
    assert (config.recipe.optimizer, config.recipe.global_batch) == ("adam", 64)


def test_how_often_a_rival_judges_is_a_flag() -> None:
    for text, every in (("epoch", "epoch"), ("5", 5)):
        config = parse([DIGITS, "schedule:greedy-paper", "--schedule.every", text])
        assert config.schedule == GreedyPaper(every=every)  # type: ignore[arg-type]
        assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_the_plans_table_is_to_the_letter() -> None:
    for target in (
        "digits/vit_micro@plan",
        "cifar10/resnet18@plan",
        "cifar10/efficientnet_b0@plan",
    ):
        recipe = parse([target]).recipe
        assert (recipe.global_batch, recipe.lr, recipe.optimizer) == (64, 0.01, "adam")
        assert (recipe.weight_decay, recipe.epochs, recipe.decay) == (1e-4, 50, "all")
    rule = Plan()
    assert (rule.window, rule.variance_threshold, rule.rate_threshold) == (5, 0.001, 0.01)
    assert rule.multipliers == (0.8, 1.2)


def test_one_kind_of_budget_replaces_the_other() -> None:
    assert parse([DIGITS, "--recipe.updates", "7"]).recipe.epochs is None
    assert parse([DIGITS, "--recipe.updates=7"]).recipe.updates == 7


def test_the_command_line_does_not_grow_unnoticed() -> None:
    names = set(RunConfig.__dataclass_fields__) | set(Recipe.__dataclass_fields__)
    assert names == {
        *("target", "recipe", "schedule", "seed", "arm", "sees", "read_every", "eval_every"),
        *("save_every", "keep_checkpoints", "rank_timeout", "keep_weights", "study", "wandb"),
        *(
            *("log_with", "project", "entity", "tags", "notes"),
            "progress",
            "workers",
            "save_predictions",
            "keep_best",
            "patience",
            "keep_last_checkpoint",
            "keep_before_anneal",
            "extend",
            "rewarm",
            "data",
            "task_sha",
        ),  # of the last two no flag is made
        *("optimizer", "lr", "weight_decay", "momentum", "decay", "epochs", "updates"),
        *("global_batch", "micro_batch", "eval_batch", "clip", "precision", "init"),
        *("metric", "betas", "eps", "nesterov", "compile", "ema_decay"),
    }


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no target"),
        (["digit/vit_micro"], "unknown task 'digit': did you mean digits?"),
        (["digits/vit_micr"], "unknown model of task digits 'vit_micr': did you mean vit_micro or"),
        (
            ["digits/vit_micro@fied"],
            "unknown recipe of digits/vit_micro 'fied': did you mean field?",
        ),
        ([DIGITS, "schedule:cosin"], "unknown schedule 'cosin': did you mean cosine?"),
        ([DIGITS, "schedule:no/such.py:Mine"], "there is no schedule file 'no/such.py'"),
        (["no/such.py/net"], "there is no task file 'no/such.py'"),
        ([DIGITS, "--recipe.lr", "0"], "recipe.lr = 0: it must be a number above 0"),
        ([DIGITS, "--recipe.lr", "-1"], "recipe.lr = -1: it must be a number above 0"),
        ([DIGITS, "--recipe.lr", "nan"], "recipe.lr = nan: it must be a number above 0"),
        ([DIGITS, "--recipe.epochs", "1", "--recipe.updates", "2"], "contradict"),
        ([DIGITS, "--recipe.weight-decay", "-1"], "recipe.weight_decay = -1.0"),
        ([DIGITS, "--seed", "-1"], "seed = -1: it must be 0 or above"),
        ([DIGITS, "--read-every", "0"], "read_every = 0: it must be 1 or above"),
        ([DIGITS, "--study", "a/b"], "study = 'a/b'"),
        ([DIGITS, "schedule:plan", "--schedule.window", "0"], "schedule.window = 0"),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(argv)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_configuration_survives_json() -> None:
    config = parse(["cifar10/resnet18", "--recipe.stem", "imagenet", "schedule:plan"])
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_a_number_has_one_spelling_in_the_id() -> None:
    assert run_id(parse([DIGITS, "--recipe.epochs", "20"])) == run_id(parse([DIGITS]))


def test_what_does_not_change_the_experiment_does_not_change_the_id() -> None:
    config = parse([DIGITS])
    same = replace(config, study="other", wandb="off", progress=False, save_every=0)
    same = replace(same, keep_weights=False, save_predictions=True)
    same = replace(same, recipe=replace(config.recipe, micro_batch=8, eval_batch=3))
    assert run_id(same) == run_id(config)


@pytest.mark.parametrize(
    "flags",
    [
        ["--seed", "1"],
        ["--arm", "1"],
        ["--recipe.lr", "0.02"],
        ["--recipe.precision", "bf16"],
        ["--recipe.global-batch", "32"],
        ["--read-every", "2"],
        ["schedule:linear"],
        ["schedule:cosine", "--schedule.warmup", "0.1"],
    ],
)
def test_what_changes_the_experiment_changes_the_id(flags: list[str]) -> None:
    assert run_id(parse([DIGITS, *flags])) != run_id(parse([DIGITS]))


@pytest.mark.processes
def test_the_id_is_the_same_in_every_process() -> None:
    code = f"from toolkit.config import parse, run_id; print(run_id(parse(['{DIGITS}'])))"
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert done.stdout.strip() == run_id(parse([DIGITS]))


OWN_SCHEDULE = """
from dataclasses import dataclass
from toolkit.schedules import Constant

@dataclass(frozen=True)
class Mine(Constant):
    extra: float = {extra}
"""


def test_a_schedule_of_the_users_own_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN_SCHEDULE.format(extra=1.0))
    argv = [DIGITS, f"schedule:{file}:Mine", "--schedule.extra", "3"]
    config = parse(argv)
    assert config.schedule.extra == 3  # type: ignore[attr-defined]
    assert schedule_name(config.schedule) == f"{file}:Mine"
    before = run_id(config)
    file.write_text(OWN_SCHEDULE.format(extra=1.0) + "# another comment\n")
    assert run_id(parse(argv)) != before
    with pytest.raises(ConfigError, match="does not define Yours"):
        parse([DIGITS, f"schedule:{file}:Yours"])


OLDER = """
from dataclasses import dataclass
from toolkit.schedules import Constant
{imports}
@dataclass(frozen=True)
class Mine(Constant):
    {method}
"""


@pytest.mark.parametrize(
    ("imports", "method"),
    [
        ("", "def start(self, base_lr): return None"),
        ("", "def inform(self, memory, facts): return memory"),
        ("", "def request(self, memory, event): return memory"),
        ("from toolkit.schedules.reading import HOLD", "pass"),
        ("from toolkit.reading import Anneal", "pass"),
    ],
)
def test_a_file_of_the_older_protocol_is_one_line_that_says_what_changed(
    imports: str, method: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OLDER.format(imports=imports, method=method))
    with pytest.raises(ConfigError) as error:
        parse([DIGITS, f"schedule:{file}:Mine"])
    assert "start(base_lr, facts) and observe(memory, reading) return" in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["growth", "plateau"])
def test_a_run_of_an_older_version_of_a_schedule_is_one_line(name: str, tmp_path: Path) -> None:
    """It lacked a setting, or had one more."""
    config = parse([DIGITS, "schedule:adaptive"])
    stored: dict[str, Any] = json.loads(json.dumps(to_json(config)))
    stored["schedule"]["fields"].pop(name, None)
    if name == "plateau":
        stored["schedule"]["fields"][name] = "auto"
    with pytest.raises(OlderVersionError) as error:
        from_json(stored)
    assert "of an older version of adaptive" in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match=r"another configuration \(schedule differ\)"):
        check_folder(tmp_path, config)


def test_a_task_of_the_users_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("mine.py")
    file.write_text("from toolkit.task import load\nTASK = load('digits')\n")
    assert parse([f"{file}/vit_micro"]).target == f"{file}/vit_micro@field"
    file.write_text("")
    with pytest.raises(ConfigError, match="does not define TASK"):
        parse([f"{file}/vit_micro"])
    file.write_text("x = 1\ny = x / 0\n")
    with pytest.raises(
        ConfigError, match=r"mine\.py', line 2: ZeroDivisionError: division by zero"
    ):
        parse([f"{file}/vit_micro"])


def test_auto_precision_is_decided_before_the_id_is_made() -> None:
    resolved = resolve(parse([DIGITS, "--recipe.precision", "auto"]))
    assert resolved.recipe.precision in ("fp32", "bf16")
    assert resolve(resolved) == resolved


def test_a_folder_of_another_configuration_is_refused(tmp_path: Path) -> None:
    config = parse([DIGITS])
    folder = run_folder(config, tmp_path)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_json(config)))
    check_folder(folder, replace(config, wandb="off"))
    with pytest.raises(ConfigError, match=r"another configuration \(seed differ\).*--fresh"):
        check_folder(folder, replace(config, seed=1))
    (folder / "config.json").write_text('{"target":')
    with pytest.raises(ConfigError, match=r"config.json is not JSON.*--fresh"):
        check_folder(folder, config)


def test_every_named_target_exists() -> None:
    for target in task.targets():
        parse([target])


@pytest.mark.parametrize(
    "file", sorted((ROOT / "launch_configs").glob("*.yaml")), ids=lambda file: file.stem
)
def test_every_launch_file_is_one_that_accelerate_takes(file: Path) -> None:
    launch = load_config_from_file(str(file))
    assert launch.num_processes > 0  # or the launcher refuses to start
    if launch.distributed_type == DistributedType.DEEPSPEED:
        stated = json.loads((ROOT / launch.deepspeed_config["deepspeed_config_file"]).read_text())
        assert stated["gradient_clipping"] == "auto"  # left out, DeepSpeed clips at 1


def test_a_launch_file_is_found_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["launch-config", "zero2"]) == 0
    assert Path(capsys.readouterr().out.strip()) == ROOT / "launch_configs/zero2.yaml"
    assert cli.main(["launch-config", "zer2"]) == 2
    assert "unknown launch file 'zer2': did you mean zero2" in capsys.readouterr().err
    assert cli.main(["launch-config"]) == 2


def test_deepspeeds_settings_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(launch_files.DEEPSPEED_FILE, "launch_configs/zero2.json")
    launch_files.find_deepspeed_file()
    assert Path(os.environ[launch_files.DEEPSPEED_FILE]) == ROOT / "launch_configs/zero2.json"
    own = tmp_path / "zero2.json"
    own.write_text("{}")
    monkeypatch.setenv(launch_files.DEEPSPEED_FILE, str(own))
    launch_files.find_deepspeed_file()
    assert Path(os.environ[launch_files.DEEPSPEED_FILE]) == own  # the user's is left alone
    monkeypatch.setenv(launch_files.DEEPSPEED_FILE, "mine.json")
    with pytest.raises(ConfigError, match=r"mine.json: .*write the whole path"):
        launch_files.find_deepspeed_file()
