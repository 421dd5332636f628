"""The table of ``benchmarks/overhead.py`` on a CUDA device.

The same sides train the same workloads on the GPU in turns. A turn is longer, and what is measured
are seconds until the GPU has done all that the side gave it in the turn. No side gives memory back
to the system here: activations are not the host's.

usage: python benchmarks/gpu/table.py [the flags of benchmarks/overhead.py] [WORKLOAD ...]
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import overhead
from cuda import is_missing
from turns import Workload

TINY_TURN, TURN, TURNS = 40, 20, 20
"""Updates of a turn, and turns that are counted."""


def on_gpu(workloads: Mapping[str, Workload]) -> dict[str, Workload]:
    """The workloads on a CUDA device, in longer turns."""
    return {
        name: one._replace(device="cuda", turn=TINY_TURN if one.tiny else TURN, turns=TURNS)
        for name, one in workloads.items()
    }


def main() -> int:
    """Time every workload and print its tables."""
    description = __doc__.splitlines()[0]
    arguments = overhead.parser_of(description, list(overhead.WORKLOADS)).parse_args()
    if is_missing():
        return 2
    os.environ["OMP_NUM_THREADS"] = "1"
    if arguments.one:
        overhead.make_one(arguments.one)
        return 0
    workloads = overhead.scaled(on_gpu(overhead.ALL), arguments.scale)
    return overhead.print_tables(arguments, workloads, __file__)


if __name__ == "__main__":
    sys.exit(main())
