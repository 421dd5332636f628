"""Whether this machine can run the benchmarks of this folder."""

import sys


def is_missing() -> bool:
    """Whether torch finds no CUDA device; that is said in a line on stderr."""
    import torch

    if torch.cuda.is_available():
        return False
    print("no CUDA device: this benchmark is for a GPU", file=sys.stderr)
    return True
