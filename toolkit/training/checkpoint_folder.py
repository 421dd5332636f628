"""The folder of a run's checkpoints: which one to go on from, and which may go. No torch.

In ``checkpoints`` there are ``update-N``, each with a manifest; ``update-N.partial`` while one is
written; ``damaged-update-N``, set aside for whoever wants to look; and ``notes.json``, with what
was said about them, for the result. Anything else in there is none of the run's business: it is
never read, moved or removed. Rank 0 alone calls these functions.

What a run keeps for runs that extend it lies beside it, in ``kept``: ``last``, the checkpoint after
the last update, and ``before-anneal``.
"""

import os
import re
import shutil
import sys
from pathlib import Path

from toolkit.config import WEIGHTS, RunConfig
from toolkit.errors import ConfigError, RunError
from toolkit.records import console
from toolkit.records.json_files import read_json, sync, write_json
from toolkit.training import manifest
from toolkit.words import counted

CHECKPOINTS, NOTES = "checkpoints", "notes.json"
STATE = "toolkit.json"
"""Of a checkpoint: where the run stands, but for its tensors."""
DAMAGED = "damaged-"
KEPT, LAST, BEFORE_ANNEAL = "kept", "last", "before-anneal"
OF_EARLIER_VERSIONS = "random_states_*.pkl"
"""Files that checkpoints had before they had a manifest."""
_NAME = re.compile(r"update-(0|[1-9][0-9]*)")


def newest(folder: Path, run_id: str, launch: str, ranks: int) -> Path | None:
    """The newest checkpoint that is as it was written; newer ones, which are not, are set aside.

    Args:
        folder: the run's ``checkpoints``; it need not exist.
        run_id, launch, ranks: of the run that is to go on; see ``Manifest``.

    Returns:
        None if there is no such checkpoint.

    Raises:
        RunError: if the newest is whole, and this launch or this version cannot go on from it. It
            stays as it is.
        OSError: if the folder cannot be read or a checkpoint not be set aside.
    """
    damaged: list[tuple[Path, str]] = []
    for path in _newest_first(folder):
        problem = _problem(path, run_id, launch, ranks)
        if problem is None:
            _set_aside(folder, damaged, f"going on from {path.name}")
            return path
        damaged.append((path, problem))
    _set_aside(folder, damaged, "starting over, for there is no other")
    return None


def prepare(folder: Path, update: int) -> Path:
    """An empty folder to write a checkpoint to, without what processes that were killed left.

    Raises:
        OSError: if it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in list(folder.iterdir()):
        if path.suffix == ".partial" and _NAME.fullmatch(path.stem):
            _remove(path)
    partial = folder / f"update-{update}.partial"
    partial.mkdir()
    return partial


def publish_before_anneal(partial: Path, run: Path) -> str | None:
    """Keep a checkpoint with a manifest as the one before the anneal, and read it back.

    Args:
        partial: from ``prepare``, with everything in it.
        run: the run's folder.

    Returns:
        What was said if it was not read back as it was written; it is not kept then.
    """
    if problems := manifest.verify(partial, from_disk=True):
        _remove(partial)
        return say(partial.parent, f"the state before the anneal is not kept: {problems[0]}")
    _keep(partial, run / KEPT / BEFORE_ANNEAL)
    return None


def _keep(path: Path, kept: Path) -> None:
    """Move a checkpoint to where it is kept, in the place of another."""
    kept.parent.mkdir(exist_ok=True)
    if os.path.lexists(kept):
        _remove(kept)
    path.rename(kept)
    sync(kept.parent)


def check_kept(path: Path, update: int | None, run_id: str, launch: str, ranks: int) -> None:
    """Refuse a checkpoint that was kept by a run, where another cannot go on from it.

    Args:
        path: the checkpoint.
        update: that it must be of; None if of any.
        run_id: of the run that kept it.
        launch, ranks: of the run that goes on; see ``Manifest``.

    Raises:
        RunError: saying why.
    """
    try:
        stated = manifest.read(path)
        problems = [] if stated.run_id == run_id else [f"it is of the run {stated.run_id}"]
        if update not in (None, stated.update):
            problems.append(f"it is of update {stated.update}, not {update}")
        problems = problems or manifest.verify(path)
    except ValueError as error:
        problems = [str(error)]
    if problems:
        again = "make it once more with --fresh"
        raise RunError(f"{path} cannot be gone on from: {'; '.join(problems[:3])}; {again}")
    _check_launch(path, stated, launch, ranks)


def publish(partial: Path, keep: int) -> str | None:
    """Give a checkpoint with a manifest its name, read it back, and only then remove older ones.

    Args:
        partial: from ``prepare``, with everything in it.
        keep: checkpoints that stay, this one included.

    Returns:
        What was said if it was not read back as it was written; the older ones stay then.

    Raises:
        OSError: if it cannot be renamed.
    """
    folder, final = partial.parent, partial.with_suffix("")
    if os.path.lexists(final):  # not of this run: there is none of a later update than the run's
        _rename_aside(final)
    partial.rename(final)
    sync(folder)
    if problems := manifest.verify(final, from_disk=True):
        return _set_aside(folder, [(final, problems[0])], "the older ones stay")
    older = [path for path in _newest_first(folder) if _update(path) < _update(final)]
    for path in [path for path in older if (path / manifest.MANIFEST).exists()][keep - 1 :]:
        gone = path.with_name(f"{path.name}.partial")
        path.rename(gone)  # or a kill would leave half of one under its name
        shutil.rmtree(gone, ignore_errors=True)
    return None


def finish_run(run: Path, config: RunConfig, diverged: bool) -> None:
    """``finish`` what its configuration asks for; of a run that diverged nothing is kept."""
    wanted = config.keep_weights, config.keep_last_checkpoint
    finish(run, *(asked and not diverged for asked in wanted))


def finish(run: Path, weights_wanted: bool, last_wanted: bool = False) -> None:
    """Remove the checkpoints of a run whose result is whole: nothing goes on from them.

    They stay if they are all that there is of its weights. What was set aside stays, too.

    Args:
        run: the run's folder.
        weights_wanted: whether its trained weights were to be kept.
        last_wanted: whether the checkpoint after its last update was.
    """
    folder = run / CHECKPOINTS
    if not folder.is_dir() or (weights_wanted and not (run / WEIGHTS).exists()):
        return
    if last_wanted and (found := _newest_first(folder)):
        _keep(found[0], run / KEPT / LAST)
    for path in list(folder.iterdir()):
        if path.name == NOTES or _NAME.fullmatch(path.name.removesuffix(".partial")):
            _remove(path)
    if not folder.is_symlink() and not any(folder.iterdir()):
        folder.rmdir()


def has_any(folder: Path) -> bool:
    """Whether there is a checkpoint, whole or not."""
    return bool(_newest_first(folder))


def say(folder: Path, sentence: str) -> str:
    """Print a warning, and note it down for the result of the run.

    Args:
        folder: the run's ``checkpoints``.
        sentence: the warning.

    Returns:
        The sentence.
    """
    print(f"warning: {sentence}", file=sys.stderr, flush=True)
    console.keep(f"warning: {sentence}")
    told = notes(folder)
    if sentence not in told:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / NOTES, {"notes": [*told, sentence]})
    return sentence


def notes(folder: Path) -> list[str]:
    """What was said so far, in this process or in earlier ones."""
    if not (folder / NOTES).exists():
        return []
    try:
        return [str(sentence) for sentence in read_json(folder / NOTES)["notes"]]
    except (ConfigError, KeyError, TypeError):
        return [f"{folder / NOTES} was damaged: what was said before that is lost"]


def _newest_first(folder: Path) -> list[Path]:
    """What is called like a checkpoint and is a folder."""
    if not folder.is_dir():
        return []
    named = (path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())
    return sorted(named, key=_update, reverse=True)


def _update(path: Path) -> int:
    return int(path.name.removeprefix("update-"))


def _problem(path: Path, run_id: str, launch: str, ranks: int) -> str | None:
    """What is wrong with a checkpoint; None if it is whole and of this run and launch."""
    if not (path / manifest.MANIFEST).exists() and any(path.glob(OF_EARLIER_VERSIONS)):
        raise RunError(
            f"{path} is of an earlier version of the toolkit, and has no list of its files to "
            "check them by: finish the run with that version, or start over with --fresh"
        )
    try:
        stated = manifest.read(path)
    except ValueError as error:
        return str(error)
    if stated.run_id != run_id:
        return f"it is of the run {stated.run_id}"
    if stated.update != _update(path):
        return f"it is of update {stated.update}"
    _check_launch(path, stated, launch, ranks)
    problems = manifest.verify(path)
    return "; ".join(problems[:3]) if problems else None


def _check_launch(path: Path, stated: manifest.Manifest, launch: str, ranks: int) -> None:
    """With DDP every rank has all of everything, so the world size may change; else it may not."""
    if stated.launch != launch:
        raise RunError(
            f"{path} was written under {manifest.name_of(stated.launch)}, this is "
            f"{manifest.name_of(launch)}: use the launch config that the run was started with, or "
            "start over with --fresh"
        )
    if launch != manifest.DDP and stated.ranks != ranks:
        raise RunError(
            f"{path} is of {counted(stated.ranks, 'rank')}, not of {ranks}: checkpoints of "
            f"{manifest.name_of(launch)} continue on as many as wrote them; use {stated.ranks}, or "
            "start over with --fresh"
        )


def _set_aside(folder: Path, damaged: list[tuple[Path, str]], then: str) -> str:
    """Set aside what is damaged, say so in a line each, and return the last."""
    said = ""
    for path, problem in damaged:
        aside = _rename_aside(path)
        said = say(folder, f"{path} is damaged ({problem}): kept as {aside.name}, {then}")
    return said


def _rename_aside(path: Path) -> Path:
    aside, number = path.with_name(f"{DAMAGED}{path.name}"), 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{DAMAGED}{path.name}-{number}")
    path.rename(aside)
    return aside


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
