"""Pictures of runs: learning curves over seeds, by matplotlib (extra ``plots``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rlox.errors import ConfigError, did_you_mean
from rlox.files import refusing, writing
from rlox.runs.history import Run, Series, alike_returns, group_runs, split
from rlox.runs.meanings import axis_of, axis_of_returns, meaning
from rlox.runs.statistics import curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1b6fb8", "#c4501b", "#0a8a6a", "#a4489a", "#a67c00", "#5f6b7a")
"""Of groups, in their order; told apart with any kind of colour vision, and on white in print. Then again, dashed."""
ENDINGS = (".png", ".svg", ".pdf")
SECONDS = "seconds of training, evaluations included"
Over = Literal["steps", "seconds"]


def colours_of(runs: Sequence[Run]) -> dict[str, int]:
    """Return the number of each group, by its label: its place in ``COLOURS``, the same in every environment."""
    return {
        label: i for i, label in enumerate(dict.fromkeys(label for own in group_runs(runs).values() for label in own))
    }


def figure(runs: Sequence[Run], metric: str | None = None, *, over: Over = "steps") -> Figure:
    """Draw a metric of runs over steps or seconds: a panel for each environment, a line for each group of seeds.

    Lines are interquartile means over seeds with 95% bootstrap intervals as bands; thin lines are single runs. Where
    some runs are over gradient steps and others over environment steps, each kind has a panel.

    Args:
        runs: of which there are records.
        metric: its name; None for returns.
        over: steps, or seconds of training, evaluations included.

    Returns:
        A matplotlib figure, which Jupyter shows.

    Raises:
        ConfigError: no such metric, no records yet, or the extra rlox[plots] is missing.
    """
    kind = figure_type()
    runs = alike_returns(runs)
    check_metric(runs, metric)
    places, numbers = list(_places(runs, metric, over)), colours_of(runs)
    n_columns = 2 if len(places) == 4 else min(len(places), 3)
    n_rows = -(-len(places) // n_columns)
    made = kind(figsize=(5.2 * n_columns + 0.6, 3.6 * n_rows + 0.5 + 0.2 * len(numbers)), layout="constrained")
    panels = made.subplots(n_rows, n_columns, squeeze=False).flatten()
    sizes: dict[str, list[int]] = {}
    for panel, (place, axis, groups) in zip(panels, places, strict=False):
        for label, own in groups.items():
            sizes.setdefault(label.lstrip("_"), []).append(len(own))
            _draw(panel, own, lambda run: series_of(run, metric, over), label, numbers[label])
        _name(panel, place, axis, next(iter(groups.values()))[0], metric)
    for panel in panels[len(places) :]:
        panel.set_visible(False)
    handles = {
        str(line.get_label()): line for panel in panels for line in panel.get_lines() if line.get_label()[0] != "_"
    }
    names = [f"{label} ({_seeds(sizes[label])})" for label in handles]
    legend = made.legend(
        list(handles.values()), names, loc="outside lower center", frameon=False, ncols=_columns(names)
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return made


def _places(runs: Sequence[Run], metric: str | None, over: Over) -> Iterator[tuple[str, str, dict[str, list[Run]]]]:
    """Yield what has a panel: a place, the name of its axis, and groups of those runs that have something to draw."""

    def axis(run: Run) -> str | None:
        if not len(series_of(run, metric).steps):
            return None
        return SECONDS if over == "seconds" else axis_of(offline=run.learned_offline(metric or run.return_name))

    for place, groups in group_runs(runs).items():
        yield from ((place, name, found) for name, found in split(groups, axis).items())


def figure_type() -> type[Figure]:
    """Return matplotlib's figure, which Jupyter shows.

    Raises:
        ConfigError: the extra rlox[plots] is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("Pictures need the extra rlox[plots]: pip install '.[plots]' in a clone of rlox.") from None

    class Picture(Figure):
        """Shows itself in Jupyter, whether or not pyplot was imported."""

        def _repr_png_(self) -> bytes:
            from io import BytesIO

            buffer = BytesIO()
            self.savefig(buffer, format="png", dpi=120)
            return buffer.getvalue()

    return Picture


def _columns(labels: Sequence[str]) -> int:
    return 1 if max(map(len, labels), default=0) > 30 else min(len(labels), 4) or 1


def check_metric(runs: Sequence[Run], metric: str | None) -> None:
    """Refuse what cannot be drawn.

    Raises:
        ConfigError: there are no records yet, or none of this metric.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.names))
    if metric is not None and names and metric not in names:
        raise ConfigError(f"'{metric}' is not a metric of these runs.{did_you_mean(metric, names)}")
    if not any(len(series_of(run, metric).steps) for run in runs):
        where = f"'{runs[0].path}' has" if len(runs) == 1 else f"The {len(runs)} runs have"
        raise ConfigError(f"{where} no records of {metric or 'returns'} yet: wait for the first ones (--log-interval).")


def series_of(run: Run, metric: str | None, over: Over = "steps") -> Series:
    """Return a metric of a run where it learned last, or its returns; over seconds, those are in the place of steps."""
    found = run.latest(metric or run.return_name)
    return found._replace(steps=found.seconds) if over == "seconds" else found


def _draw(panel: Axes, runs: Sequence[Run], series: Callable[[Run], Series], label: str, number: int) -> None:
    colour = COLOURS[number % len(COLOURS)]
    style: dict[str, Any] = {"color": colour, "linestyle": "--" if number >= len(COLOURS) else "-"}
    found = [own for own in map(series, runs) if len(own.steps)]
    if not found:
        return
    if len(found) > 1:
        for own in found:
            panel.plot(own.steps, own.values, linewidth=0.7, alpha=0.35, label="_", **style)
    middle = curve(runs, series)
    if np.isfinite(middle.low).any():
        panel.fill_between(middle.steps, middle.low, middle.high, color=colour, alpha=0.18, linewidth=0)
    marker = "o" if len(middle.steps) == 1 else None
    panel.plot(middle.steps, middle.value, linewidth=2, marker=marker, label=label.lstrip("_"), **style)


def _seeds(sizes: Sequence[int]) -> str:
    """Return how many seeds a label has in its panels."""
    fewest, most = min(sizes), max(sizes)
    if fewest < most:
        return f"{fewest} to {most} seeds"
    return "1 seed" if most == 1 else f"{most} seeds"


def _name(panel: Axes, place: str, axis: str, run: Run, metric: str | None) -> None:
    """Name a panel and its axes; names of files are shown as they are, without mathematics."""
    from matplotlib.ticker import EngFormatter

    panel.set_title(place, loc="left", fontweight="bold", parse_math=False)
    panel.set_xlabel(axis)
    panel.set_ylabel(axis_of_returns(run) if metric is None else _named(metric), parse_math=False)
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.grid(axis="y", color="#888888", alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.margins(x=0.01)


def _named(metric: str) -> str:
    known = meaning(metric)
    return metric if known.title == metric else f"{metric} ({known.unit})"


def plot(runs: Sequence[Run], path: str | Path, metric: str | None = None, *, over: Over = "steps") -> Path:
    """Write a picture of runs, as ``figure`` draws it.

    Args:
        runs: of which there are records.
        path: a file that ends in .png, .svg or .pdf.
        metric: its name; None for returns.
        over: as in ``figure``.

    Returns:
        The file.

    Raises:
        ConfigError: another ending, a file that cannot be written, or as ``figure``.
    """
    file = Path(path)
    if file.suffix.lower() not in ENDINGS:
        raise ConfigError(f"'{file}' does not end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}: name such a file.")
    made = figure(runs, metric, over=over)
    with writing(file) as side, refusing(file):
        made.savefig(side, dpi=160, metadata={"Date": None} if file.suffix.lower() == ".svg" else None)
    return file
