"""What a run keeps for longer runs that go on from it, and where such a run finds it. No torch.

``toolkit.schedules.extension`` says how the LR goes on; ``checkpoint`` saves and loads.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.config import RunConfig, parent_of, run_folder, schedule_name
from toolkit.errors import ConfigError
from toolkit.records.config_file import CONFIG, check_folder
from toolkit.records.json_files import read_json
from toolkit.records.result import RESULT, read_result
from toolkit.records.selected import spent
from toolkit.schedules.extension import holds_until
from toolkit.training.checkpoint_folder import BEFORE_ANNEAL, KEPT, LAST, STATE

if TYPE_CHECKING:
    from toolkit.training.run import Run


def kept_by_parent(config: RunConfig, runs: Path) -> Path:
    """The checkpoint from which an extended run goes on. It may be damaged.

    Args:
        config: the extended run, which has an ``extend``.
        runs: the folder that holds the folders of studies.

    Raises:
        ConfigError: if the run that it extends does not exist, keeps no such checkpoint, or
            has no patience left there.
    """
    parent = parent_of(config)
    assert parent is not None
    folder, holds = run_folder(parent, runs), holds_until(config.schedule) is not None
    flag = "--keep-before-anneal" if holds else "--keep-last-checkpoint"
    if not (folder / CONFIG).exists():
        less = " ".join(f"{budget:g}" for budget in parent.extend)
        raise ConfigError(
            f"extend: there is no run {folder}, which is what this command extends: train it "
            f"first, {f'with --extend {less}' if less else 'without --extend'} and with {flag}"
        )
    check_folder(folder, parent)
    kept = folder / KEPT / (BEFORE_ANNEAL if holds else LAST)
    if not kept.exists():
        raise ConfigError(f"extend: {_why_not(folder, config, flag)}")
    _check_patience_left(folder, kept, parent.patience)
    return kept


def _check_patience_left(folder: Path, kept: Path, patience: int | None) -> None:
    """Refuse to go on from where the patience is spent: a larger budget is not what is lacking.

    Raises:
        ConfigError: if no update would follow.
    """
    try:
        state = read_json(kept / STATE)
    except ConfigError:  # whoever reads the manifest says what is wrong
        return
    if spent(patience, state.get("selection", {}).get("since", 0)):
        raise ConfigError(f"extend: {_without_patience(folder, state['update'])}")


def _without_patience(folder: Path, update: int) -> str:
    return (
        f"the patience of {folder} was spent at update {update}, so no larger budget would change "
        "it: train it without --patience"
    )


def _why_not(folder: Path, config: RunConfig, flag: str) -> str:
    """Why a run cannot be extended."""
    where = "its end" if flag == "--keep-last-checkpoint" else "before its anneal"
    rule = f"{schedule_name(config.schedule)} is extended from {where}, which {flag} keeps"
    if not (folder / RESULT).exists():
        state = folder / "state.json"
        told = read_json(state) if state.exists() else {}
        status = told.get("status", "not started")
        at = f" at update {told.get('update')}" if status == "preempted" else ""
        return f"{folder} is not that far ({status}{at}): {rule}"
    result = read_result(folder)
    if result.selected is not None and result.selected.stopped_early:
        return _without_patience(folder, result.updates)
    if result.diverged:
        return f"{folder} diverged, there is nothing to go on with: {rule}"
    return f"{folder} has kept nothing to go on with: {rule}; train it again, with it and --fresh"


def last_held(config: RunConfig, budget: int) -> int | None:
    """The last reading before the budget makes the schedule anneal; None if it never does."""
    holds = holds_until(config.schedule)
    return None if holds is None else int(budget * holds) // config.read_every * config.read_every


def before_anneal_due(run: "Run") -> bool:
    """Whether the run, as it is after its latest reading, is to be kept for longer runs."""
    asked = run.lr.course
    if not run.keeps_before_anneal:
        return False
    if asked.updates:
        return asked.start == run.update
    return run.update == last_held(run.config, run.budget)


def missed(run: "Run") -> bool:
    """Whether the state before the anneal is to be kept, and the run is beyond it."""
    last, asked = last_held(run.config, run.budget), run.lr.course
    beyond = bool(asked.updates) or (last is not None and run.update > last)
    return run.keeps_before_anneal and beyond
