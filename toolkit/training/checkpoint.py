"""Save a run, find it again and go on; keep the weights of a finished one.

A checkpoint is the folder ``checkpoints/update-N`` in the run's folder: what Accelerate saves
(weights, optimizer and random states), the last good state that each rank could go back to
(``snapshot_RANK.pt``), its estimate of the distance (``distance_RANK.pt``), and ``toolkit.json``,
with the run's counters and the schedule's memory. It is whole or absent: it is written under
another name, and renamed when all ranks are done.

The position in the data needs no file, for the batches follow from the number of the update.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import save_file

from toolkit.errors import RunError
from toolkit.records.events import RESUME, START, decision_to_json
from toolkit.records.json_files import read_json, write_json
from toolkit.records.recorder import Recorder, Stopwatch
from toolkit.training.build import Run

STATE = "toolkit.json"
TENSORS = ("snapshot", "distance")
"""What each rank saves by itself, where there is such."""


def start_or_resume(run: Run) -> None:
    """Open the run's records, and continue from its newest checkpoint if there is one.

    A collective: all ranks call it.

    Raises:
        RunError: if the checkpoint cannot be continued: not on as many ranks as there are now, or
            it is of an older version.
    """
    accelerator = run.accelerator
    # Rank 0 alone looks: on a shared disk the others might see something older.
    found = [_latest(run.folder / "checkpoints") if accelerator.is_main_process else None]
    broadcast_object_list(found)
    path, state = found[0] or (None, {"update": 0})
    run.record = Recorder(run.folder, accelerator, run.config, run.budget, state["update"])
    if path is None:
        facts, decision = run.lr.facts.to_json(), decision_to_json(run.lr.decision)
        run.record.event(START, 0, epoch=0.0, facts=facts, **decision)
        return
    check_world_size(run, path, state["world_size"])
    try:
        _set_state(run, state, _load(run, path))
    except ValueError as error:  # the schedule has another memory now
        raise RunError(f"{path} cannot be continued: {error}; --fresh starts over") from error
    run.record.event(RESUME, run.update, world_size=accelerator.num_processes)


def save(run: Run) -> None:
    """Write a checkpoint of the run after its latest update, and remove the older ones.

    A collective: all ranks call it, at a reading, so that no loss waits in the meter.
    """
    accelerator, folder = run.accelerator, run.folder / "checkpoints"
    final, partial = folder / f"update-{run.update}", folder / f"update-{run.update}.partial"
    state, tensors = _state(run)
    with run.record.span("checkpoint"):
        if accelerator.is_main_process and partial.exists():  # of a process that was killed
            shutil.rmtree(partial)
        accelerator.wait_for_everyone()
        # Not as safetensors, which would drop weights that share memory, as an LSTM's do on CUDA.
        accelerator.save_state(str(partial), safe_serialization=False)
        for name, kept in tensors.items():
            torch.save(kept, partial / f"{name}_{accelerator.process_index}.pt")
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_json(partial / STATE, state)
            if final.exists():
                shutil.rmtree(final)
            partial.replace(final)
            for older in _complete(folder):
                if older != final:
                    shutil.rmtree(older)
        accelerator.wait_for_everyone()
    run.saved_at = run.update


def clear(folder: Path) -> None:
    """Remove the checkpoints of a run that is finished: nothing goes on from them."""
    shutil.rmtree(folder, ignore_errors=True)


def keep_weights(state: dict[str, torch.Tensor], file: Path) -> None:
    """Write weights and buffers into one file, whole or not at all.

    Each is stored by itself: cuDNN lays all weights of an LSTM into one memory, of which the
    library's own functions would keep one name.

    Raises:
        OSError: if the file cannot be written.
    """
    file.parent.mkdir(exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    try:
        save_file(copies, partial)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    partial.replace(file)


def check_world_size(run: Run, path: Path, saved: int) -> None:
    """Under DeepSpeed a checkpoint holds the shards of its ranks, elsewhere all of everything.

    Raises:
        RunError: if the checkpoint at ``path``, of ``saved`` ranks, cannot be continued here.
    """
    ranks = run.batch_split.ranks
    if run.accelerator.distributed_type == DistributedType.DEEPSPEED and saved != ranks:
        raise RunError(
            f"{path} is of {saved} ranks, these are {ranks}: DeepSpeed's checkpoints "
            f"continue on as many as wrote them; use {saved}, or --fresh to start over"
        )


def _state(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of the run Accelerate does not save: as JSON, and this rank's tensors, by name.

    The second has no more than the schedule has asked for.
    """
    lr = run.lr.state_dict()
    tensors = {name: lr.pop(name) for name in TENSORS if name in lr}
    state = {
        "run_id": run.folder.name,
        "update": run.update,
        "world_size": run.accelerator.num_processes,
        "lr": lr,
        "rollbacks": run.rollbacks,
        "search_seconds": run.search_seconds,
        "stopwatch": run.record.stopwatch.state(),
        "initial_weights_sha": run.initial_weights_sha,
        "nonfinite_readings": run.nonfinite_readings,
        "last_metrics": run.last_metrics,
    }
    return state, tensors


def _set_state(run: Run, state: dict[str, Any], tensors: dict[str, Any]) -> None:
    """The inverse of ``_state``."""
    run.update = run.saved_at = state["update"]
    try:
        run.lr.load_state_dict({**state["lr"], **tensors})
    except ValueError as error:
        raise RunError(
            f"the checkpoint of update {run.update} cannot be continued: {error}; "
            "--fresh starts over"
        ) from error
    run.rollbacks = state["rollbacks"]
    run.search_seconds = state.get("search_seconds", 0.0)
    run.initial_weights_sha = state["initial_weights_sha"]
    run.nonfinite_readings = state["nonfinite_readings"]
    run.last_metrics = state["last_metrics"]
    run.record.stopwatch = Stopwatch(state["stopwatch"])


def _latest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest complete checkpoint and its state, if there is one."""
    found = sorted(_complete(folder), key=lambda path: int(path.name.removeprefix("update-")))
    if not found:
        return None
    return found[-1], read_json(found[-1] / STATE, "remove the folder, or start over with --fresh")


def _load(run: Run, checkpoint: Path) -> dict[str, Any]:
    """Restore weights, optimizer and random states. A collective: all ranks call it.

    Returns:
        The tensors that were saved by this rank, or by rank 0 if there were fewer ranks then.
    """
    run.accelerator.load_state(str(checkpoint))
    tensors = {}
    for name in TENSORS:
        file = checkpoint / f"{name}_{run.accelerator.process_index}.pt"
        if not file.exists():
            file = checkpoint / f"{name}_0.pt"
        if file.exists():
            tensors[name] = torch.load(file, weights_only=True)
    return tensors


def _complete(folder: Path) -> list[Path]:
    return [path.parent for path in folder.glob(f"update-*/{STATE}") if path.parent.suffix == ""]
