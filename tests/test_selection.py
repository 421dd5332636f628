"""The best checkpoint by the validation metric, and early stopping: what is kept, and where not."""

import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from tests.conftest import Launch
from toolkit.cli import main
from toolkit.config import RunConfig, parse, run_id
from toolkit.errors import ConfigError
from toolkit.records.result import Result, read_result
from toolkit.records.selected import Selected
from toolkit.scales import Scale
from toolkit.training import loop
from toolkit.training.build import build, weights_sha
from toolkit.training.extension import kept_by_parent
from toolkit.training.ranks import check_whole_weights
from toolkit.training.run import Run
from toolkit.training.selection import Selection

SCRIPT: Mapping[int, float | None] = {10: 50.0, 20: 70.0, 30: None, 40: 70.0, 50: 65.0, 60: 80.0}


def config(*flags: str) -> RunConfig:
    silent = ("--log-with", "none", "--save-every", "20", "--no-progress", "--eval-every", "10")
    return parse(["digits/vit_micro", "--updates", "60", *silent, *flags])


@contextmanager
def scripted(cfg: RunConfig, folder: Path) -> Iterator[tuple[Run, dict[int, dict[str, Any]]]]:
    """A run with the accuracies of ``SCRIPT`` on validation; and the weights evaluated there."""
    run = build(cfg, folder)
    seen: dict[int, dict[str, Any]] = {}
    metrics = run.task.metrics

    def told(predictions: Any, labels: Any, split: Any) -> dict[str, Any]:
        if split is not run.splits.validation:
            return metrics(predictions, labels, split)
        seen[run.update] = {name: value.clone() for name, value in run.model.state_dict().items()}
        return {"accuracy": SCRIPT[run.update]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.task, "metrics", told)
        yield run, seen
    loop.release(run)


def finished(run: Run) -> Result:
    return finished_as(run, "done")


def finished_as(run: Run, status: str) -> Result:
    result = loop.fit(run)
    assert result is not None
    assert json.loads((run.folder / "state.json").read_text())["status"] == status
    return result


def test_a_run_that_diverged_does_not_say_that_its_best_weights_are_kept(tmp_path: Path) -> None:
    with scripted(config("constant", "--lr", "1e30", "--keep-best"), tmp_path) as (run, _):
        result = finished_as(run, "diverged")
    assert result.selected is not None
    assert not result.selected.kept
    assert not (run.folder / "weights").exists()


@pytest.mark.parametrize("flags", [(), ("--ema-decay", "0.8")], ids=["plain", "averaged"])
def test_the_best_weights_are_tested_and_kept_as_they_were_evaluated(
    flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCRIPT, 60, 10.0)  # type: ignore[arg-type]
    with scripted(config("--keep-best", *flags), tmp_path) as (run, seen):
        tested: list[str] = []
        predict = run.task.predict

        def predicted(model: Any, batch: Any) -> Any:
            tested.append(weights_sha(model.state_dict()))
            return predict(model, batch)

        monkeypatch.setattr(run.task, "predict", predicted)
        result = finished(run)
    assert result.selected == Selected("accuracy", 70.0, 20, True, False)
    assert result.updates == 60
    assert result.metrics.validation["accuracy"] == 70.0
    kept = load_file(run.folder / "weights/model.safetensors")
    assert all(torch.equal(kept[name], value) for name, value in seen[20].items())
    assert result.final_weights_sha == weights_sha(seen[20]) == tested[-1]
    assert result.final_weights_sha != weights_sha(seen[60])
    assert read_result(run.folder).selected == result.selected


@pytest.mark.parametrize("at", [27, 45, "test"])
def test_it_stops_for_want_of_patience_and_resumed_it_ends_at_the_same_bits(
    at: int | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three evaluations without a better one are over at update 50; the next reading is at 51.
    flags = ("--keep-best", "--patience", "3", "--read-every", "3", "constant")
    with scripted(config(*flags, "--study", "whole"), tmp_path) as (run, _):
        whole = finished(run)
    assert whole.updates == 51
    assert whole.selected == Selected("accuracy", 70.0, 20, True, True)
    assert str(whole.selected) == (
        "stopped early; the weights are those of update 20, the best on validation (accuracy 70)"
    )
    with scripted(config(*flags), tmp_path) as (run, _):
        predict = run.task.predict

        def stop(run: Run, update: int | str) -> None:
            if update == at:
                signal.raise_signal(signal.SIGTERM)

        def predicted(*args: Any) -> Any:
            stop(run, "test" if run.selection.brought_back else "validation")
            return predict(*args)

        run.after_update.append(lambda run: stop(run, run.update))
        monkeypatch.setattr(run.task, "predict", predicted)
        assert loop.fit(run) is None
    monkeypatch.setattr(run.task, "predict", predict)
    with scripted(config(*flags), tmp_path) as (run, _):
        again = finished(run)
    assert again.final_weights_sha == whole.final_weights_sha
    assert again.batch_order_sha == whole.batch_order_sha
    assert again.metrics == whole.metrics
    assert again.selected == whole.selected


def test_patience_alone_leaves_the_last_weights(tmp_path: Path) -> None:
    with scripted(config("--patience", "1"), tmp_path) as (run, seen):
        result = finished(run)
    assert result.updates == 30
    assert result.selected == Selected("accuracy", 70.0, 20, False, True)
    assert result.final_weights_sha == weights_sha(seen[30])
    said = (
        "patience = 1: cosine lowers the LR towards the end of the budget, which a run that stops"
    )
    assert any(said in note for note in result.notes)
    constant = build(config("--patience", "1", "constant"), tmp_path)
    assert not any("patience" in note for note in constant.notes)


def test_a_metric_that_falls_is_better_and_one_that_stays_is_not() -> None:
    selection = Selection(patience=2)
    scales = {"loss": Scale(higher_is_better=False)}
    run: Any = SimpleNamespace(scales=scales, update=0, budget=9, infinite_at_start=frozenset())
    for update, (loss, since) in enumerate([(2.0, 0), (2.5, 1), (1.5, 0), (1.5, 1), (9.0, 2)], 1):
        run.update = update
        selection.consider(run, {"loss": loss, "other": 0.0})
        assert selection.since == since
        selection.stop_if_due(run, reading_due=True)
        assert selection.stopped == (since == 2)
    assert (selection.metric, selection.value, selection.update) == ("loss", 1.5, 3)


def test_a_metric_that_never_was_a_number_is_said_so() -> None:
    selection = Selection(keep=True, patience=1)
    run: Any = SimpleNamespace(scales={}, update=1, budget=2)
    assert selection.result() is None
    selection.consider(run, {"accuracy": None})
    never = "accuracy on validation was never a number: the weights are the last"
    assert str(selection.result()) == never
    selection.stop_if_due(run, reading_due=True)
    assert selection.result() == Selected("accuracy", None, 0, False, True)
    assert str(selection.result()) == f"stopped early; {never}"
    older = Selected("", None, 0, False, True)
    assert str(older) == "stopped early; the metric" + never.removeprefix("accuracy")


def test_patience_that_is_spent_at_the_end_of_the_budget_stops_nothing(tmp_path: Path) -> None:
    """But there is nothing to extend: no update would follow."""
    flags = ("constant", "--updates", "50", "--patience", "3", "--keep-last-checkpoint")
    with scripted(config(*flags), tmp_path) as (run, _):
        assert finished(run).selected == Selected("accuracy", 70.0, 20, False, False)
    with pytest.raises(ConfigError, match=r"patience of .* was spent at update 50, so no larger"):
        kept_by_parent(config(*flags, "--extend", "90"), tmp_path)


@pytest.mark.parametrize(("patience", "at"), [("2", 40), ("1", 30)], ids=["there", "before it"])
def test_patience_that_is_spent_before_an_anneal_leaves_nothing_to_extend(
    patience: str, at: int, tmp_path: Path
) -> None:
    flags = ("wsd", "--updates", "50", "--patience", patience)  # its anneal begins after 40
    with scripted(config(*flags, "--keep-before-anneal"), tmp_path) as (run, _):
        assert finished(run).updates == at
    with pytest.raises(ConfigError, match=f"patience of .* was spent at update {at}, so no"):
        kept_by_parent(config(*flags, "--extend", "190"), tmp_path)


@pytest.mark.long
def test_lost_weights_are_never_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they score: a guard may bring the run back from them."""
    for update, value in ((30, 95.0), (60, 80.0)):
        monkeypatch.setitem(SCRIPT, update, value)  # type: ignore[arg-type]

    def lose(run: Run) -> None:
        if run.update == 30:
            with torch.no_grad():
                next(run.model.parameters()).fill_(torch.nan)

    with scripted(config("adaptive", "--search", "off", "--keep-best"), tmp_path) as (run, _):
        run.after_update.append(lose)
        result = finished(run)
    assert result.rollbacks
    assert result.selected == Selected("accuracy", 80.0, 60, True, False)


def test_it_belongs_to_the_experiment() -> None:
    plain, *others = (
        run_id(config(*flags))
        for flags in ((), ("--keep-best",), ("--patience", "3"), ("--keep-best", "False"))
    )
    assert len({plain, *others}) == 3
    assert others[2] == plain
    with pytest.raises(ConfigError, match="patience = 0: it must be 1 or above"):
        config("--patience", "0")


@pytest.mark.parametrize("flags", [["--keep-best"], ["--patience", "3"]])
def test_a_comparison_refuses_it_in_one_line(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", "digits/vit_micro", "--seeds", "2", "--output-dir", str(tmp_path)]
    assert main([*command, *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert flags[0].strip("-").replace("-", "_") in line
    assert "the validation metric chooses what is tested" in line
    assert not any(tmp_path.iterdir())


def test_weights_that_are_shared_out_are_refused() -> None:
    sharded: Any = SimpleNamespace(distributed_type=DistributedType.FSDP)
    with pytest.raises(ConfigError, match=r"keep_best = True: .* under FSDP2 it has a part"):
        check_whole_weights(sharded, config("--keep-best"))


@pytest.mark.ranks
def test_two_ranks_choose_the_same_weights(launch: Launch, tmp_path: Path) -> None:
    flags = ("--keep-best", "--patience", "1", "--updates", "40", "--eval-every", "2")
    exact = ("--precision", "fp64", "--log-with", "none", "constant")
    found = {}
    for launcher in ("cpu", "cpu2"):
        study = ("--study", launcher)
        done = launch(launcher, "-m", "toolkit.train", "digits/vit_micro", *flags, *study, *exact)
        assert done.returncode == 0, done.stderr
        (folder,) = tmp_path.glob(f"runs/{launcher}/*")
        weights = load_file(folder / "weights/model.safetensors")
        found[launcher] = (read_result(folder), weights)
    (one, one_weights), (two, two_weights) = found.values()
    assert one.selected == two.selected is not None
    assert one.updates == two.updates < 40
    for name, value in one_weights.items():
        assert torch.allclose(two_weights[name], value, atol=1e-6), name
