"""A task whose metrics cannot be computed."""

from tests.programs.counted import Counted


class Wrong(Counted):
    def metrics(self, predictions, labels, split):
        raise ZeroDivisionError("no sample of this class")


TASK = Wrong()
