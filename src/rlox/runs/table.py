"""A comparison as a table: returns over seeds with intervals, who beats whom, and when a threshold was reached."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlox.runs.history import Run, split
from rlox.runs.meanings import axis_of
from rlox.runs.statistics import Estimate, Reached, estimate, improvement, reached

SLACK = 0.01
"""Share of the steps by which returns may be later than the step at which they are compared: with several environments,
the runs of one budget end a few steps apart."""


class Line(NamedTuple):
    """What the runs of one label at one place came to, of those whose returns are over the same kind of steps."""

    place: str
    label: str
    n_runs: int
    offline: bool
    """Whether its steps are gradient steps."""
    steps: float
    """At which all lines of this place and kind are compared: the last that every run of them has reached."""
    score: Estimate
    """Interquartile mean of the returns there; nan if one of the runs has none by then."""
    better: Estimate | None
    """Probability that one of its runs beats one of the first line's; None for the first line, or without returns."""
    n_reached: int
    """Runs that reached the threshold."""
    reached: Reached | None
    """Median steps and seconds to it; None unless more than half of the runs reached it."""
    seconds: float
    """Median of training until then; nan if that is not known."""


def compare_groups(groups: Mapping[str, Mapping[str, Sequence[Run]]], thresholds: Mapping[str, float]) -> list[Line]:
    """Return a line for each group of ``group_runs``; runs that have no return yet are left out.

    Args:
        groups: by place and label.
        thresholds: a return to reach, by place.
    """
    return [
        line
        for place, own in groups.items()
        for offline, found in by_steps(own).items()
        for line in _lines(place, found, thresholds.get(place), offline=offline)
    ]


def thresholds_of(
    groups: Mapping[str, Mapping[str, Sequence[Run]]], threshold: float | None = None
) -> dict[str, float]:
    """Return, by place, the return to reach: ``threshold``, or what Gymnasium calls solved, if it names one."""
    import gymnasium as gym

    if threshold is not None:
        return dict.fromkeys(groups, threshold)
    envs = {place: next(iter(own.values()))[0].spec.get("env") for place, own in groups.items()}
    ids = {place: env.rpartition(":")[2] for place, env in envs.items() if isinstance(env, str)}
    known = {place: gym.registry[env] for place, env in ids.items() if env in gym.registry}
    return {place: spec.reward_threshold for place, spec in known.items() if spec.reward_threshold is not None}


def _lines(place: str, found: Mapping[str, Sequence[Run]], threshold: float | None, *, offline: bool) -> list[Line]:
    at = _last_of_all(found)
    scores = {label: _scores(runs, at) for label, runs in found.items()}
    first = next(iter(scores.values()))
    return [
        Line(
            place,
            label,
            len(found[label]),
            offline,
            at,
            estimate(own) if own else Estimate(np.nan, np.nan, np.nan),
            improvement([own], [first]) if own and first and own is not first else None,
            *_to(found[label], threshold),
            statistics.median(_seconds_at(run, at) for run in found[label]),
        )
        for label, own in scores.items()
    ]


def by_steps(groups: Mapping[str, Sequence[Run]]) -> dict[bool, dict[str, list[Run]]]:
    """Return those runs of groups that have returns, by whether the steps of these are gradient steps."""
    return split(groups, lambda run: run.learned_offline(run.return_name) if len(run.returns.steps) else None)


def _last_of_all(groups: Mapping[str, Sequence[Run]]) -> float:
    """Return the last step that all runs have reached."""
    return min(run.returns.steps[-1] for runs in groups.values() for run in runs)


def _seconds_at(run: Run, at: float) -> float:
    """Return how long a run has trained until its return at a step."""
    i = max(int(np.searchsorted(run.returns.steps, at * (1 + SLACK), side="right")) - 1, 0)
    return float(run.returns.seconds[i])


def _scores(runs: Sequence[Run], at: float) -> list[float]:
    """Return the return of each run at a step; none at all if one of them has none by then."""
    found = [run.returns.at(at * (1 + SLACK)) for run in runs]
    return [] if np.isnan(found).any() else found


def _to(runs: Sequence[Run], threshold: float | None) -> tuple[int, Reached | None]:
    """Return how many runs reached the threshold, and the median of when."""
    when = [reached(run, threshold) for run in runs] if threshold is not None else []
    there = [x for x in when if x is not None]
    if 2 * len(there) <= len(runs):
        return len(there), None
    # Those that never did count as later than all others.
    never = [float("inf")] * (len(runs) - len(there))
    steps, seconds = (statistics.median([*(x[i] for x in there), *never]) for i in (0, 1))
    return len(there), Reached(steps, seconds)


def overall(groups: Mapping[str, Mapping[str, Sequence[Run]]]) -> tuple[str, dict[str, tuple[Estimate, int]]]:
    """Return the first label, and how probably each other beats it, as the mean over so many places that have both."""
    labels = list(dict.fromkeys(label for own in groups.values() for label in own))
    places = [(found, _last_of_all(found)) for own in groups.values() for found in by_steps(own).values()]
    found = {}
    for label in labels[1:]:
        shared = [(own, at) for own, at in places if label in own and labels[0] in own]
        pairs = [[_scores(own[name], at) for name in (label, labels[0])] for own, at in shared]
        pairs = [pair for pair in pairs if all(pair)]
        if pairs:
            found[label] = improvement([x for x, _ in pairs], [y for _, y in pairs]), len(pairs)
    return labels[0], found


def as_markdown(lines: Sequence[Line], thresholds: Mapping[str, float]) -> str:
    """Return the table, as Markdown that is also readable as it is."""
    several = any(line.score.low == line.score.low for line in lines)
    aims = any(line.place in thresholds for line in lines)
    first = {where(line, lines): line.label for line in reversed(lines)}
    beats = f"beats {lines[0].label}" if len(set(first.values())) == 1 else "beats its first line"
    header = ["where", "what", "runs", "return", *(["95% interval"] if several else [])]
    header += [beats] if any(line.better for line in lines) else []
    header += ["steps to threshold", "seconds to it"] if aims else []
    rows = [[*header, "seconds"]]
    for line in lines:
        row = [where(line, lines), line.label, str(line.n_runs), number(line.score.value)]
        row += [_interval(line.score, number)] if several else []
        if beats in header:
            row.append(
                "" if line.better is None else f"{line.better.value:.2f} {_interval(line.better, _share)}".strip()
            )
        if aims:
            row += _threshold(line, thresholds.get(line.place))
        rows.append([*row, _seconds(line.seconds)])
    return markdown(rows)


def where(line: Line, lines: Sequence[Line]) -> str:
    """Return the place of a line, with its kind of steps if those of the place are of both."""
    several = any(other.place == line.place and other.offline != line.offline for other in lines)
    return f"{line.place}, {axis_of(offline=line.offline)}" if several else line.place


def _threshold(line: Line, threshold: float | None) -> list[str]:
    if threshold is None:
        return ["", ""]
    if line.reached is None:
        return [f"{number(threshold)}: {line.n_reached} of {line.n_runs}", ""]
    missed = "" if line.n_reached == line.n_runs else f" ({line.n_reached} of {line.n_runs})"
    return [f"{number(threshold)}: {line.reached.steps:,.0f}{missed}", _seconds(line.reached.seconds)]


def _interval(found: Estimate, shown: Any) -> str:
    return "" if found.low != found.low else f"{shown(found.low)} to {shown(found.high)}"


def _seconds(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.0f}"


def number(value: float) -> str:
    """Return a return in few digits; nothing if it is not known."""
    if math.isnan(value):
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 or value == round(value, 1) else f"{value:.3g}"


def _share(value: float) -> str:
    return f"{value:.2f}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the first of them the header, as a table; columns after the second are aligned right."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [f"{cell:{'<' if i < 2 else '>'}{widths[i]}}" for i, cell in enumerate(row)]
        lines.append(f"| {' | '.join(cells)} |")
    rule = ["-" * width if i < 2 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([lines[0], f"| {' | '.join(rule)} |", *lines[1:]])
