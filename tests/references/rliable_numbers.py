"""Interquartile means by rliable, for the tests to agree with: prints JSON.

rliable 1.2.0 does not run beside pandas 3, so it is no dependency. How rliable.json was made:

    python3 -m venv throwaway
    throwaway/bin/pip install rliable==1.2.0 'pandas<3'
    throwaway/bin/python tests/references/rliable_numbers.py > tests/references/rliable.json
"""

import json
from importlib.metadata import version

import numpy as np
from rliable.metrics import aggregate_iqm

SHAPES = ((3, 1), (4, 1), (8, 3), (10, 6), (5, 7), (20, 2))
"""Seeds and problems."""


def main() -> None:
    """Print scores, shape (seeds, problems), with rliable's interquartile mean."""
    generator = np.random.default_rng(5)
    cases = []
    for shape in SHAPES:
        scores = generator.normal(90, 3, shape)
        scores[0, 0] = 0.0  # a diverged run
        cases.append({"scores": scores.tolist(), "iqm": float(aggregate_iqm(scores))})
    versions = {name: version(name) for name in ("rliable", "arch", "numpy", "scipy", "pandas")}
    print(json.dumps({"versions": versions, "cases": cases}))


if __name__ == "__main__":
    main()
