"""Fit a run on SQuAD v2 and say by how much its F1 exceeds that of answering nothing.

Half of the questions of a validation split have no answer: a model that never answers scores about
50. Printed are the test metrics and the difference in F1, question by question,
with its bootstrap interval (BCa) over questions; the threshold is 0 throughout.

usage: python benchmarks/squad_margin.py TARGET [flags] [schedule:NAME]      as toolkit.train
"""

import json
import sys
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from toolkit.config import parse, resolve
from toolkit.metrics import squad_f1, squad_golds
from toolkit.process import set_threads
from toolkit.training import loop
from toolkit.training.build import build
from toolkit.training.run import Run

RESAMPLES, SEED, CONFIDENCE = 9_999, 0, 0.95


def main(command: list[str]) -> None:
    """Fit, and print what the answers of the last evaluation, that on test, are worth."""
    set_threads()
    run = build(resolve(parse(command)))
    answers = _keep_answers(run)
    result = loop.fit(run)
    if result is None or result.diverged:
        raise SystemExit(f"{'stopped' if result is None else 'diverged'} at update {run.update}")
    f1, nothing = _f1_by_question(answers, run.splits.test)
    loop.release(run)
    interval = bootstrap(
        (f1 - nothing,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    for name, value in result.metrics.test.items():
        print(f"{name}: {value:.2f}")
    print(f"updates: {result.updates}, seconds: {json.dumps(result.to_json()['timing'])}")
    print(f"questions: {len(f1)}; F1 {f1.mean():.2f}, of no answer at all {nothing.mean():.2f}")
    print(
        f"difference: {np.mean(f1 - nothing):+.2f}, {CONFIDENCE:.0%} interval "
        f"{interval.low:+.2f} to {interval.high:+.2f}"
    )


def _keep_answers(run: Run) -> list[str]:
    """A list that holds the answers of the newest evaluation."""
    task: Any = run.task
    kept: list[str] = []
    metrics = task.metrics

    def keep(predictions: Any, labels: Any, split: Any) -> dict[str, float]:
        kept[:] = [answer.text for answer in task.answers(predictions, labels, split)]
        scores: dict[str, float] = metrics(predictions, labels, split)
        return scores

    task.metrics = keep
    return kept


def _f1_by_question(answers: list[str], split: Any) -> tuple[np.ndarray, np.ndarray]:
    """F1 in per cent, of the answers and of empty ones, each of shape (questions,)."""
    golds = [squad_golds(answer["text"]) for answer in split.questions["answers"]]
    return (
        np.array([100 * squad_f1(text, gold) for text, gold in zip(answers, golds, strict=True)]),
        np.array([100 * squad_f1("", gold) for gold in golds]),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
