"""Which samples make up which update: a pure function of the seed, for any number of ranks.

``BatchPlan`` has the sample ids of every update, ``MicroBatches`` a rank's share of them,
``training_batches`` the tensors that the loop trains on. As the ids follow from the seed and the
number of the update alone, a run that is resumed, or cut over other ranks, sees the same samples.
"""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from toolkit.errors import ConfigError
from toolkit.task import Batch, Split
from toolkit.training.workers import HERE, Loading, told
from toolkit.words import counted

if TYPE_CHECKING:
    from toolkit.training.run import Run

ORDER_STREAM, AUGMENT_STREAM = 1, 4
"""Numbers of the streams of random numbers for the order and the augmentation of the samples."""
GROUP = 50
"""Batches that are sorted by length together."""


def derive_seed(*keys: int) -> int:
    """A seed of 63 bits from a run's seed and the numbers of a stream.

    Neighbouring seeds share nothing, unlike with ``seed + rank`` or ``seed + epoch``.
    """
    state = np.random.SeedSequence(keys).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


class BatchPlan:
    """The sample ids of every update.

    Each epoch is a permutation by (seed, epoch), cut into full batches; the rest of it, less than
    a batch, is left out of that epoch.

    With lengths, each stretch of ``GROUP`` batches of the permutation is cut by length instead, and
    the batches of all stretches are shuffled: less padding, and still every sample once an epoch.

    Args:
        size: samples in the training split.
        global_batch: samples per update.
        seed: the run's seed.
        lengths: int, shape (size,), to batch samples of similar length together.

    Raises:
        ConfigError: if the split is smaller than one batch.
    """

    def __init__(
        self, size: int, global_batch: int, seed: int, lengths: np.ndarray | None = None
    ) -> None:
        if size < global_batch:
            raise ConfigError(
                f"recipe.global_batch = {global_batch}: the training split has "
                f"{counted(size, 'sample')} (--global-batch {size} or less)"
            )
        self.size, self.global_batch, self.seed = size, global_batch, seed
        self.lengths = lengths
        self.updates_per_epoch = size // global_batch
        self._permutation = lru_cache(maxsize=2)(self._draw)

    def ids(self, update: int) -> np.ndarray:
        """The samples of an update (counted from 0): int64, shape (global_batch,)."""
        epoch, place = divmod(update, self.updates_per_epoch)
        start = place * self.global_batch
        return self._permutation(epoch)[start : start + self.global_batch]

    def epoch(self, update: int) -> int:
        """The epoch an update belongs to, from 0."""
        return update // self.updates_per_epoch

    def sha(self, updates: int) -> str:
        """SHA-256 over the sample ids of the first ``updates`` updates, in order."""
        digest = hashlib.sha256()
        for update in range(updates):
            digest.update(self.ids(update).astype("<i8").tobytes())
        return digest.hexdigest()

    def _draw(self, epoch: int) -> np.ndarray:
        keys = (self.seed, ORDER_STREAM, epoch)
        generator = np.random.default_rng(np.random.SeedSequence(keys))
        order = generator.permutation(self.size)
        if self.lengths is None:
            return order
        order = order[: self.updates_per_epoch * self.global_batch]
        stretch = GROUP * self.global_batch
        parts = [order[start : start + stretch] for start in range(0, len(order), stretch)]
        by_length = [part[np.argsort(-self.lengths[part], kind="stable")] for part in parts]
        batches = np.concatenate(by_length).reshape(-1, self.global_batch)
        return generator.permutation(batches).reshape(-1)


class MicroBatches(Sampler[list[int]]):
    """One rank's share of the updates from ``start`` to ``stop``, micro-batch by micro-batch.

    The samples of an update are the same for every number of ranks and micro-batches.
    """

    def __init__(
        self, plan: BatchPlan, rank: int, ranks: int, micro_batch: int, start: int, stop: int
    ) -> None:
        self.plan, self.rank, self.ranks, self.micro_batch = plan, rank, ranks, micro_batch
        self.updates = range(start, stop)

    def __iter__(self) -> Iterator[list[int]]:
        for update in self.updates:
            parts = self.plan.ids(update).reshape(-1, self.ranks, self.micro_batch)
            for micro_batch in parts[:, self.rank]:
                yield micro_batch.tolist()


def training_batches(run: "Run") -> "Iterator[Batch]":
    """This rank's micro-batches, from the run's next update to the end of its budget.

    In a search for a base LR each trial begins with those of update 0, so that all see the same.
    """
    of_trials = run.lr.course.start if run.lr.searching else 0
    return batches_of(run, run.update - of_trials, run.budget)


def batches_of(run: "Run", first: int, last: int) -> "Iterator[Batch]":
    """This rank's micro-batches of the updates from ``first`` to before ``last``, augmented.

    Yields:
        The tensors on the run's device, each with a first axis of ``micro_batch`` samples.
    """
    accelerator, plan, config = run.accelerator, run.batch_plan, run.config
    ranks, rank = run.batch_split.ranks, accelerator.process_index
    order = MicroBatches(plan, rank, ranks, run.batch_split.micro_batch, first, last)
    seed, device = derive_seed(config.seed, config.arm, AUGMENT_STREAM), accelerator.device
    batches = told(training_loader(run.splits.train, order, run.loading))
    for number, batch in enumerate(batches):
        epoch = plan.epoch(first + number // run.batch_split.accumulation)
        yield run.task.augment(_on_device(batch, device, run.loading.pinned), seed, epoch)


def _on_device(batch: Batch, device: torch.device, pinned: bool) -> Batch:
    """The batch on the device; what is no dictionary of tensors, in Accelerate's general way."""
    if type(batch) is not dict:
        moved: Batch = send_to_device(batch, device, non_blocking=pinned)
        return moved
    return {
        name: value.to(device, non_blocking=pinned)
        if isinstance(value, Tensor)
        else send_to_device(value, device, non_blocking=pinned)
        for name, value in batch.items()
    }


def training_loader(
    split: Split, batches: MicroBatches, loading: Loading = HERE
) -> "DataLoader[Batch]":
    """The micro-batches of one rank, as the split returns them."""
    return loading.loader(split, batch_sampler=batches)


def evaluation_loader(
    split: Split, batch_size: int, loading: Loading = HERE
) -> "DataLoader[Batch]":
    """The whole split, in order or, with lengths, from the longest; the last batch may be short."""
    return loading.loader(split, batch_size=batch_size, sampler=_evaluation_order(split))


def evaluation_shards(
    split: Split, batch_size: int, rank: int, ranks: int
) -> Iterator[tuple[list[int], bool]]:
    """The batches of a split that one rank evaluates; every sample is evaluated by one rank.

    Ranks take turns. All get equally many batches, for each call of a model may be a collective:
    where the last round has too few, a rank gets the round's first batch, which is not its own.

    Args:
        split: what is evaluated, in order or, with lengths, from the longest.
        batch_size: samples of a batch; the last may be shorter.
        rank, ranks: which process of how many.

    Yields:
        The sample ids of a batch, and whether it counts: whether it is this rank's own.
    """
    order = _evaluation_order(split)
    batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    for first in range(0, len(batches), ranks):
        own = first + rank < len(batches)
        yield batches[first + rank if own else first], own


def _evaluation_order(split: Split) -> list[int]:
    lengths = getattr(split, "lengths", None)
    order = np.arange(len(split)) if lengths is None else np.argsort(-lengths, kind="stable")
    ids: list[int] = order.tolist()
    return ids
