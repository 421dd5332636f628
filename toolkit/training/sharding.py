"""Tensors that FSDP2 has cut over the ranks: this rank's part of them, saved and loaded.

FSDP2 makes every weight a ``DTensor``, of which each rank holds a part, and so the gradients and
the optimizer's moments. What is done here is of the rank's own part, without a collective; with
tensors that are not cut, and without FSDP2, it does nothing to them. Buffers are each rank's own.
"""

from typing import Any

import torch
from torch import Tensor, nn

from toolkit.errors import RunError


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, in the same memory; the tensor itself where it is not cut.

    To be called where no gradient is recorded.
    """
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def reshard(model: nn.Module) -> None:
    """Let go of weights that were gathered for a pass: the parts are what counts from here on.

    After a pass without a gradient FSDP2 keeps the outermost weights gathered, and the next pass
    would take those, whatever has been written into the parts meanwhile.
    """
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()


def shards(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    """This rank's parts of a model and of its optimizer's state, as plain tensors.

    Args:
        model: prepared.
        optimizer: prepared or not.
    """
    with torch.no_grad():
        weights = {name: local(tensor) for name, tensor in model.state_dict().items()}
        state = optimizer.state_dict()
        parts: dict[int, dict[str, Any]] = {}
        cut: list[tuple[int, str]] = []
        for place, values in state["state"].items():
            parts[place] = {k: local(v) if isinstance(v, Tensor) else v for k, v in values.items()}
            cut += [(place, key) for key, value in values.items() if hasattr(value, "to_local")]
    return {"model": weights, "optimizer": {**state, "state": parts}, "cut": cut}


def load_shards(model: nn.Module, optimizer: Any, saved: dict[str, Any]) -> None:
    """The inverse of ``shards``, on a rank of the same number of as many.

    Raises:
        RunError: if they are parts of another model.
    """
    from torch.distributed.tensor import DTensor

    present = model.state_dict()
    if present.keys() != saved["model"].keys():
        raise RunError("the shards are of a model with other weights")
    with torch.no_grad():
        for name, tensor in present.items():
            local(tensor).copy_(saved["model"][name])
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state = {place: dict(values) for place, values in saved["optimizer"]["state"].items()}
    for place, key in saved["cut"]:
        like = weights[place]
        state[place][key] = DTensor.from_local(
            state[place][key].to(like.to_local().device),
            like.device_mesh,
            like.placements,
            run_check=False,
            shape=like.shape,
            stride=like.stride(),
        )
    optimizer.load_state_dict({**saved["optimizer"], "state": state})
