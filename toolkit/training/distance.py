"""An estimate of how far the weights have to go, for a schedule that raises the LR by it.

At each update, with g the gradient as the optimizer gets it (accumulated, reduced, clipped), x the
weights before it, x_0 the first ones, w the weight that the schedule gives the update and
b = sqrt(0.999),

    r = b r + w <g, x_0 - x>          s = b s + w g

and r / |s|_1 estimates the distance per coordinate (Mishchenko and Defazio 2024, *Prodigy*, here
with one weight for both sums). With q the squared norm of g over n coordinates, sqrt(q / n) is the
displacement by SGD at LR 1. A parameter group whose LR is a multiple of the first one's is that
many times easier to move: its part of |s|_1 is multiplied by the ratio of the base LRs.

All of it stays where the weights are, over all weights of a small model and one in k of a large
one: r, |s|_1, q and n of each rank are summed over the ranks with the loss (``loss_meter.py``).
With DDP all ranks have the same sums, under ZeRO and FSDP2 parts of them: the ratios are right in
all.

What it costs is memory traffic, since the weights and gradients of an update are in no cache. So
one in k means a run of neighbours out of k runs, not every k-th entry, which would read every
cache line of the model (``benchmarks/signal_cost.py``).
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any, TypeAlias
from weakref import ref

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors
from torch.optim import SGD, Optimizer

from toolkit.training.sharding import local
from toolkit.training.snapshot import inner_optimizer, master_weights

KEPT = math.sqrt(0.999)
"""Share of both sums that an update leaves."""
MOST_SHARE = 0.02
"""Share of the weights' memory that the two buffers take together, where it is enough for ..."""
FEWEST_ENTRIES = 2**17
"""... so many entries; else so many are kept, or all."""
LONGEST_RUN, FEWEST_RUNS = 64, 256
"""How many neighbours are looked at together, and of how many places in a tensor at least: what is
near together is alike."""
SUMS = 4
"""How many numbers ``sums`` returns."""

Number: TypeAlias = float | Tensor
"""One of Python's for weights on the host, where to look at it costs no wait and arithmetic a tenth
of a tensor's; else a tensor of one number on the device."""


class DistanceEstimate:
    """The sums of this rank, brought up to date by a hook before each step of an optimizer.

    Under ``step(closure)`` that is when the closure has ended for the first time.

    Args:
        optimizer: any torch optimizer, prepared or not. Its gradients are those of its own
            parameters, under DeepSpeed of this rank's full-precision master weights.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.weight = 0.0
        """The weight of the next update; with 0 it leaves the estimate as it is."""
        inner = inner_optimizer(optimizer)
        self.momentum = momentum_of(optimizer)
        weights = master_weights(optimizer) or _trainable(inner.param_groups)
        self.every = _every(weights)
        """One in how many entries is looked at."""
        self.base_lr = base_lr_of(inner.param_groups)
        """The base LR that those of the groups are compared with."""
        self._parts: dict[int, _Part] = {}
        """Place of a parameter group -> its part."""
        self._loaded: dict[int, dict[str, Tensor]] = {}
        self._places: dict[int, int] = {}
        """Tells a group again, of which DeepSpeed shows one at a time: the id of its first weight.
        They are numbered as they are first seen."""
        target = ref(self)

        def look(stepped: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            alive = target()
            return None if alive is None else alive._before_step(stepped, args, kwargs)

        inner.register_step_pre_hook(look)

    def reset(self) -> None:
        """Begin anew: the weights before the next update are the first ones."""
        self._parts, self._loaded = {}, {}

    def sums(self) -> list[Number]:
        """r, |s|_1, q and n of this rank, each where it is kept. No sync."""
        columns = zip(*[part.sums() for part in self._parts.values()], strict=True)
        return [sum(column) for column in columns] or [0.0] * SUMS

    def told(self, sums: Sequence[float] | None = None) -> tuple[float, float]:
        """What ``Reading.distance`` says, of ``sums`` that were added up over the ranks.

        None stands for this rank's own, for which the host waits.
        """
        r, norm, square, count = on_host(self.sums()) if sums is None else sums
        estimate = r / norm if norm else 0.0
        if self.momentum is None:
            return estimate, 1.0
        return estimate, math.sqrt(square / count) / (1 - self.momentum) if count else 0.0

    def state_dict(self) -> dict[str, Any]:
        """The sums and first weights of this rank as host tensors; empty before an update."""
        parts = {**self._loaded, **{place: part.state() for place, part in self._parts.items()}}
        if not parts:
            return {}
        return {"parts": [*parts.values()], "places": [*parts], "every": self.every}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken.

        The part of a group that has other weights by then, as more were unfrozen, begins anew, with
        a warning.
        """
        parts = state.get("parts", [])
        # Earlier versions knew no places: theirs had every group's from the first update on.
        places = state.get("places", range(len(parts)))
        self._parts, self._loaded = {}, dict(zip(places, parts, strict=True))
        self.every = state.get("every", self.every)

    def _before_step(self, stepped: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Look at the gradients, or have the closure of this step do so at its end.

        A closure takes the gradients within the step: before, they are those of the last update. An
        optimizer that calls it several times, as L-BFGS does, begins at the weights of the first.

        Args:
            stepped: the optimizer.
            args, kwargs: of its ``step``; the optimizer itself is the first of ``args``.

        Returns:
            What a hook returns: None, or both with the closure wrapped.
        """
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            self._look(stepped)
            return None
        looked = False

        def and_look(*given: Any, **named: Any) -> Any:
            nonlocal looked
            loss = closure(*given, **named)
            if not looked:
                looked = True
                self._look(stepped)
            return loss

        if len(args) > 1:
            return (args[0], and_look, *args[2:]), kwargs
        return args, {**kwargs, "closure": and_look}

    def _look(self, stepped: Any) -> None:
        """Take in what is about to be stepped on. DeepSpeed steps group by group."""
        with torch.set_grad_enabled(False):  # no_grad makes two of these, too
            for group in stepped.param_groups:
                if not group["params"]:
                    continue
                place = self._places.setdefault(id(group["params"][0]), len(self._places))
                if weights := _trainable([group]):
                    part = self._parts.get(place)
                    if part is None or not part.is_of(weights):  # some were frozen, or no longer
                        part = self._begin(place, weights, _base_lr(group))
                    part.add(self.weight, stepped)
                else:
                    self._parts.pop(place, None)

    def _begin(self, place: int, weights: list[Tensor], base_lr: float) -> "_Part":
        """The part of a group whose weights have not been seen since the last reset or load."""
        self._parts[place] = part = _Part(weights, self.every, base_lr / self.base_lr)
        loaded = self._loaded.pop(place, None)
        if loaded is not None and not part.load(loaded):
            warnings.warn(
                f"the estimate of the distance was saved for other weights of parameter group "
                f"{place}, or for other ranks: it begins anew there",
                stacklevel=2,
            )
        return part


class _Part:
    """The estimate over the weights of one parameter group.

    Args:
        weights: in a fixed order.
        every: which entries are looked at.
        ratio: the group's base LR over that of the first group.
    """

    def __init__(self, weights: list[Tensor], every: int, ratio: float) -> None:
        self._weights, self._every, self._ratio = weights, every, ratio
        self._wide = torch.float64 if weights[0].dtype == torch.float64 else torch.float32
        self._first = self._sample(weights).clone()
        self._running = torch.zeros_like(self._first)
        # A number of Python's would be made a tensor at each update, and that one be converted.
        self._kept = self._first.new_full((), KEPT)
        self._host = self._first.device.type == "cpu"
        self._count = float(self._first.numel())
        self._inner: Number = 0.0
        self._square: Number = 0.0

    def is_of(self, weights: list[Tensor]) -> bool:
        """Whether it is of these weights, and of no other."""
        return len(weights) == len(self._weights) and all(map(is_, weights, self._weights))

    def add(self, weight: float, stepped: Any) -> None:
        """Take in an update of this weight, before it is made; one that is not finite adds 0."""
        gradient, self._square = self._seen(stepped)
        if not weight:
            return
        moved = self._first - self._sample(self._weights)
        self._inner = KEPT * self._inner + weight * self._finite(torch.dot(gradient, moved))
        self._running.mul_(self._kept).add_(gradient, alpha=weight)

    def sums(self) -> list[Number]:
        """This group's part of ``DistanceEstimate.sums``."""
        norm = torch.linalg.vector_norm(self._running, 1)
        weighted: Number = self._ratio * (norm.item() if self._host else norm)
        return [self._inner, weighted, self._square, self._count]

    def state(self) -> dict[str, Tensor]:
        """Copies on the host."""
        kept = {"first": self._first, "running": self._running}
        inner = torch.as_tensor(self._inner, dtype=torch.float64)
        return {
            name: tensor.to("cpu", copy=True) for name, tensor in {**kept, "inner": inner}.items()
        }

    def load(self, state: dict[str, Tensor]) -> bool:
        """The inverse of ``state``; without effect, and False, if it is of other weights."""
        if state["first"].shape != self._first.shape:
            return False
        self._first.copy_(state["first"])
        self._running.copy_(state["running"])
        inner = state["inner"]
        self._inner = inner.item() if self._host else inner.to(self._first)
        return True

    def _seen(self, stepped: Any) -> tuple[Tensor, Number]:
        """What is looked at of the gradient that is about to be stepped on, and its squared norm.

        Both are 0 where it is not finite, or too large to be squared, or the update is skipped.
        """
        gradient = self._sample([_gradient(w) for w in self._weights])
        # A fused optimizer is to take the loss scale out by itself, and skips an update by itself.
        if (scale := getattr(stepped, "grad_scale", None)) is not None:
            gradient = gradient / scale
        skipped = getattr(stepped, "found_inf", None)
        square = torch.dot(gradient, gradient)
        if self._host:
            found = square.item()
            if found < math.inf and not (skipped is not None and skipped > 0):
                return gradient, found
            return torch.zeros_like(gradient), 0.0
        bad = ~(square < math.inf)
        if skipped is not None:
            bad = bad | (skipped > 0)
        return gradient.masked_fill(bad, 0.0), square.masked_fill(bad, 0.0)

    def _finite(self, number: Tensor) -> Number:
        """A number, as this part keeps them; 0 where it is not finite, as weights may be."""
        if not self._host:
            return number.nan_to_num_(0.0, 0.0, 0.0)
        found = number.item()
        return found if math.isfinite(found) else 0.0

    def _sample(self, tensors: list[Tensor]) -> Tensor:
        """What is looked at of each, one after the other, in float32 or wider: (n,).

        It may be a view of a single tensor: it is not written to.
        """
        tensors = [local(tensor) for tensor in tensors]
        if self._every == 1:
            flat = _flatten_dense_tensors(tensors)
        else:
            flat = torch.cat([_runs(tensor, self._every) for tensor in tensors])
        return flat if flat.dtype == self._wide else flat.to(self._wide)


def on_host(values: Sequence[Number]) -> list[float]:
    """The numbers as Python's, those on a device in one transfer, for which the host waits."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if all(tensor.device.type == "cpu" for tensor in tensors):  # there each by itself is faster
        return [float(value) for value in values]
    fetched = iter(torch.stack(tensors).tolist())
    return [next(fetched) if isinstance(value, Tensor) else value for value in values]


def momentum_of(optimizer: Any) -> float | None:
    """The momentum of SGD, prepared or not; None for other optimizers."""
    inner = inner_optimizer(optimizer)
    return float(inner.param_groups[0]["momentum"]) if isinstance(inner, SGD) else None


def base_lr_of(groups: Sequence[Mapping[str, Any]]) -> float:
    """The base LR of an optimizer: that of the first of its groups that has one above 0.

    Raises:
        ValueError: if there is none, or one is not a finite number of 0 or above.
    """
    rates = [_base_lr(group) for group in groups]
    for place, rate in enumerate(rates):
        if not 0 <= rate < math.inf:
            raise ValueError(f"the LR of parameter group {place} is {rate}: it must be 0 or above")
    if not any(rates):
        raise ValueError("the LR of every parameter group is 0: nothing would be trained")
    return next(rate for rate in rates if rate)


def _base_lr(group: Mapping[str, Any]) -> float:
    return float(group.get("initial_lr", group["lr"]))


def _trainable(groups: list[dict[str, Any]]) -> list[Tensor]:
    """The weights that the optimizer moves: not the frozen ones, nor those of a group with LR 0."""
    return [w for group in groups if _base_lr(group) for w in group["params"] if w.requires_grad]


def _every(weights: list[Tensor]) -> int:
    """Which entries the buffers have room for: all (1), or every k-th."""
    entries: int = sum(weight.numel() for weight in weights)
    size: int = sum(weight.numel() * weight.element_size() for weight in weights)
    wide = 8 if weights and weights[0].dtype == torch.float64 else 4
    room = max(FEWEST_ENTRIES, MOST_SHARE * size / (2 * wide))
    return max(1, math.ceil(entries / room))


def _runs(tensor: Tensor, every: int) -> Tensor:
    """One in ``every`` entries: runs of neighbours, evenly spread; in a small tensor short ones.

    ``every`` is 2 or more.
    """
    flat = tensor.detach().reshape(-1)
    run = min(LONGEST_RUN, flat.numel() // (every * FEWEST_RUNS))
    return flat[::every] if run <= 1 else flat.unfold(0, run, run * every).reshape(-1)


def _gradient(weight: Tensor) -> Tensor:
    """The gradient as a dense tensor; zeros where there is none."""
    gradient = weight.grad  # each look at it takes a while
    if gradient is None:
        own = local(weight)
        return own.new_zeros(()).expand(own.shape)
    return gradient.to_dense() if gradient.is_sparse else gradient
