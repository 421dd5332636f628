"""The last good state of a run in host memory, to go back to when training is lost."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

OWNED_BY_THE_SCHEDULE = ("lr", "initial_lr")
"""Numbers of a parameter group that a restore leaves alone."""


class Snapshot:
    """A copy of weights, buffers and optimizer state, on the host.

    Every rank holds its own: under ZeRO its shards, with DDP a copy of everything. A restore writes
    into the tensors in place, so whoever holds them, such as DDP's buckets or an engine, stays
    right. Afterwards every bit is as it was; learning rates are left alone.

    Args:
        model: prepared or not.
        optimizer: of this model, prepared or not; under DeepSpeed its master weights are kept too.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.taken = 0
        """Snapshots taken so far."""
        self.seconds = 0.0
        """Time that taking and restoring took."""
        self._kept: dict[str, Any] = {}

    @property
    def size(self) -> int:
        """Bytes of host memory that it takes."""
        tensors = [value for value in self._kept.values() if isinstance(value, Tensor)]
        return sum(tensor.nbytes for tensor in tensors)

    def take(self) -> None:
        """Keep the present state in place of the one before."""
        begin = time.perf_counter()
        before, self._kept = self._kept, {}
        with torch.no_grad():
            for name, value in self._present():
                self._kept[name] = _to_host(value, before.get(name))
        self.taken += 1
        self.seconds += time.perf_counter() - begin

    def restore(self) -> None:
        """Bring back the state that was kept.

        Raises:
            ValueError: if none was.
        """
        if not self._kept:
            raise ValueError("there is no snapshot to restore: take() comes first")
        begin = time.perf_counter()
        with torch.no_grad():
            for name, tensor in self._weights():
                tensor.copy_(self._kept[name])
            self._restore_optimizer()
            self._gather_again()
        self.seconds += time.perf_counter() - begin

    def state_dict(self) -> dict[str, Any]:
        """What is kept, as host tensors and numbers by name; empty before the first ``take``."""
        return dict(self._kept)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep what ``state_dict`` returned, as if it had been taken."""
        self._kept = dict(state)

    def _gather_again(self) -> None:
        """Small weights stay gathered between updates under ZeRO-3: bring in the old shards."""
        for weight in self.model.parameters():
            if hasattr(weight, "ds_tensor") and weight.numel():
                weight.partition()  # type: ignore[operator]
                weight.all_gather()  # type: ignore[operator]

    def _present(self) -> Iterator[tuple[str, Any]]:
        yield from self._weights()
        for place, holder in enumerate(self._holders()):
            for key, value in _inner(self.optimizer).state.get(holder, {}).items():
                yield f"state/{place}/{key}", value
        for place, group in enumerate(_inner(self.optimizer).param_groups):
            for key, value in group.items():
                if isinstance(value, int | float) and key not in OWNED_BY_THE_SCHEDULE:
                    yield f"group/{place}/{key}", value

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        for name, weight in self.model.named_parameters():
            if hasattr(weight, "ds_tensor"):  # ZeRO-3: what lies on this rank
                yield f"shard/{name}", weight.ds_tensor.data
            else:
                yield f"weight/{name}", weight.data
        for name, buffer in self.model.named_buffers():
            yield f"buffer/{name}", buffer
        for place, master in enumerate(_masters(self.optimizer)):
            yield f"master/{place}", master.data

    def _holders(self) -> list[Tensor]:
        """The tensors whose optimizer state there may be, in a fixed order."""
        groups = _inner(self.optimizer).param_groups
        return _masters(self.optimizer) or [w for group in groups for w in group["params"]]

    def _restore_optimizer(self) -> None:
        inner = _inner(self.optimizer)
        for place, holder in enumerate(self._holders()):
            state, prefix = inner.state.get(holder, {}), f"state/{place}/"
            kept = {
                name.removeprefix(prefix): value
                for name, value in self._kept.items()
                if name.startswith(prefix)
            }
            if not kept:
                inner.state.pop(holder, None)
                continue
            for key, value in kept.items():
                if isinstance(value, Tensor):  # an optimizer's state only grows: it is there
                    state[key].copy_(value)
                else:
                    state[key] = value
        for place, group in enumerate(inner.param_groups):
            for key in group:
                group[key] = self._kept.get(f"group/{place}/{key}", group[key])


def _to_host(value: Any, before: Any) -> Any:
    """A copy in host memory, in the place of an earlier one of the same form."""
    if not isinstance(value, Tensor):
        return value
    if isinstance(before, Tensor) and (before.shape, before.dtype) == (value.shape, value.dtype):
        return before.copy_(value)
    return value.detach().to("cpu", copy=True)


def _inner(optimizer: Any) -> Any:
    """The torch optimizer inside the wrappers of Accelerate and DeepSpeed."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _masters(optimizer: Any) -> list[Tensor]:
    """DeepSpeed's full-precision copies of this rank's weights; empty without DeepSpeed."""
    while hasattr(optimizer, "optimizer"):
        for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
            if found := getattr(optimizer, name, None):
                return list(found)
        optimizer = optimizer.optimizer
    return []
