"""The gradient scaler of fp16: its state, and the updates that it skips.

Gradients in fp16 vanish below 6e-8, so the loss is multiplied by a scale before the backward pass,
and the gradients are divided by it before the update. Where they overflow, the scaler skips the
update and halves the scale; after 2,000 updates without an overflow it doubles it. The loss itself
is never scaled where it is read.
"""

from typing import Any

import torch

from toolkit.errors import ConfigError

HALVINGS = 16
"""From the first scale of a scaler, 2^16, to 1: so many updates may be skipped while it looks for
the one that fits the model."""


def check_precision(precision: str) -> None:
    """Refuse fp16 where Accelerate would train in fp32 without a word.

    Raises:
        ConfigError: if fp16 is asked for and there is no GPU.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError(
            "recipe.precision = fp16 needs a GPU, and there is none: use bf16 or fp32 on a CPU"
        )


def scaler_of(optimizer: Any) -> Any:
    """The gradient scaler of an optimizer that Accelerate has prepared; None where there is none.

    One that is switched off is none.
    """
    while hasattr(optimizer, "optimizer"):
        scaler = getattr(optimizer, "scaler", None)
        if scaler is not None and scaler.is_enabled():
            return scaler
        optimizer = optimizer.optimizer
    return None


def was_skipped(stepped: Any) -> bool:
    """Whether a fused optimizer has skipped the update in its kernel, as a gradient scaler told it.

    The host waits for the device, as the scaler itself does at each step of other optimizers.
    """
    found = getattr(stepped, "found_inf", None)
    return found is not None and bool(found > 0)
