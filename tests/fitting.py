"""Fit a run that is expected to come to its end."""

from toolkit.records.result import Result
from toolkit.training import loop
from toolkit.training.build import Run


def fitted(run: Run) -> Result:
    """The result of a run that nobody stops."""
    result = loop.fit(run)
    assert result is not None, "the run was pre-empted"
    return result
