"""What a run has come to, put together at its end."""

import sys
from collections.abc import Mapping, Sequence

from toolkit.config import PARENT, WEIGHTS, schedule_name, to_json
from toolkit.extension import carried_out
from toolkit.recipe import data_fields
from toolkit.records.result import Code, FoundLR, Metrics, Result, Timing
from toolkit.records.vocabulary import keep_vocabulary
from toolkit.task import parse_target
from toolkit.training import checkpoint, divergence
from toolkit.training.build import weights_sha
from toolkit.training.evaluation import evaluation_mode
from toolkit.training.ranks import launch_of
from toolkit.training.run import Run
from toolkit.words import agreeing, counted

SPLITS = ("train", "validation", "test")
LEFT = "the checkpoints stay: without result.json the same command makes them once more"


def result_of(
    run: Run,
    train_seconds: float,
    final_weights_sha: str,
    notes: Sequence[str],
    test: Mapping[str, float | None],
) -> Result:
    """The result of a run at its end.

    Args:
        run: after its last update.
        train_seconds: by its stopwatch, before anything was done that ends it.
        final_weights_sha: of ``last_weights``.
        notes: what a reader should know, beside what the run noted.
        test: the metrics on the test split; empty for a diverged run.
    """
    config, target = run.config, parse_target(run.config.target)
    stored, joint = to_json(config), run.lr.course.joint
    return Result(
        status="diverged" if run.diverged else "done",
        run_id=run.folder.name,
        study=config.study,
        task=target.task,
        model=target.model,
        recipe=target.recipe,
        recipe_settings=carried_out(stored["recipe"], config.extend),
        schedule=schedule_name(config.schedule),
        schedule_config=stored["schedule"]["fields"],
        sees=config.sees,
        seed=config.seed,
        arm=config.arm,
        init=config.recipe.init,
        updates=run.update,
        epoch=run.epoch,
        samples={name: len(getattr(run.splits, name)) for name in SPLITS},
        world_size=run.accelerator.num_processes,
        launch=launch_of(run.accelerator),
        micro_batch=run.batch_split.micro_batch,
        precision=config.recipe.precision,
        metrics=Metrics(test, run.last_metrics.get("validation", {})),
        selected=run.selection.result(),
        scales=run.scales,
        timing=Timing(train_seconds, run.record.stopwatch.spans()),
        initial_weights_sha=run.initial_weights_sha,
        batch_order_sha=run.batch_plan.sha(run.update),
        final_weights_sha=final_weights_sha,
        found=_found(run),
        rollbacks=run.rollbacks,
        snapshots=run.snapshots(),
        notes=(*run.notes, *notes),
        versions=run.origin["versions"],
        machine=run.origin["machine"],
        code=Code(run.origin["commit"], tuple(run.origin["uncommitted"])),
        device=run.origin["device"],
        data=config.data,
        data_fields=() if config.data is None else data_fields(config.recipe),
        argv=tuple(sys.argv),
        parent=stored.get(PARENT),
        parent_update=None if joint is None else joint.made,
    )


def _found(run: Run) -> FoundLR | None:
    """What the schedule has searched and found, if it has."""
    found = getattr(run.lr.memory, "found", None)
    return None if found is None else FoundLR(**found._asdict(), seconds=run.search_seconds)


def last_weights(run: Run) -> tuple[str, list[str]]:
    """Hash the weights as they are evaluated, and keep them on disk if the configuration says so.

    This is where a run is found to have diverged that did not show it while it trained; with
    ``keep_best`` any other goes back to its best weights.

    A collective: all ranks call it, for each may hold only a part of the weights.

    Returns:
        The hash, on rank 0 (elsewhere empty), and what to note in the result.
    """
    with evaluation_mode(run):
        state, notes = run.accelerator.get_state_dict(run.model), []
        divergence.note_end(run, state)
        if run.lost:
            notes.append(f"diverged: {run.lost}")
        elif skipped := run.lr.skipped:
            notes.append(
                f"{counted(skipped, 'update')} {agreeing(skipped, 'was', 'were')} skipped: "
                f"{agreeing(skipped, 'its', 'their')} gradients were not finite"
            )
        state = state if run.lost else run.selection.weights or state
        sha = weights_sha(state) if run.accelerator.is_main_process else ""
        if sha and run.config.keep_weights and not run.diverged:
            try:
                keep_vocabulary(run.folder, run.vocabulary)
                checkpoint.keep_weights(state, run.folder / WEIGHTS)
            except OSError as error:  # hours of training are not lost to a full disk
                notes.append(f"the weights could not be kept: {error}; {LEFT}")
    if run.selection.weights and not run.lost:
        run.selection.bring_back(run)
        run.last_metrics["validation"] = run.selection.metrics
    return sha, notes
