"""Statistics over seeds: interquartile means with bootstrap intervals, and probabilities of improvement.

As Agarwal et al. (2021, arXiv:2108.13264) recommend them for a few runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import trim_mean

from rlox.runs.history import Floats, Run, Series

N_DRAWS = 2_000
"""Bootstrap samples of an interval."""
COVERAGE = 0.95
MOST_STEPS = 200
"""Of a curve."""


class Estimate(NamedTuple):
    """A statistic with its 95% bootstrap interval; the bounds are nan if there is one run only."""

    value: float
    low: float
    high: float


class Curve(NamedTuple):
    """The returns of several runs over steps."""

    steps: Floats
    """``(n,)``: at which every run has been."""
    value: Floats
    """``(n,)``: interquartile mean over the runs, or another statistic."""
    low: Floats
    """``(n,)``: lower bound of the mean's 95% bootstrap interval; nan of one run."""
    high: Floats
    """``(n,)``: the upper one."""


def interquartile_mean(scores: ArrayLike) -> Floats:
    """Return the mean of the middle half of the runs, of scores ``(runs, ...)``.

    A quarter of the runs is left out on each side, rounded down, so that of fewer than four it is the mean.
    """
    return np.asarray(trim_mean(np.asarray(scores, np.float64), 0.25, axis=0))


def resample(scores: ArrayLike, *, n: int = N_DRAWS, seed: int = 0) -> Floats:
    """Return bootstrap samples ``(n, runs, ...)`` of scores ``(runs, ...)``: the runs, drawn with replacement."""
    given = np.asarray(scores, np.float64)
    return given[np.random.default_rng(seed).integers(len(given), size=(n, len(given)))]


def interval(statistics: ArrayLike) -> tuple[Floats, Floats]:
    """Return the 95% percentile interval of the statistics of bootstrap samples ``(n, ...)``."""
    low, high = np.percentile(np.asarray(statistics, np.float64), [50 * (1 - COVERAGE), 50 * (1 + COVERAGE)], axis=0)
    return low, high


def estimate(scores: ArrayLike) -> Estimate:
    """Return the interquartile mean of scores ``(runs,)`` with its 95% bootstrap interval."""
    given = np.asarray(scores, np.float64)
    low, high = _bounds(given[:, None])
    return Estimate(float(interquartile_mean(given)), float(low[0]), float(high[0]))


def _bounds(scores: Floats) -> tuple[Floats, Floats]:
    """Return the interval of the interquartile mean of scores ``(runs, n)``."""
    if len(scores) < 2:
        nothing = np.full(scores.shape[1], np.nan)
        return nothing, nothing
    drawn = np.moveaxis(resample(scores), 1, 0)
    return interval(interquartile_mean(drawn))


def probability_of_improvement(better: Sequence[ArrayLike], worse: Sequence[ArrayLike]) -> float:
    """Return how probable it is that a run of one algorithm beats a run of another, averaged over tasks.

    Args:
        better: scores of the one, ``(runs,)`` for each task.
        worse: scores of the other, for the same tasks.

    Returns:
        The mean over tasks of P(X > Y) + P(X = Y) / 2, which is the Mann-Whitney statistic.
    """
    pairs = [np.asarray(x, np.float64)[:, None] - np.asarray(y, np.float64) for x, y in zip(better, worse, strict=True)]
    return float(np.mean([np.mean((pair > 0) + 0.5 * (pair == 0)) for pair in pairs]))


def improvement(better: Sequence[ArrayLike], worse: Sequence[ArrayLike]) -> Estimate:
    """Return how probable it is that a run of one algorithm beats a run of another, with its 95% bootstrap interval.

    Args:
        better: scores of the one, ``(runs,)`` for each task. Runs are drawn with replacement in each.
        worse: scores of the other, for the same tasks.
    """
    value = probability_of_improvement(better, worse)
    if any(len(np.asarray(scores)) < 2 for scores in (*better, *worse)):
        return Estimate(value, np.nan, np.nan)
    drawn = [
        [resample(scores, seed=2 * task + side) for task, scores in enumerate(scores_of)]
        for side, scores_of in enumerate((better, worse))
    ]
    samples = [
        probability_of_improvement([task[i] for task in drawn[0]], [task[i] for task in drawn[1]])
        for i in range(N_DRAWS)
    ]
    low, high = interval(samples)
    return Estimate(value, float(low), float(high))


def curve(
    runs: Sequence[Run],
    series: Callable[[Run], Series] = lambda run: run.returns,
    *,
    bounds: bool = True,
    statistic: Callable[[Floats], Floats] = interquartile_mean,
) -> Curve:
    """Return a metric of several runs over steps, up to where the shortest of them is; its values hold between records.

    Runs that have no values yet are left out.

    Args:
        runs: of one group.
        series: takes the metric from a run.
        bounds: whether there is an interval; it takes most of the time, and is nan without.
        statistic: makes one value for each step, ``(n,)``, of those of the runs, ``(runs, n)``.
    """
    found = [own for own in map(series, runs) if len(own.steps)]
    if not found:
        nothing = np.zeros(0)
        return Curve(nothing, nothing, nothing, nothing)
    first, last = max(own.steps[0] for own in found), min(own.steps[-1] for own in found)
    steps = np.unique(np.concatenate([own.steps for own in found]))
    steps = steps[(steps >= first) & (steps <= last)]
    if len(steps) > MOST_STEPS:
        steps = steps[np.linspace(0, len(steps) - 1, MOST_STEPS).round().astype(int)]
    scores = np.array([own.values[np.searchsorted(own.steps, steps, side="right") - 1] for own in found])
    return Curve(steps, statistic(scores), *_bounds(scores if bounds else scores[:1]))


class Reached(NamedTuple):
    """Where a run reached a threshold."""

    steps: float
    seconds: float


def reached(run: Run, threshold: float) -> Reached | None:
    """Return where the returns of a run were at least ``threshold`` for the first time; None if they never were."""
    found = run.returns
    above = np.flatnonzero(found.values >= threshold)
    return Reached(float(found.steps[above[0]]), float(found.seconds[above[0]])) if len(above) else None
