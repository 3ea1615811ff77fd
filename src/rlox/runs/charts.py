"""The curves of a report, as plain numbers: what is drawn, and where."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from rlox.runs.history import Floats, Run, Series, group_runs
from rlox.runs.meanings import SPREAD, Meaning, axis_of, axis_of_returns, meaning, sections
from rlox.runs.plots import colours_of
from rlox.runs.statistics import Curve, curve, interquartile_mean

N_POINTS = 200_000
"""Of single runs in a report, shared evenly by their curves, so that it stays small."""
MOST_POINTS, FEWEST_POINTS = 1_500, 100
"""Of one of them."""
N_EXACT = 60
MANY_DIGITS, FEW_DIGITS = 6, 4
"""Of values, if there are up to so many curves, and if there are more."""
Points = list[tuple[float, float | None]]
Numbers = Sequence[float | None] | Sequence[float] | Floats


class Chart(NamedTuple):
    """What is said around the curves of one metric."""

    key: str
    """By which the page finds its curves."""
    metric: str
    """Its name in the records; empty if there are several."""
    text: Meaning
    axis: str


class Phase(NamedTuple):
    """Charts over the same steps, below headings."""

    heading: str
    returns: list[Chart]
    spreads: list[Chart]
    """Of the returns of an evaluation, a chart for each group."""
    sections: dict[str, list[Chart]]


class Place(NamedTuple):
    """An environment, or data."""

    name: str
    groups: list[dict[str, Any]]
    """Labels, and the numbers of their colours."""
    phases: list[Phase]


class Curves:
    """The numbers of all charts, as JSON that the page draws; curves over the same steps share them.

    Args:
        n: how many there are of single runs; of many, each has fewer points, and digits.
    """

    def __init__(self, n: int):
        self._most = int(np.clip(N_POINTS // max(n, 1), FEWEST_POINTS, MOST_POINTS))
        self._digits = FEW_DIGITS if n > N_EXACT else MANY_DIGITS
        self._steps: dict[tuple[float | None, ...], int] = {}
        self._charts: dict[str, dict[str, Any]] = {}

    def add(self, key: str, lines: list[dict[str, Any]], **about: Any) -> bool:
        """Add the lines of a chart; returns whether there is anything to draw."""
        lines = [line for line in lines if line["middle"] is not None or line["runs"]]
        if lines:
            self._charts[key] = {"lines": lines, **about}
        return bool(lines)

    def table(self, steps: Numbers, *columns: Numbers) -> list[Any]:
        """Return columns over steps: the number of the steps among all, and the columns."""
        index = self._steps.setdefault(tuple(_short(step, MANY_DIGITS) for step in steps), len(self._steps))
        return [index, *([_short(value, self._digits) for value in column] for column in columns)]

    def points(self, points: Points) -> list[Any] | None:
        """Return the table of one run; None if it has no values."""
        if not any(value is not None for _, value in points):
            return None
        if len(points) > self._most:
            # It has steps of its own then, which take as much room as its values.
            points = _thin(points, max(self._most // 2, FEWEST_POINTS))
        steps, values = zip(*points, strict=True)
        return self.table(steps, values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"steps": [list(steps) for steps in self._steps], "charts": self._charts}


def make_charts(runs: Sequence[Run]) -> tuple[list[Place], dict[str, Any]]:
    """Return where what is drawn, and the numbers of it."""
    n_curves = sum(len(found) for run in runs for found in sections(run.names).values())
    curves = Curves(n_curves)
    numbers = colours_of(runs)
    places = []
    for i, (name, groups) in enumerate(group_runs(runs).items()):
        legend = [{"label": label, "number": numbers[label]} for label in groups]
        phases = [_phase(f"{i}", name, groups, numbers, curves, offline=offline) for offline in (True, False)]
        places.append(Place(name, legend, [phase for phase in phases if phase]))
    return places, curves.to_dict()


def _phase(
    at: str, place: str, groups: dict[str, list[Run]], numbers: dict[str, int], curves: Curves, *, offline: bool
) -> Phase | None:
    """Return the charts of learning offline, or of learning in an environment; None if there are none."""
    everyone = [run for runs in groups.values() for run in runs]
    there = [run for run in everyone if run.phase(offline=offline)]
    if not there:
        return None
    unit = "gradient_steps" if offline else "env_steps"
    names = [name for run in there for record in run.phase(offline=offline) for name in record if "/" in name]
    until = max(record[unit] for run in there for record in run.phase(offline=offline))
    about = {"place": place, "sync": f"{at} {unit}", "until": until}
    axis = axis_of(offline=offline)

    def made(text: Meaning, lines: list[dict[str, Any]], metric: str = "", **more: Any) -> Iterator[Chart]:
        chart = Chart(f"{at} {unit} {metric or text.title}", metric, text, axis)
        if curves.add(chart.key, lines, **about, **more):
            yield chart

    def lines_of(metric: str, *, bounds: bool = False) -> list[dict[str, Any]]:
        return [
            {"label": label, "number": numbers[label], **_line(runs, metric, curves, offline=offline, bounds=bounds)}
            for label, runs in groups.items()
        ]

    evaluated = "eval/mean_reward" in names and not any(run.returned for run in there)
    best = "eval/mean_reward" if evaluated else "rollout/episode_return"
    ends = _ends(there, offline=offline)
    spreads = [
        chart
        for label, runs in groups.items()
        for line in [{"label": label, "number": numbers[label], **_spread(runs, curves, offline=offline)}]
        for chart in made(SPREAD._replace(title=label), [line], y=ends)
    ]
    below = {
        heading: [chart for name in found if name != best for chart in made(meaning(name), lines_of(name), name)]
        for heading, found in sections(names).items()
    }
    both = any(run.phase(offline=True) for run in everyone) and any(run.phase(offline=False) for run in everyone)
    return Phase(
        ("Learning from data" if offline else "Learning in the environment") if both else "",
        [*made(_about_returns(there, best, everyone), lines_of(best, bounds=True), best)],
        spreads,
        {heading: charts for heading, charts in below.items() if charts},
    )


def _ends(runs: Sequence[Run], *, offline: bool) -> list[float] | None:
    """Return the lowest and the highest return of an evaluation's episodes; None if there are none."""
    low, high = (
        [value for run in runs for value in run.series(f"eval/{end}_reward", offline=offline).values]
        for end in ("min", "max")
    )
    return [float(min(low)), float(max(high))] if low and high else None


def _about_returns(runs: Sequence[Run], metric: str, everyone: Sequence[Run]) -> Meaning:
    if metric == "eval/mean_reward":
        unit = axis_of_returns(next(run for run in runs if metric in run.names))
        told = "Each point is an evaluation with the policy's best action."
    else:
        unit, told = meaning(metric).unit, meaning(metric).reading
    if len(everyone) > 1:
        told += (
            " Thick lines are interquartile means over seeds, bands their 95% bootstrap intervals, thin lines single "
            "runs. Bands that do not overlap tell groups apart; with fewer than about five seeds they are too narrow."
        )
    return Meaning("Returns", unit, told)


def _line(runs: Sequence[Run], metric: str, curves: Curves, *, offline: bool, bounds: bool) -> dict[str, Any]:
    """Return one group's line: single runs, and their interquartile mean with its interval."""
    single = [table for run in runs if (table := curves.points(_points(run, metric, offline=offline)))]
    if len(single) < 2:
        return {"middle": single[0] if single else None, "bands": [], "runs": []}
    found = curve(runs, lambda run: run.series(metric, offline=offline), bounds=bounds)
    if not len(found.steps):
        return {"middle": None, "bands": [], "runs": single}
    bands = [curves.table(found.steps, found.low, found.high)] if bounds else []
    return {"middle": curves.table(found.steps, found.value), "bands": bands, "runs": single}


def _spread(runs: Sequence[Run], curves: Curves, *, offline: bool) -> dict[str, Any]:
    """Return one group's evaluations: mean, standard deviation and extremes over the episodes.

    Of several runs, mean and standard deviation are interquartile means, and the extremes those of all. Runs without an
    evaluation are left out.
    """
    over_runs: dict[str, Callable[[Floats], Floats]] = {
        "mean": interquartile_mean,
        "std": interquartile_mean,
        "min": lambda values: values.min(axis=0),
        "max": lambda values: values.max(axis=0),
    }
    nothing = {"middle": None, "bands": [], "runs": []}
    runs = [run for run in runs if all(f"eval/{name}_reward" in run.names for name in over_runs)]
    if not runs:
        return nothing

    def over_steps(name: str) -> Curve:
        def series(run: Run) -> Series:
            return run.series(f"eval/{name}_reward", offline=offline)

        return curve(runs, series, bounds=False, statistic=over_runs[name])

    found = [over_steps(name) for name in over_runs]
    steps, (mean, std, least, most) = found[0].steps, (own.value for own in found)
    if not len(steps) or any(not np.array_equal(steps, own.steps) for own in found):
        return nothing
    near = np.maximum(mean - std, least), np.minimum(mean + std, most)
    bands = [curves.table(steps, least, most), curves.table(steps, *near)]
    return {"middle": curves.table(steps, mean), "bands": bands, "runs": []}


def _points(run: Run, metric: str, *, offline: bool) -> Points:
    """Return steps and values of a metric; a value that is not finite is None, which leaves a gap."""
    unit = "gradient_steps" if offline else "env_steps"
    found = {record[unit]: record[metric] for record in run.phase(offline=offline) if metric in record}
    return sorted(found.items())


def _thin(points: Points, most: int) -> Points:
    """Return about so many points: the ends, and of each stretch its lowest, its highest and a gap if it has any."""
    kept: Points = []
    each = 3 if any(value is None for _, value in points) else 2
    bounds = np.linspace(0, len(points), most // each + 1).astype(int)
    for begin, end in pairwise(bounds):
        stretch = points[begin:end]
        known = [(value, step) for step, value in stretch if value is not None]
        ends = {step: value for value, step in (min(known), max(known))} if known else {}
        gaps = [(step, value) for step, value in stretch if value is None]
        kept += sorted([*ends.items(), *gaps[:1]])
    return [*points[:1], *kept[points[0] == kept[0] :], *(points[-1:] if points[-1] != kept[-1] else [])]


def _short(value: float | None, digits: int) -> float | None:
    """Return a number to so many digits, whole ones as they are; None if it is not finite."""
    number = math.nan if value is None else float(value)
    if not math.isfinite(number):
        return None
    if number.is_integer() and abs(number) < 2**53:
        return int(number)
    short = float(f"{number:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 2**53 else short
