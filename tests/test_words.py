"""Numbers in sentences."""

import pytest

from toolkit.words import agreeing, counted


@pytest.mark.parametrize(
    ("number", "what", "words"),
    [
        (0, "rollback", "0 rollbacks"),
        (1, "seed", "1 seed"),
        (2, "seed", "2 seeds"),
        (1, "micro-batch", "1 micro-batch"),
        (2, "micro-batch", "2 micro-batches"),
        (1_000, "class", "1,000 classes"),
    ],
)
def test_a_number_of_things(number: int, what: str, words: str) -> None:
    assert counted(number, what) == words


def test_a_verb_goes_with_its_number() -> None:
    assert [agreeing(number, "has", "have") for number in (0, 1, 2)] == ["have", "has", "have"]
