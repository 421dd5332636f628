"""Save a run and find it again: a folder per checkpoint, complete or absent, state as JSON."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import save_file

from toolkit.records.recorder import write_json

STATE = "toolkit.json"


def save(
    accelerator: Accelerator,
    folder: Path,
    update: int,
    state: dict[str, Any],
    snapshot: dict[str, Any],
) -> None:
    """Write ``folder/update-N`` and remove the older ones. A collective: all ranks call it.

    Args:
        accelerator: holds the prepared model and optimizer.
        folder: the run's ``checkpoints`` folder.
        update: updates made so far, at whose boundary this is called.
        state: what else the run needs, as JSON; the schedule's memory is in it.
        snapshot: tensors and numbers of this rank's last good state; empty if there is none.
    """
    final, partial = folder / f"update-{update}", folder / f"update-{update}.partial"
    if accelerator.is_main_process and partial.exists():
        shutil.rmtree(partial)
    accelerator.wait_for_everyone()
    # Not as safetensors, which would drop weights that share memory, as those of an LSTM on CUDA.
    accelerator.save_state(str(partial), safe_serialization=False)
    if snapshot:
        torch.save(snapshot, partial / _snapshot_file(accelerator.process_index))
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


def latest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest complete checkpoint and its state, if there is one."""
    found = sorted(_complete(folder), key=lambda path: int(path.name.removeprefix("update-")))
    if not found:
        return None
    return found[-1], json.loads((found[-1] / STATE).read_text())


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


def clear(folder: Path) -> None:
    """Remove the checkpoints of a run that is finished: nothing goes on from them."""
    shutil.rmtree(folder, ignore_errors=True)


def load(accelerator: Accelerator, checkpoint: Path) -> dict[str, Any]:
    """Restore weights, optimizer and random states, on all ranks.

    Returns:
        The snapshot that was saved by this rank, or by rank 0 if there were fewer ranks then.
    """
    accelerator.load_state(str(checkpoint))
    file = checkpoint / _snapshot_file(accelerator.process_index)
    if not file.exists():
        file = checkpoint / _snapshot_file(0)
    kept: dict[str, Any] = torch.load(file, weights_only=True) if file.exists() else {}
    return kept


def _snapshot_file(rank: int) -> str:
    return f"snapshot_{rank}.pt"


def _complete(folder: Path) -> list[Path]:
    return [path.parent for path in folder.glob(f"update-*/{STATE}") if path.parent.suffix == ""]
