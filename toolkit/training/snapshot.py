"""The last good states of a run in host memory, to go back to when training is lost.

A schedule asks for them through its decisions (``snapshot``, ``rollback``, and the trials of a
search); ``ScheduledLR`` carries that out. They hold what an update changes, and no more: not the
random states, the position in the data or the counters, which never go back. On disk they are a
part of a checkpoint (``checkpoint.py``).
"""

import copy
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from toolkit.errors import RunError
from toolkit.training.scaling import scaler_of
from toolkit.training.sharding import local, reshard

OWNED_BY_THE_SCHEDULE = ("lr", "initial_lr")
"""Numbers of a parameter group that a restore leaves alone."""


class Snapshot:
    """Copies of weights, buffers and optimizer state, on the host: the newest and the one before.

    A loss is of the weights before its update, so nothing has yet confirmed the weights that a
    snapshot keeps. If going back to them did not help, the next restore takes the ones before.

    Every rank holds its own: under ZeRO and FSDP2 its shards, with DDP a copy of everything. A
    restore writes into the tensors in place, so whoever holds them, such as DDP's buckets or an
    engine, stays right. Afterwards every bit is as it was; learning rates are left alone, and other
    numbers of a parameter group are as at the snapshot, for some optimizers keep their state there.

    Args:
        model: prepared or not.
        optimizer: prepared or not; its parameters that are not the model's are kept, too, and under
            DeepSpeed its master weights.

    Raises:
        ValueError: for a model with weights that its first batch is to make.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        _check_made(model)
        self.model, self.optimizer = model, optimizer
        self.taken = 0
        """Snapshots taken so far."""
        self.seconds = 0.0
        """Time that taking and restoring took."""
        self._kept = _Kept()
        self._before = _Kept()
        self._restored = False  # since the newest was taken
        self._proven = False  # whether the gradient scaler's scale has led to an update yet

    @property
    def size(self) -> int:
        """Bytes of host memory that it takes."""
        values = [*self._kept.values(), *self._before.values()]
        return sum(value.nbytes for value in values if isinstance(value, Tensor))

    def take(self) -> None:
        """Keep the present state, and the newest so far as the one before."""
        begin = time.perf_counter()
        oldest, self._before, self._kept = self._before, self._kept, _Kept()
        if oldest.lent:
            oldest = _Kept()
        reshard(self.model)
        with torch.no_grad():
            for name, value in self._present():
                self._kept[name] = _to_host(value, oldest.get(name))
        self.taken += 1
        self._restored = False
        self.seconds += time.perf_counter() - begin

    def restore(self) -> None:
        """Bring back the newest state; at the second time in a row the one before, if any.

        Raises:
            ValueError: if none was taken.
            RunError: if the model has made a weight since.
        """
        if not self._kept:
            raise ValueError("there is no snapshot to restore: take() comes first")
        begin = time.perf_counter()
        if self._restored and self._before:
            self._kept, self._before = self._before, _Kept()
        self._restored = True
        reshard(self.model)
        with torch.no_grad():
            for name, tensor in self._weights():
                if name not in self._kept:
                    raise RunError(f"{name} was made after the snapshot that is to be restored")
                tensor.copy_(self._kept[name])
            self._restore_buffers()
            self._restore_optimizer()
            self._restore_scaler()
            self._gather_again()
        self.seconds += time.perf_counter() - begin

    def note_update(self) -> None:
        """An update was made, and not skipped by a gradient scaler.

        The scaler begins at a scale that no model has seen. Once there is one that fits, it is that
        of the untouched model, too: else each trial would look for it anew, and make no update.
        """
        if self._proven:
            return
        self._proven = True
        for kept in (self._kept, self._before):
            if "scaler/scale" in kept:
                kept["scaler/scale"] = scaler_of(self.optimizer).get_scale()

    def state_dict(self) -> dict[str, Any]:
        """What is kept, as host tensors and numbers by name, and what that has cost so far; empty
        before the first ``take``. Nothing is copied, and no later ``take`` writes into it."""
        if not self._kept:
            return {}
        self._kept.lent = self._before.lent = True
        states = {"kept": dict(self._kept), "before": dict(self._before)}
        counts = {"taken": self.taken, "seconds": self.seconds, "proven": self._proven}
        return {**states, "restored": self._restored, **counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep what ``state_dict`` returned, as if it had been taken."""
        self._kept = _Kept(state.get("kept", {}))
        self._before = _Kept(state.get("before", {}))
        self._kept.lent = self._before.lent = True
        self._restored = bool(state.get("restored", False))
        self._proven = bool(state.get("proven", False))
        self.taken = int(state.get("taken", 0))  # earlier versions did not keep the counts
        self.seconds = float(state.get("seconds", 0.0))

    def _gather_again(self) -> None:
        """Small weights stay gathered between updates under ZeRO-3: bring in the old shards."""
        for weight in self.model.parameters():
            if hasattr(weight, "ds_tensor") and weight.numel():
                weight.partition()  # type: ignore[operator]
                weight.all_gather()  # type: ignore[operator]

    def _present(self) -> Iterator[tuple[str, Any]]:
        yield from self._weights()
        for module, name, key in self._buffers():
            yield key, module._buffers[name]
        for place, holder in enumerate(self._holders()):
            for key, value in inner_optimizer(self.optimizer).state.get(holder, {}).items():
                yield f"state/{place}/{key}", local(value) if isinstance(value, Tensor) else value
        for place, group in enumerate(inner_optimizer(self.optimizer).param_groups):
            for key, value in group.items():
                if isinstance(value, int | float | Tensor) and key not in OWNED_BY_THE_SCHEDULE:
                    yield f"group/{place}/{key}", value
        scaler = scaler_of(self.optimizer)
        for key, value in ({} if scaler is None else scaler.state_dict()).items():
            yield f"scaler/{key}", value

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        for name, weight in self.model.named_parameters():
            if hasattr(weight, "ds_tensor"):  # ZeRO-3: what lies on this rank
                yield f"shard/{name}", weight.ds_tensor.data
            else:
                yield f"weight/{name}", local(weight.data)
        masters = master_weights(self.optimizer)
        for place, master in enumerate(masters):
            yield f"master/{place}", master.data
        known = {id(weight) for weight in self.model.parameters()}
        for place, holder in enumerate(() if masters else self._holders()):
            if id(holder) not in known:  # of a loss or a head beside the model
                yield f"beside/{place}", local(holder.data)

    def _buffers(self) -> Iterator[tuple[nn.Module, str, str]]:
        """Each buffer's module, its name there and its key; one that is not made yet is None."""
        shared = set()
        for path, module in self.model.named_modules():
            for name, buffer in list(module._buffers.items()):
                if buffer is None or id(buffer) not in shared:
                    shared.add(id(buffer))
                    yield module, name, f"buffer/{path}{'.' if path else ''}{name}"

    def _restore_buffers(self) -> None:
        """In place where there is a place: a model may make or replace a buffer as it runs."""
        for module, name, key in self._buffers():
            now, then = module._buffers[name], self._kept.get(key)
            if now is not None and key not in self._kept:  # registered since the snapshot
                del module._buffers[name]
                continue
            if now is None or then is None or (now.shape, now.dtype) != (then.shape, then.dtype):
                device = (next(self.model.parameters()) if now is None else now).device
                module._buffers[name] = None if then is None else then.to(device, copy=True)
            else:
                now.copy_(then)

    def _holders(self) -> list[Tensor]:
        """The tensors whose optimizer state there may be, in a fixed order."""
        groups = inner_optimizer(self.optimizer).param_groups
        return master_weights(self.optimizer) or [w for group in groups for w in group["params"]]

    def _restore_optimizer(self) -> None:
        inner = inner_optimizer(self.optimizer)
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
            for key in set(state) - set(kept):
                del state[key]
            for key, value in kept.items():
                if isinstance(value, Tensor):
                    local(state[key]).copy_(value)
                else:
                    state[key] = copy.deepcopy(value)
        for place, group in enumerate(inner.param_groups):
            for key, value in group.items():
                kept_value = self._kept.get(f"group/{place}/{key}", value)
                if isinstance(value, Tensor) and isinstance(kept_value, Tensor):
                    value.copy_(kept_value)
                else:
                    group[key] = kept_value

    def _restore_scaler(self) -> None:
        """The scale that fits the old weights: those that are lost may have brought it down to one
        from which it would take thousands of updates to rise. Before any update it is kept."""
        prefix = "scaler/"
        kept = {
            name.removeprefix(prefix): value
            for name, value in self._kept.items()
            if name.startswith(prefix)
        }
        if kept and self._proven:
            scaler_of(self.optimizer).load_state_dict(kept)


class _Kept(dict[str, Any]):
    """A state by name."""

    lent = False
    """Whether somebody else may hold its tensors, so that they are not to be written into."""


def _check_made(model: nn.Module) -> None:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if lazy := [name for name, tensor in tensors.items() if is_lazy(tensor)]:
        raise ValueError(
            f"{', '.join(lazy[:3])} of the model is not made yet, so there is no untouched model "
            "to go back to: run a batch through the model first, and build the optimizer then"
        )


def _to_host(value: Any, before: Any) -> Any:
    """A copy in host memory, in the place of an earlier one of the same form."""
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    if isinstance(before, Tensor) and (before.shape, before.dtype) == (value.shape, value.dtype):
        return before.copy_(value)
    return value.detach().to("cpu", copy=True)


def inner_optimizer(optimizer: Any) -> Any:
    """The torch optimizer inside the wrappers of Accelerate and DeepSpeed."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def master_weights(optimizer: Any) -> list[Tensor]:
    """DeepSpeed's full-precision copies of this rank's weights; empty without DeepSpeed."""
    while hasattr(optimizer, "optimizer"):
        for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
            if found := getattr(optimizer, name, None):
                return list(found)
        optimizer = optimizer.optimizer
    return []
