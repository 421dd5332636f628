"""Find a learning rate, and train nothing: ``toolkit find TARGET [flags of toolkit train]``.

The search of the schedule ``adaptive`` alone: trials of at most five updates, each from the
untouched model and on the same first batches, find the *edge*, the smallest LR that does harm.
What a schedule such as cosine or linear is to be given lies far below, and lower in longer runs:

    LR = edge / 20 * (1000 / updates)^0.4

With these two numbers ``adaptive`` begins, too. On recorded whole runs of ten small workloads, at
300, 1,000 and 4,000 updates, this LR is off from the best one by 0.38 decades in the mean, a factor
of 2.4; 74 % of the cells are within half a decade, 93 % within one. It is too high for data with
wrong labels, by 0.5, and for a deep net without norms under SGD, by 1.3 decades. Chosen without
each of nine in turn, the two numbers are the same for eight (``benchmarks/tunnel_records.py``).
Not among them is a transformer from random weights on text: it is lost at such an LR, which is
about a decade too high (``benchmarks/LOG.md``, ``lr_robustness``). Five updates cannot see that.

Nothing is written but the picture. In a loop of one's own ``toolkit.find_lr`` does the same.
"""

import importlib.util
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from toolkit import command_line, run_arguments
from toolkit.command_line import Flag
from toolkit.config import RunConfig
from toolkit.errors import ConfigError, RunError, one_line
from toolkit.process import (
    DONE,
    is_rank_zero,
    leave_process_group,
    run_command,
    set_threads,
    world_size,
)
from toolkit.records import console
from toolkit.replay import FIGURES
from toolkit.schedules import SCHEDULES, Adaptive
from toolkit.schedules.adaptive.growth import EDGE_DIVISOR, horizon
from toolkit.schedules.adaptive.memory import AdaptiveMemory
from toolkit.schedules.adaptive.search import FEWEST_TRIALS, TRIAL_UPDATES
from toolkit.schedules.reading import Reading, Trial
from toolkit.words import counted

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from toolkit.training.lr import ScheduledLR
    from toolkit.training.run import Run

B = TypeVar("B")
OWN = (Flag("figure", str, "", "The picture, PNG, SVG or PDF; by default lr-TASK-MODEL.png."),)
"""Flags beside those of a run."""
SEARCH = Adaptive(search_share=0.5, growth=False)
"""What searches. It trains nothing afterwards, so trials may take half of a short budget."""
RECORDED = (300, 4000)
"""Shortest and longest budget, in updates, of the runs that the rule was measured on."""
OF_TORCH = ("step", "_opt_called")
"""What torch's LR schedulers set on an optimizer."""
CLOSED = 4.0
"""A ratio of two LRs above that of half a decade, 3.2, and below that of a decade."""
FEWEST_UPDATES = math.ceil(FEWEST_TRIALS * TRIAL_UPDATES / SEARCH.search_share)
"""The shortest budget that pays for a search."""


@dataclass(frozen=True)
class SearchResult:
    """What a search has found.

    Attributes:
        lr: the base LR for a cosine or linear run: that of the first parameter group with one.
        edge_lr: the smallest LR that does harm within five updates, or what was taken for it.
        trials: the evidence, in the order in which it came.
        updates: that the trials took together.
        total_updates: of the run that the LR is for.
    """

    lr: float
    edge_lr: float
    trials: tuple[Trial, ...]
    updates: int
    total_updates: int

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """The evidence, a line a trial by LR, and what it comes to."""
        yield f"{'LR':>9}  {'updates':>7}  {'loss before':>11}  {'after':>10}  verdict"
        for trial in sorted(self.trials, key=lambda trial: trial.lr):
            before, after = (_loss(loss) for loss in (trial.first_loss, trial.last_loss))
            verdict = "harmful" if trial.harmful else "harmless"
            yield f"{trial.lr:>9.3g}  {trial.updates:>7}  {before:>11}  {after:>10}  {verdict}"
        yield f"edge: {self.edge_lr:.3g}, {self._how_known()}"
        yield (
            f"base LR for cosine or linear over {self.total_updates:,} updates: {self.lr:.3g} "
            f"(edge / {self.edge_lr / self.lr:.3g})"
        )

    def _how_known(self) -> str:
        """What the edge rests on: trials may end before the gap is closed, or find none."""
        harmful = [trial.lr for trial in self.trials if trial.harmful]
        harmless = [t.lr for t in self.trials if not t.harmful and t.lr < min(harmful, default=0)]
        if not harmful:
            return "a guess: no trial did harm"
        if not harmless:
            return "a guess: every trial did harm"
        low, high = max(harmless), min(harmful)
        if high < CLOSED * low:
            return "the smallest LR that does harm, known to half a decade"
        return f"the smallest LR that does harm, which lies between {low:.3g} and {high:.3g}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv

    def command() -> int:
        config, figure = parse(arguments)
        drawn = _can_draw(figure)
        return _find(config, figure or Path(f"lr-{_file_name(config.target)}.png"), drawn)

    return run_command(command)


def parse(argv: Sequence[str], prog: str = "toolkit find") -> tuple[RunConfig, Path | None]:
    """The run of a command line, and the picture that is asked for.

    Raises:
        ConfigError: for whatever is wrong with it, in one line.
        SystemExit: after ``--help``.
    """
    target, recipe = run_arguments.target_of(argv, prog, __doc__ or "")
    words = command_line.words_of(
        argv[1:], SCHEDULES, run_arguments.switches(RunConfig, recipe, OWN)
    )
    if words.schedules:
        raise ConfigError(
            f"{prog} takes no schedule, it makes the search of adaptive: leave out "
            f"{words.schedules[0][0]}"
        )
    values = run_arguments.values_of(
        RunConfig, target, recipe, words, prog, own=OWN, takes="[flags]"
    )
    figure = values.pop("figure")
    try:
        config = RunConfig(**values)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for name in ("keep_best", "patience", "keep_last_checkpoint", "keep_before_anneal", "extend"):
        if getattr(config, name):
            raise ConfigError(
                f"--{name.replace('_', '-')} is for toolkit train: {prog} trains nothing"
            )
    return config, Path(figure) if figure else None


def find_lr(
    model: "nn.Module",
    optimizer: "Optimizer",
    batches: Iterable[B],
    loss: "Callable[[nn.Module, B], Tensor]",
    total_updates: int,
    clip: float | None = None,
) -> SearchResult:
    """Find the base LR for a run in a loop of one's own, by at most 30 updates of it.

    Afterwards weights, buffers, gradients, optimizer and its LRs, and the states of Python's,
    numpy's and torch's random numbers are as before, to the bit, also if ``loss`` raises. The
    model's mode is left as it is: it should be that of training.

    Args:
        model: as it is trained, with weights to begin with.
        optimizer: its optimizer; the trials begin at the LR that it has. Those of its groups keep
            their ratios.
        batches: the first five are used, over again if there are fewer.
        loss: of model and batch, the mean loss, to be differentiated.
        total_updates: of the run to come.
        clip: norm to which gradients are clipped, as the run does.

    Raises:
        ValueError: without a batch, or for fewer than 20 updates.
        RunError: if nothing is found, as where the first loss is not finite, or on several ranks.
    """
    import torch

    from toolkit.training.lr import ScheduledLR

    _check_budget(total_updates)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        raise RunError("find_lr is for one process: start it without a launcher, or toolkit find")
    held = list(islice(batches, TRIAL_UPDATES))
    if not held:
        raise ValueError("find_lr: batches is empty")
    with _untouched(model, optimizer):
        lr = ScheduledLR(optimizer, SEARCH, total_updates, model, can=("rewind",))
        try:
            playing, update = cycle(held), 0
            while lr.searching:
                optimizer.zero_grad(set_to_none=True)
                value = loss(model, next(playing))
                value.backward()
                if clip is not None:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                update += 1
                decision = lr.observe(Reading.of(update, 0.0, value.detach()))
                lr.step()
                if decision.action == "trial":
                    playing = cycle(held)
        finally:
            if lr.searching and lr.snapshot is not None:  # the loss has raised an error
                lr.snapshot.restore()
    return _result(lr)


@contextmanager
def _untouched(model: "nn.Module", optimizer: "Optimizer") -> Iterator[None]:
    """Afterwards all is as before that a ``Snapshot`` leaves to others, or that is set up here."""
    from toolkit.training.random_state import random_state, set_random_state
    from toolkit.training.snapshot import OWNED_BY_THE_SCHEDULE, inner_optimizer

    groups, inner = optimizer.param_groups, inner_optimizer(optimizer)
    weights = {id(w): w for w in (*model.parameters(), *(w for g in groups for w in g["params"]))}
    gradients = [(weight, weight.grad) for weight in weights.values()]
    rates = [{k: _copy(group[k]) for k in OWNED_BY_THE_SCHEDULE if k in group} for group in groups]
    hooks = (inner._optimizer_step_pre_hooks, inner._optimizer_step_post_hooks)
    hooked = [dict(each) for each in hooks]
    attributes = {k: optimizer.__dict__[k] for k in OF_TORCH if k in optimizer.__dict__}
    device = next(iter(weights.values())).device
    numbers = random_state(device)
    try:
        yield
    finally:
        set_random_state(numbers, device)
        for each, before in zip(hooks, hooked, strict=True):
            each.clear()
            each.update(before)
        for name in OF_TORCH:
            optimizer.__dict__.pop(name, None)
        optimizer.__dict__.update(attributes)
        for group, rate in zip(groups, rates, strict=True):
            for name in OWNED_BY_THE_SCHEDULE:
                _put_back(group, name, rate.get(name))
        for weight, gradient in gradients:
            weight.grad = gradient


def _copy(rate: Any) -> Any:
    return rate.clone() if hasattr(rate, "clone") else rate


def _put_back(group: dict[str, Any], name: str, value: Any) -> None:
    """Set a number of a parameter group as it was; a tensor in its place, as others may hold it."""
    if value is None:
        group.pop(name, None)
    elif hasattr(value, "clone"):
        group[name].copy_(value)
    else:
        group[name] = value


def _find(config: RunConfig, figure: Path, drawn: bool) -> int:
    """Search, print the evidence and draw it; nothing else is left behind."""
    from toolkit.training import loop
    from toolkit.training.build import build

    set_threads()
    if world_size() > 1:
        from toolkit.training.ranks import meet_ranks

        meet_ranks(config.rank_timeout)
    with TemporaryDirectory() as folder:
        quiet = replace(config, log_with=("none",), progress=False)
        run = build(replace(quiet, schedule=SEARCH, sees="training"), Path(folder))
        _check_budget(run.budget)
        _search(run)
        found = _result(run.lr)
        loop.release(run)
    if is_rank_zero():
        console.say(*_setting(config, found), *found.lines(), *_advice(config, found))
    if drawn and is_rank_zero():
        from toolkit.report.found_figure import write_figure

        write_figure(figure, found.trials, found.edge_lr, found.lr, config.target)
        console.say(f"picture: {figure}")
    leave_process_group()
    return DONE


def _search(run: "Run") -> None:
    """Make the updates of a run until its schedule's search is over. A collective."""
    from toolkit.records.recorder import Recorder
    from toolkit.training.batches import training_batches
    from toolkit.training.loop import make_update

    run.record = Recorder(run.folder, run.accelerator, run.config, run.budget)
    run.model.train()
    run.optimizer.train()
    batches = training_batches(run)
    while run.lr.searching:
        make_update(run, batches)
        reading, _ = run.meter.read(run.update, run.epoch)
        if run.lr.observe(reading).action == "trial":
            batches = training_batches(run)  # each has the first ones
        run.lr.step()


def _result(lr: "ScheduledLR") -> SearchResult:
    """What a search that is over has found.

    Raises:
        RunError: if that is nothing, with the reason.
    """
    memory: AdaptiveMemory = lr.memory
    edge, total = memory.search.edge_lr, memory.total
    if not edge:
        raise RunError(f"no learning rate was found: {lr.decision.reason}")
    best = edge / EDGE_DIVISOR * horizon(total)
    return SearchResult(best, edge, memory.search.tried, memory.began, total)


def _setting(config: RunConfig, found: SearchResult) -> Iterator[str]:
    """What was searched on, and by what."""
    recipe = config.recipe
    clip = f", clipped to {recipe.clip:g}" if recipe.clip is not None else ""
    yield (
        f"{one_line(config.target)}: {counted(len(found.trials), 'trial')} in "
        f"{counted(found.updates, 'update')}"
    )
    yield (
        f"by {recipe.optimizer}, weight decay {recipe.weight_decay:g}{clip}, batches of "
        f"{counted(recipe.global_batch, 'sample')}"
    )


def _advice(config: RunConfig, found: SearchResult) -> Iterator[str]:
    """What the number is good for, in lines that a narrow terminal shows whole."""
    target = one_line(config.target).removesuffix("@field")
    yield "on recorded runs off by a factor of 2.4 in the mean (toolkit find --help)"
    low, high = RECORDED
    if not low <= found.total_updates <= high:
        yield f"those are of {low:,} to {high:,} updates: this budget is beyond what was measured"
    yield "ten times too high for some nets that are hard to begin with: try a tenth, too"
    yield f"use it: toolkit train {target} cosine --lr {found.lr:.3g}, other flags as here"
    yield f"or: toolkit train {target} adaptive, which searches by itself"


def _check_budget(updates: int) -> None:
    """Refuse a budget that does not pay for a search."""
    if updates < FEWEST_UPDATES:
        raise ConfigError(
            f"a budget of {counted(updates, 'update')} is too short to find an LR for: it takes "
            f"{FEWEST_UPDATES} or more"
        )


def _loss(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _can_draw(figure: Path | None) -> bool:
    """Whether there can be a picture.

    Raises:
        ConfigError: if one was asked for and cannot be drawn.
    """
    if importlib.util.find_spec("matplotlib") is None:
        if figure is None:
            return False
        raise ConfigError("a figure needs matplotlib: pip install matplotlib")
    if figure is not None and figure.suffix not in FIGURES:
        raise ConfigError(f"--figure = {figure}: its name must end in one of {', '.join(FIGURES)}")
    if figure is not None and not figure.parent.is_dir():
        raise ConfigError(f"--figure = {figure}: there is no folder {figure.parent}")
    return True


def _file_name(target: str) -> str:
    """A target as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", target.removesuffix("@field")).strip("-.")[-80:]


if __name__ == "__main__":
    raise SystemExit(main())
