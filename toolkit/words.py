"""Numbers in sentences: the one place that knows how a plural is made."""


def counted(number: int, what: str) -> str:
    """A number of things: 1 rank, 2 ranks, 2 micro-batches, 1,000 classes."""
    plural = "es" if what.endswith(("ch", "s")) else "s"
    return f"{number:,} {what}{plural * (number != 1)}"


def agreeing(number: int, one: str, several: str) -> str:
    """The form of a verb that goes with a number: 1 run *has*, 2 runs *have*."""
    return one if number == 1 else several
