"""Which samples make up which update."""

import numpy as np
import pytest
import torch

from toolkit.errors import ConfigError
from toolkit.training.batches import (
    BatchPlan,
    MicroBatches,
    derive_seed,
    evaluation_loader,
    training_loader,
)


def shares(plan: BatchPlan, ranks: int, micro_batch: int, stop: int) -> list[set[int]]:
    """The sample set of every update, put together from all ranks."""
    per_update = plan.global_batch // (ranks * micro_batch)
    whole: list[set[int]] = [set() for _ in range(stop)]
    for rank in range(ranks):
        for number, ids in enumerate(MicroBatches(plan, rank, ranks, micro_batch, 0, stop)):
            assert len(ids) == micro_batch
            whole[number // per_update] |= set(ids)
    return whole


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 32), (2, 64), (2, 16), (4, 8), (8, 8)])
def test_every_cut_of_an_update_has_the_same_samples(ranks: int, micro_batch: int) -> None:
    if ranks * micro_batch > 64:
        ranks, micro_batch = 1, 64
    plan = BatchPlan(1000, 64, seed=3)
    expected = [set(plan.ids(update).tolist()) for update in range(40)]
    assert shares(plan, ranks, micro_batch, 40) == expected


def test_an_epoch_has_every_sample_once_but_for_less_than_a_batch() -> None:
    plan = BatchPlan(1000, 64, seed=0)
    assert plan.updates_per_epoch == 15
    seen = np.concatenate([plan.ids(update) for update in range(15)])
    assert len(set(seen.tolist())) == 960
    assert plan.epoch(14) == 0
    assert plan.epoch(15) == 1


def test_epochs_and_seeds_share_no_permutation() -> None:
    orders = [BatchPlan(256, 256, seed).ids(epoch) for seed in range(3) for epoch in range(3)]
    assert len({order.tobytes() for order in orders}) == 9


def test_the_order_hash_is_over_all_updates() -> None:
    plan = BatchPlan(100, 10, seed=0)
    assert plan.sha(12) == BatchPlan(100, 10, seed=0).sha(12)
    assert len({plan.sha(12), plan.sha(13), BatchPlan(100, 10, seed=1).sha(12)}) == 3


def test_a_split_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="global_batch = 64: the training split has 63 samples"):
        BatchPlan(63, 64, seed=0)


class Numbers:
    def __len__(self) -> int:
        return 10

    def __getitems__(self, ids: list[int]) -> dict[str, torch.Tensor]:
        return {"id": torch.tensor(ids)}


def test_loaders_draw_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    plan = BatchPlan(10, 5, seed=0)
    fed = [
        batch["id"].tolist()
        for batch in training_loader(Numbers(), MicroBatches(plan, 0, 1, 5, 1, 4))
    ]
    assert fed == [plan.ids(update).tolist() for update in (1, 2, 3)]
    rest = [batch["id"].tolist() for batch in evaluation_loader(Numbers(), 4)]
    assert rest == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_goes_from_the_longest_to_the_shortest() -> None:
    split = Numbers()
    split.lengths = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])  # type: ignore[attr-defined]
    fed = [batch["id"].tolist() for batch in evaluation_loader(split, 4)]
    assert fed == [[5, 7, 4, 8], [2, 0, 9, 6], [1, 3]]


def test_derived_seeds_do_not_collide() -> None:
    seeds = {derive_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000
    assert max(seeds) < 2**63


def test_batches_by_length_waste_little_and_keep_every_sample() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 3210)
    plan, plain = BatchPlan(3210, 16, 0, lengths), BatchPlan(3210, 16, 0)

    def padding(plan: BatchPlan) -> float:
        batches = [lengths[plan.ids(update)] for update in range(plan.updates_per_epoch)]
        return float(np.mean([1 - batch.mean() / batch.max() for batch in batches]))

    seen = np.concatenate([plan.ids(update) for update in range(plan.updates_per_epoch)])
    assert len(set(seen.tolist())) == len(seen) == 3200
    assert padding(plan) < 0.1 < 0.4 < padding(plain)
    means = [lengths[plan.ids(update)].mean() for update in range(plan.updates_per_epoch)]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.2
    assert not np.array_equal(plan.ids(0), plan.ids(plan.updates_per_epoch))
