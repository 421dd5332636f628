"""Time and memory to load and analyse a study of 1,000 made-up runs.

Each has 500 readings and 20 evaluations. Printed are seconds of the processor, seconds on the clock
and the peak memory of the process, for the numbers alone and with all files of the report.

usage: python benchmarks/many_runs.py [RUNS]
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.studies import write_large_study
from toolkit.report.__main__ import write_report
from toolkit.report.numbers.analyse import analyse
from toolkit.report.numbers.load import load_study


def main(runs: int = 1_000) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        study = write_large_study(Path(folder) / "large", runs)
        print("| what | processor, s | clock, s | peak GB |\n|---|---|---|---|")
        _line("load and analyse", lambda: analyse(load_study(study)))
        _line("with page, tables and figures", lambda: write_report(study))


def _line(name: str, work: Callable[[], object]) -> None:
    clock, processor = time.perf_counter(), time.process_time()
    stdout, sys.stdout = sys.stdout, sys.stderr
    work()
    sys.stdout = stdout
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kB on Linux
    print(f"| {name} | {processor:.1f} | {clock:.1f} | {peak:.2f} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
