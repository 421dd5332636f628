"""Save a run and go on with it; keep the weights of a finished one.

A checkpoint is the folder ``checkpoints/update-N`` in the run's folder:

* ``model.pt`` and ``optimizer.pt``; under FSDP2 ``shards_RANK.pt``, that rank's part of both; under
  DeepSpeed ``engine/``, which is the engine's own;
* ``random_RANK.json``, the states of that rank's random number generators;
* ``snapshot_RANK.pt``, the last good state that the rank could go back to, if there is one;
* ``distance_RANK.pt``, the rank's estimate of the distance, if the schedule uses one;
* ``best_0.pt``, the best weights so far, if the run keeps them;
* ``toolkit.json``, the run's counters and the schedule's memory;
* ``manifest.json``, by which damage is found before any of it is loaded (``manifest``).

It is whole or absent: it is written under another name, and renamed when it is on the disk. Which
one to go on from, and when older ones go, is decided in ``checkpoint_folder``. Tensors are loaded
with ``weights_only``, which runs no code of a file; DeepSpeed's engine knows no such thing, so its
shards are trusted once their SHA-256 are right.

The position in the data needs no file, for the batches follow from the number of the update.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import DistributedType, broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from toolkit.config import PARENT, parent_of, run_id, to_json
from toolkit.errors import ConfigError, RunError, error_text
from toolkit.records.events import RESUME, START, decision_to_json
from toolkit.records.json_files import read_json, sync, write_json
from toolkit.records.provenance import changes, continued, origin
from toolkit.records.recorder import Recorder
from toolkit.schedules import memory_to_json
from toolkit.schedules.extension import holds_until
from toolkit.training import checkpoint_folder, extension, manifest
from toolkit.training.build import budget_of, weights_sha
from toolkit.training.checkpoint_folder import BEFORE_ANNEAL, CHECKPOINTS, KEPT, STATE
from toolkit.training.random_state import random_state, set_random_state
from toolkit.training.ranks import launch_of
from toolkit.training.run import Run
from toolkit.training.sharding import load_shards, shards

MODEL, OPTIMIZER, ENGINE = "model.pt", "optimizer.pt", "engine"
SHARDS = "shards"
TENSORS = ("snapshot", "distance", "best")
"""What each rank saves by itself, where there is such; the best weights are those of rank 0."""


def start_or_resume(run: Run) -> None:
    """Open the run's records, and continue from its newest whole checkpoint if there is one.

    A collective: all ranks call it.

    Raises:
        RunError: if the checkpoint is of another kind of launch or of another version.
    """
    accelerator, folder = run.accelerator, run.folder / CHECKPOINTS
    path, state, run.keeps_before_anneal, extends = _choose(run)
    at, events = state.get("update", 0), None if extends else state.get("events")
    run.record = Recorder(run.folder, accelerator, run.config, run.budget, at, events, run.scales)
    if accelerator.is_main_process:
        for problem in run.record.problems:
            checkpoint_folder.say(folder, problem)
        run.notes = (*run.notes, *checkpoint_folder.notes(folder))
    run.origin = origin(str(accelerator.device.type), accelerator.num_processes)
    if path is None:
        _note_start(run)
        return
    try:
        _set_state(run, state, _load(run, path))
    except ValueError as error:  # the schedule has another memory now
        again = "make that run once more" if extends else "--fresh starts over"
        raise RunError(f"{path} cannot be continued: {error}; {again}") from error
    _note_changes(run)
    if extends:
        _extend(run)
    else:
        run.record.event(RESUME, run.update, world_size=accelerator.num_processes)
    if extension.missed(run) and accelerator.is_main_process:
        said = "the anneal has begun: there is no state from before it to keep"
        run.notes = (*run.notes, checkpoint_folder.say(folder, said))


def _extend(run: Run) -> None:
    """Go on from the state of a shorter run under this one's budget, and write down from where."""
    run.lr.extend(run.config.rewarm)
    begun = {"memory": memory_to_json(run.lr.memory), "course": run.lr.course.to_json()}
    _note_start(run, parent=to_json(run.config)[PARENT], begun=begun)


def _note_start(run: Run, **more: Any) -> None:
    """Write down what the run begins with: what its schedule knows and decides, and its size."""
    facts, decision = run.lr.facts.to_json(), decision_to_json(run.lr.decision)
    size = {"parameters": run.parameters, "trained_parameters": run.trained_parameters}
    begins = {"epoch": run.epoch, "facts": facts, **size, **decision}
    run.record.event(START, run.update, **begins, **more)


def save(run: Run) -> None:
    """Write a checkpoint of the run after its latest update; then older ones may go.

    A collective: all ranks call it, at a reading, so that no loss waits in the meter.

    Raises:
        RunError: if the ranks do not write to one place.
    """
    _write(run, lambda partial: checkpoint_folder.publish(partial, run.config.keep_checkpoints))
    run.saved_at, run.saved_when, run.save_agreed = run.update, time.monotonic(), False


def keep_before_anneal(run: Run) -> None:
    """Write a checkpoint that stays, for runs that extend this one. A collective, as ``save``."""
    _write(run, lambda partial: checkpoint_folder.publish_before_anneal(partial, run.folder))
    run.keeps_before_anneal = False


def _write(run: Run, publish: Callable[[Path], str | None]) -> None:
    """Write a checkpoint, which ``publish`` gives its name; it returns what it has said, if so."""
    accelerator, folder = run.accelerator, run.folder / CHECKPOINTS
    state, tensors = _state(run)
    with run.record.span("checkpoint"):
        partial = folder / f"update-{run.update}.partial"
        if accelerator.is_main_process:
            checkpoint_folder.prepare(folder, run.update)
        accelerator.wait_for_everyone()
        _write_tensors(run, partial, tensors)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _complete(run, partial, state)
            if (said := publish(partial)) is not None:
                run.notes = (*run.notes, said)
        accelerator.wait_for_everyone()


def _note_changes(run: Run) -> None:
    """Say what the run goes on with that it did not begin with."""
    found = changes(run.origin)
    if found and run.accelerator.is_main_process:
        said = f"the run was continued at update {run.update} elsewhere: {'; '.join(found)}"
        run.notes = (*run.notes, checkpoint_folder.say(run.folder / CHECKPOINTS, said))


def keep_weights(state: dict[str, torch.Tensor], file: Path) -> None:
    """Write weights and buffers into one file, whole or not at all, and read it back.

    Each is stored by itself: cuDNN lays all weights of an LSTM into one memory, of which the
    library's own functions would keep one name.

    Raises:
        OSError: if the file cannot be written, or is not read back as it was written.
    """
    file.parent.mkdir(exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    try:
        save_file(copies, partial)
        sync(partial)
        whole = weights_sha(load_file(partial)) == weights_sha(copies)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    if not whole:
        raise OSError(f"{partial} is not read back as it was written")
    partial.replace(file)
    sync(file.parent)


class Choice(NamedTuple):
    """What a run begins with.

    Attributes:
        path: the checkpoint to go on from; None if there is none.
        state: its ``toolkit.json``.
        keeps: whether a state from before the anneal is to be kept, and there is none yet.
        extends: whether it is another run's checkpoint.
    """

    path: Path | None
    state: dict[str, Any]
    keeps: bool
    extends: bool = False


def _choose(run: Run) -> Choice:
    """What to go on from, the same on all ranks.

    Rank 0 alone looks: on a shared disk the others might see something older.
    """
    told: list[Any] = [None]
    if run.accelerator.is_main_process:
        folder, ranks = run.folder / CHECKPOINTS, run.batch_split.ranks
        launch = launch_of(run.accelerator)
        keeps = run.config.keep_before_anneal and not (run.folder / KEPT / BEFORE_ANNEAL).exists()
        try:
            path = checkpoint_folder.newest(folder, run.folder.name, launch, ranks)
            parent = None if path else parent_of(run.config)
            if parent is not None:
                path = extension.kept_by_parent(run.config, run.folder.parents[1])
                end = None if holds_until(parent.schedule) else budget_of(parent, run.batch_plan)
                checkpoint_folder.check_kept(path, end, run_id(parent), launch, ranks)
            state = {} if path is None else read_json(path / STATE)
            told = [Choice(path, state, keeps, parent is not None)]
        except (RunError, ConfigError) as error:
            told = [str(error)]
        except OSError as error:
            told = [f"{folder} cannot be used: {error_text(error)}"]
    broadcast_object_list(told)
    if isinstance(told[0], str):  # an error of rank 0 is one of all, or they would wait for it
        raise RunError(told[0])
    found: Choice = told[0]
    return found


def _write_tensors(run: Run, folder: Path, tensors: dict[str, Any]) -> None:
    """What needs more than JSON, each rank its part, and the states of random numbers."""
    rank = run.accelerator.process_index
    if _has_engine(run):
        run.model.save_checkpoint(str(folder), ENGINE)  # type: ignore[operator]
    elif run.accelerator.is_fsdp2:
        torch.save(shards(run.model, run.optimizer), folder / _tensors_file(SHARDS, rank))
    elif run.accelerator.is_main_process:
        # Not as safetensors, which would drop weights that share memory, as an LSTM's do on CUDA.
        torch.save(run.accelerator.unwrap_model(run.model).state_dict(), folder / MODEL)
        torch.save(run.optimizer.state_dict(), folder / OPTIMIZER)
    for name, kept in tensors.items():
        torch.save(kept, folder / _tensors_file(name, rank))
    write_json(folder / _random_file(rank), random_state(run.accelerator.device))


def _complete(run: Run, partial: Path, state: dict[str, Any]) -> None:
    """On rank 0, when all ranks have written: finish the checkpoint."""
    ranks = run.accelerator.num_processes
    for rank in range(ranks):
        if not (partial / _random_file(rank)).exists():
            raise RunError(
                f"{partial} lacks what rank {rank} has written: the ranks do not share the disk "
                f"that {run.folder} is on"
            )
    write_json(partial / STATE, {**state, "events": run.record.events_state()})
    manifest.write(partial, run.folder.name, run.update, launch_of(run.accelerator), ranks)


def _state(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """Where the run stands, apart from model and optimizer: as JSON, and this rank's tensors.

    The second has no more of ``TENSORS`` than the schedule and the run have asked for.
    """
    lr = run.lr.state_dict()
    tensors = {name: lr.pop(name) for name in TENSORS if name in lr}
    if run.selection.weights and run.accelerator.is_main_process:
        tensors["best"] = run.selection.weights
    state = {
        "update": run.update,
        "lr": lr,
        "rollbacks": run.rollbacks,
        "search_seconds": run.search_seconds,
        "stopwatch": run.record.stopwatch.state(),
        "initial_weights_sha": run.initial_weights_sha,
        "origin": run.origin,
        "readings": run.readings,
        "nonfinite_readings": run.nonfinite_readings,
        "last_metrics": run.last_metrics,
        "evaluated": run.evaluated,
        "selection": run.selection.state_dict(),
    }
    if (scaler := run.accelerator.scaler) is not None:
        state["scaler"] = scaler.state_dict()
    return state, tensors


def _set_state(run: Run, state: dict[str, Any], tensors: dict[str, Any]) -> None:
    """The inverse of ``_state``."""
    run.update = run.saved_at = state["update"]
    run.selection.load_state_dict(state.get("selection", {}), tensors.pop("best", {}))
    run.selection.stop_if_due(run, reading_due=True)  # as is wherever a checkpoint is written
    run.lr.load_state_dict({**state["lr"], **tensors})
    if (scaler := run.accelerator.scaler) is not None:
        scaler.load_state_dict(state["scaler"])
    run.rollbacks = state["rollbacks"]
    run.search_seconds = state["search_seconds"]
    run.initial_weights_sha = state["initial_weights_sha"]
    run.readings = state["readings"]
    run.nonfinite_readings = state["nonfinite_readings"]
    run.last_metrics = state["last_metrics"]
    run.evaluated = state.get("evaluated", run.update)  # earlier versions evaluated first
    run.record.go_on(run.update, state["stopwatch"])
    run.origin = continued(state.get("origin", run.origin), run.origin)


def _load(run: Run, checkpoint: Path) -> dict[str, Any]:
    """Restore weights, optimizer and random states. A collective: all ranks call it.

    A rank that there was not when it was written keeps the random numbers of its own seed.

    Returns:
        The tensors that were saved by this rank, or by rank 0 if there were fewer ranks then.
    """
    accelerator, rank = run.accelerator, run.accelerator.process_index
    if _has_engine(run):
        loaded, _ = run.model.load_checkpoint(str(checkpoint), ENGINE)  # type: ignore[operator]
        if loaded is None:
            raise RunError(f"DeepSpeed could not load {checkpoint / ENGINE}")
    elif accelerator.is_fsdp2:
        saved = _tensors(checkpoint / _tensors_file(SHARDS, rank))
        load_shards(run.model, run.optimizer, saved)
    else:
        model = accelerator.unwrap_model(run.model)
        model.load_state_dict(_tensors(checkpoint / MODEL))
        run.optimizer.load_state_dict(_tensors(checkpoint / OPTIMIZER))
    places = {name: checkpoint / _tensors_file(name, rank) for name in TENSORS}
    first = {name: checkpoint / _tensors_file(name, 0) for name in TENSORS}
    found = {name: file if file.exists() else first[name] for name, file in places.items()}
    tensors = {name: _tensors(file) for name, file in found.items() if file.exists()}
    if (checkpoint / _random_file(rank)).exists():
        set_random_state(read_json(checkpoint / _random_file(rank)), accelerator.device)
    return tensors


def _tensors(file: Path) -> dict[str, Any]:
    kept: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return kept


def _has_engine(run: Run) -> bool:
    return bool(run.accelerator.distributed_type == DistributedType.DEEPSPEED)


def _tensors_file(name: str, rank: int) -> str:
    return f"{name}_{rank}.pt"


def _random_file(rank: int) -> str:
    return f"random_{rank}.json"
