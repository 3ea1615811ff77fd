"""What a search leaves when it is over: a table, the best settings, a report and a picture."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlox.errors import ConfigError
from rlox.files import refusing, writing
from rlox.runs.history import read_run
from rlox.runs.plots import COLOURS, figure_type
from rlox.runs.report import write_report
from rlox.runs.table import markdown, number
from rlox.search.space import Choice, Range, Space, shown
from rlox.search.trials import Trial

if TYPE_CHECKING:
    from rlox.search.tune import Search

BEST, TABLE, REPORT, PICTURE = "best.toml", "table.md", "report.html", "search.png"
REPORTED = len(COLOURS)
"""Trials that the report shows: as many as there are colours."""


def write_results(search: Search, space: Space) -> None:
    """Write the files.

    Raises:
        RunsFailedError: no trial is complete.
        ConfigError: one cannot be written.
    """
    best = search.best
    value = number(best.outcome.value if best.outcome and best.outcome.value is not None else float("nan"))
    with writing(search.output / BEST) as side:
        side.write_text(f"# {best.label} of {len(search.trials)}: return {value}\n{search.best_spec.to_toml()}")
    with writing(search.output / TABLE) as side:
        side.write_text(table(search, space) + "\n")
    runs = []
    for trial in search.ranked[:REPORTED]:
        for job in trial.jobs:
            with contextlib.suppress(ConfigError):  # Somebody has made room.
                runs.append(read_run(job.folder, trial.label))
    if runs:
        write_report(runs, search.output / REPORT)
    if importlib.util.find_spec("matplotlib"):
        draw(search, space, search.output / PICTURE)


def table(search: Search, space: Iterable[str], most: int | None = None) -> str:
    """Return the trials as a table: the best first, then those that were pruned or failed.

    Args:
        search: what has ended.
        space: names of the settings that are its columns.
        most: rows; None for all.
    """
    order = {trial.number: i for i, trial in enumerate(search.ranked)}
    trials = sorted(search.trials, key=lambda trial: order.get(trial.number, len(order)))
    names = list(space)
    rows = [["trial", "ended", "return", *names]]
    for trial in trials[:most]:
        outcome = trial.outcome
        value = "" if outcome is None or outcome.value is None else number(outcome.value)
        settings = [shown(trial.settings[name]) for name in names]
        rows.append([str(trial.number), "" if outcome is None else outcome.state, value, *settings])
    return markdown(rows)


def draw(search: Search, space: Space, path: Path) -> None:
    """Draw the returns of the trials in their order, and over each setting.

    Raises:
        ConfigError: it cannot be written, or the extra rlox[plots] is missing.
    """
    n_columns = 4
    n_rows = 1 + -(-len(space) // n_columns)
    made = figure_type()(figsize=(3 * n_columns, 2.4 * n_rows), layout="constrained")
    grid = made.add_gridspec(n_rows, n_columns)
    panels = {"trial": made.add_subplot(grid[0, :])}
    panels |= {name: made.add_subplot(grid[1 + i // n_columns, i % n_columns]) for i, name in enumerate(space)}
    known = [(trial, trial.outcome) for trial in search.trials if trial.outcome and trial.outcome.value is not None]
    for state, face in (("complete", COLOURS[0]), ("pruned", "none")):
        own = [(trial, outcome.value or 0.0) for trial, outcome in known if outcome.state == state]
        values = [value for _, value in own]
        for name, panel in panels.items():
            at = [_place(trial, name, space) for trial, _ in own]
            panel.scatter(at, values, s=22, facecolors=face, edgecolors=COLOURS[0], linewidths=1, label=state)
    best, complete = [], [(t.number, o.value or 0.0) for t, o in known if o.state == "complete"]
    for at, value in complete:
        best.append((at, max([value, *(before for _, before in best)])))
    panels["trial"].step(*zip(*best, strict=True), where="post", color=COLOURS[1], linewidth=1.5, label="best so far")
    # Above the panel, where no trial can be.
    panels["trial"].legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)
    for i, (name, panel) in enumerate(panels.items()):
        panel.set_xlabel(name)
        if (i - 1) % n_columns == 0 or not i:
            panel.set_ylabel("return")
        panel.grid(axis="y", color="#888888", alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        _scale(panel.xaxis, space.get(name))
    with writing(path) as side, refusing(path):
        made.savefig(side, dpi=130)


def _scale(axis: Any, tried: Range | Choice | None) -> None:
    """Show what was tried of a setting from one end to the other, with few marks; None is the number of a trial."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    if isinstance(tried, Choice):
        axis.set_ticks(range(len(tried.values)), map(shown, tried.values))
        axis.axes.set_xlim(-0.5, len(tried.values) - 0.5)
        return
    axis.set_major_locator(MaxNLocator(6, integer=tried is None or isinstance(tried.low, int)))
    if tried is not None and tried.log:
        axis.axes.set_xscale("log")
        axis.set_major_locator(LogLocator(subs=(1, 3) if tried.high / tried.low < 1000 else (1,)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")
    if tried is not None:
        margin = 1.15 if tried.log else 0.05 * (tried.high - tried.low)
        ends = (tried.low / margin, tried.high * margin) if tried.log else (tried.low - margin, tried.high + margin)
        axis.axes.set_xlim(*ends)


def _place(trial: Trial, name: str, space: Space) -> float:
    """Return where a trial is on an axis: its number, the value of a setting, or the place of a choice."""
    if name == "trial":
        return trial.number
    tried, value = space[name], trial.settings[name]
    return float(value) if isinstance(tried, Range) else tried.values.index(value)
