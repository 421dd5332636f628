"""What a run has come to, put together at its end."""

from toolkit.config import WEIGHTS
from toolkit.training import checkpoint
from toolkit.training.build import Run, weights_sha
from toolkit.training.evaluation import evaluation_mode


def last_weights(run: Run) -> tuple[str, list[str]]:
    """Hash the weights as they are evaluated, and keep them on disk if the configuration says so.

    A collective: all ranks call it, for each may hold only a part of the weights.

    Returns:
        The hash, on rank 0 (elsewhere empty), and what to note in the result.
    """
    with evaluation_mode(run):
        state, notes = run.accelerator.get_state_dict(run.model), []
        sha = weights_sha(state) if run.accelerator.is_main_process else ""
        if sha and run.config.keep_weights and not run.diverged:
            try:
                checkpoint.keep_weights(state, run.folder / WEIGHTS)
            except OSError as error:  # hours of training are not lost to a full disk
                notes = [f"the weights could not be kept: {error}"]
    return sha, notes
