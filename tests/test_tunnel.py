"""The wind tunnel's summary, and the rule by which it finds a tuned LR."""

import math
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import tunnel  # noqa: E402
import tunnel_records  # noqa: E402


def test_the_summary_leaves_out_label_noise_and_counts_cells() -> None:
    lost = {
        "plateau": {0.01: -3.0, 1.0: 0.0},
        "stream": {0.01: -1.0, 1.0: 1.0},
        "noise": {0.01: -50.0, 1.0: -50.0},
    }
    found = tunnel.summary(lost)
    assert found.mean == pytest.approx(-0.75)
    assert found.worst == -3.0
    assert found.within == pytest.approx(3 / 4)
    assert found.spread == pytest.approx(2.5)


@pytest.mark.parametrize("name", tunnel.WORKLOADS)
def test_tuned_lrs_of_the_records_are_interior(name: str) -> None:
    found = tunnel.grid(tunnel.Records(name, complete=False), name, 1000, "cosine")
    best = max(found, key=found.__getitem__)
    assert {best - 2, best - 1, best + 1, best + 2} <= found.keys()


def test_a_table_leaves_out_what_lacks_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tunnel, "RECORDS", tmp_path)
    lines = list(tunnel.table(["adaptive"], [1000], ["stream"]))
    assert len(lines) == 2  # the head alone


def _losses(edge: int, k: int) -> list[float]:
    """Harmless below ``edge``, and above it the worse the higher."""
    return [2.0, 2.0, *([9.0] * 3 if k >= edge else [1.9] * 3)]


@pytest.mark.parametrize("start", [-6, -4, -1, 0, 3, 4, 9])
def test_the_edge_is_the_same_from_every_start(start: int) -> None:
    place, spent = tunnel_records.edge(lambda k: _losses(3, k), start)
    assert place == 3
    assert spent <= tunnel_records.MOST


def test_harm_is_by_size_and_at_once_where_it_is_not_finite() -> None:
    assert tunnel_records.harm([2.0, 2.0, 2.9, 2.9], [], 2.0) == 0
    assert tunnel_records.harm([2.0, 3.1, 3.1], [], 2.0) == 3
    assert tunnel_records.harm([2.0, 4.1], [], 2.0) == 2
    assert tunnel_records.harm([2.0, math.nan], [], 2.0) == 2


def test_label_noise_alone_is_a_table_of_its_own() -> None:
    (row,) = list(tunnel.table(["adaptive-validation"], [1000], ["noise"]))[2:]
    assert row.startswith("| 1000 | adaptive-validation | -2.29 |")


@pytest.mark.data
def test_the_start_of_a_run_does_not_hang_on_any_one_workload(real_data: Path) -> None:
    loads = {
        total: list(tunnel_records.workloads(total, real_data / "wind_tunnel"))
        for total in (300, 1000, 4000)
    }
    rows = list(tunnel_records.left_out(loads))
    assert len(rows) == 9
    for name, _, lost, usual in rows:
        assert lost == pytest.approx(usual, abs=0.3), name  # less is no difference
