"""Which readings are missing among those of a run."""

import pytest

from toolkit.records.gaps import Gap, gaps


def held(*updates: int) -> list[tuple[int, str]]:
    return [(update, "hold") for update in updates]


@pytest.mark.parametrize(
    ("readings", "every", "end", "found"),
    [
        (held(1, 2, 3), 1, 3, []),
        (held(1, 2, 3), 1, None, []),
        (held(1, 2, 3), 1, 5, [(4, 5)]),
        ([], 1, 5, [(1, 5)]),
        ([], 10, 7, [(7, 7)]),
        (held(3, 4), 1, 4, [(1, 2)]),
        (held(1, 2, 5, 6, 9), 1, 9, [(3, 4), (7, 8)]),
        (held(7, 14, 21, 28, 30), 7, 30, []),
        (held(7, 14, 21, 28), 7, 30, [(30, 30)]),
        (held(7, 14, 28, 30), 7, 30, [(21, 27)]),
        (held(7, 21, 30), 7, 30, [(14, 20), (28, 29)]),
        (held(10, 17, 20), 10, 20, []),
    ],
)
def test_the_readings_that_were_due(
    readings: list[tuple[int, str]], every: int, end: int | None, found: list[tuple[int, int]]
) -> None:
    assert gaps(readings, every, end) == [Gap(*pair) for pair in found]


def test_in_a_search_every_update_is_read() -> None:
    search = [*held(1, 2, 3), (4, "trial"), *held(5, 6), (7, "restore")]
    after = held(10, 20, 30)
    assert gaps([*search, *after], 10, 30, searching=True) == []
    assert gaps(search[1:], 10, None, searching=True) == [Gap(1, 1)]
    # The end of the search is what is missing: it is not taken to have gone on.
    assert gaps([*search[:-1], *after], 10, 30, searching=True) == [Gap(7, 9)]


def test_a_gap_in_words() -> None:
    assert str(Gap(3, 3)) == "the reading of update 3 is missing"
    assert str(Gap(3, 9)) == "readings from update 3 to 9 are missing"
