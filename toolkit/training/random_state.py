"""The states of a rank's random number generators, as JSON: nothing in them can run."""

import base64
import random
from typing import Any

import numpy as np
import torch


def seed_host(seed: int) -> None:
    """Seed Python's and numpy's global generators, which a user's task may draw from.

    Args:
        seed: as ``derive_seed`` returns it.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)


def seed_all(seed: int) -> None:
    """Seed torch's generators, too."""
    torch.manual_seed(seed)
    seed_host(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of Python's, numpy's and torch's global generators, and of the device's.

    Args:
        device: of this rank.
    """
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": [version, list(internal), gauss],
        "numpy": [name, [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "torch": _text(torch.get_rng_state()),
    }
    if device.type != "cpu":
        state[device.type] = _text(torch.get_device_module(device).get_rng_state())
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """The inverse of ``random_state``. The device's generator stays if the state is of another."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_tensor(state["torch"]))
    if device.type in state:
        torch.get_device_module(device).set_rng_state(_tensor(state[device.type]))


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode()


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
