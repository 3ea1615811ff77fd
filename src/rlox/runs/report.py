"""A report of runs: one HTML page that needs nothing else, with curves, settings and what the numbers say."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rlox import __version__
from rlox.files import refusing, writing
from rlox.runs.charts import make_charts
from rlox.runs.diagnosis import together
from rlox.runs.history import Run, alike_returns, group_runs
from rlox.runs.meanings import SPREAD, axis_of, axis_of_returns
from rlox.runs.plots import COLOURS
from rlox.runs.statistics import Estimate
from rlox.runs.table import SLACK, Line, by_steps, compare_groups, thresholds_of

PAGE = Path(__file__).parent / "page"
NOTHING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
PARTS = ("lead", "findings", "tables", "charts", "details")
"""Of the page, each with its own template; they are replaced one by one while a run goes on."""


def write_report(runs: Sequence[Run], path: str | Path, *, threshold: float | None = None) -> Path:
    """Write the page.

    Args:
        runs: what it is about.
        path: the file.
        threshold: return to reach; None for that of the environment.

    Raises:
        ConfigError: it cannot be written.
    """
    file, page = Path(path), render(runs, threshold=threshold)
    with writing(file) as side, refusing(file):
        side.write_text(page, encoding="utf-8")
    return file


def render(runs: Sequence[Run], *, live: bool = False, threshold: float | None = None) -> str:
    """Return the page; a ``live`` one asks its server for news every two seconds."""
    content = contents(runs, threshold)
    scripts = [(PAGE / name).read_text(encoding="utf-8") for name in ("uPlot.iife.min.js", "report.js")]
    style = "".join((PAGE / name).read_text(encoding="utf-8") for name in ("uPlot.min.css", "report.css"))
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(map(_hash, scripts)),
        "style-src": _hash(style),
        "img-src": "data:",
        "connect-src": "'self'" if live else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return (
        _templates()
        .get_template("report.html")
        .render(
            **content,
            live=live,
            policy="; ".join(f"{name} {rule}" for name, rule in rules.items()),
            scripts=scripts,
            style=style,
        )
    )


def _hash(text: str) -> str:
    """Return what the page's own rules let run, so that nothing else does."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    made.filters.update(
        number=number, interval=interval, duration=duration, setting=setting, steps=lambda n: f"{n:,.0f}"
    )
    made.globals["n_colours"] = len(COLOURS)
    return made


def contents(runs: Sequence[Run], threshold: float | None = None) -> dict[str, Any]:
    """Return the parts of the page as HTML, and the numbers of its curves as plain JSON values."""
    runs = alike_returns(runs)
    places, curves = make_charts(runs)
    told = {
        "runs": runs,
        "title": title(runs),
        "lead": lead(runs),
        "findings": together(runs),
        "tables": _tables(group_runs(runs), threshold),
        "outcomes": [_outcome(run) for run in runs],
        "places": places,
        "spread": SPREAD,
        "settings": [
            _settings(label, place, own) for place, groups in group_runs(runs).items() for label, own in groups.items()
        ],
        "versions": _versions(runs),
        "rlox": __version__,
        "now": datetime.now().strftime("%Y-%m-%d %H:%M"),
    }
    templates = _templates()
    parts = {name: templates.get_template(f"{name}.html").render(told) for name in PARTS}
    return {"title": told["title"], "parts": parts, "curves": curves, "rlox": __version__, "now": told["now"]}


def title(runs: Sequence[Run]) -> str:
    """Return what the page is about."""
    if not runs:
        return "Waiting for a run"
    places = group_runs(runs)
    labels = list(dict.fromkeys(label for groups in places.values() for label in groups))
    where = next(iter(places)) if len(places) == 1 else f"{len(places)} environments"
    return f"{labels[0] if len(labels) == 1 else f'{len(labels)} groups of runs'} on {where}"


def lead(runs: Sequence[Run]) -> str:
    """Return the sentence that a reader wants first."""
    if not runs:
        return "The folder has no run yet. This page fills as soon as one begins."
    groups = group_runs(runs)
    known = [line for line in compare_groups(groups, {}) if not math.isnan(line.score.value)]
    if not known:
        return "There are no returns yet." if any(run.records for run in runs) else "There are no records yet."
    if len(groups) > 1:
        return f"{len(runs)} runs in {len(groups)} environments; the tables have their returns."
    own = next(iter(groups.values()))
    best = max(known, key=lambda line: line.score.value)
    those = by_steps(own)[best.offline][best.label]
    told = f"{_return(best, those)}, after {_effort(best, those)}"
    if len(own) == 1:
        return f"Return {told}."
    return f"Best of {len(own)} groups: {best.label}, with a return of {told}."


def _return(line: Line, runs: Sequence[Run]) -> str:
    """Return a line's return and how far it can be trusted, in words."""
    value = number(line.score.value)
    if line.n_runs == 1:
        spread = _spread(runs[0], line.steps)
        return f"{value} ({spread})" if spread else value
    interval = f"95% interval {number(line.score.low)} to {number(line.score.high)}"
    return f"{value} ({interval}, {line.n_runs} seeds)"


def _spread(run: Run, step: float) -> str:
    """Return of which episodes the return at a step is the mean, in words; nothing if that is not known."""
    if run.return_name != "eval/mean_reward":
        return ""
    at = max(found for found in run.returns.steps if found <= step * (1 + SLACK))
    low, high = (run.latest(f"eval/{end}_reward").at(at) for end in ("min", "max"))
    return "" if math.isnan(low) or math.isnan(high) else f"episodes from {number(low)} to {number(high)}"


def _effort(line: Line, runs: Sequence[Run]) -> str:
    """Return after how many steps that was, and how long they took, in words."""
    planned = runs[0].spec.get("budget", {}).get("gradient_steps" if line.offline else "total_timesteps")
    of = f" of {planned:,.0f}" if isinstance(planned, int | float) and planned > line.steps else ""
    each = " a run" if line.n_runs > 1 else ""
    time = "" if math.isnan(line.seconds) else f" in {duration(line.seconds)}{each}"
    return f"{line.steps:,.0f}{of} {axis_of(offline=line.offline)}{time}"


def _tables(groups: Mapping[str, Mapping[str, Sequence[Run]]], threshold: float | None = None) -> list[dict[str, Any]]:
    """Return the tables of each place, one for each kind of steps; their lines are those of ``rlox compare``."""
    thresholds = thresholds_of(groups, threshold)
    lines = compare_groups(groups, thresholds)
    return [
        {
            "place": place,
            "threshold": thresholds.get(place),
            "returns": axis_of_returns(next(iter(found.values()))[0]),
            "axis": axis_of(offline=offline),
            "lines": [line for line in lines if (line.place, line.offline) == (place, offline)],
            "several": len(found) > 1,
        }
        for place, own in groups.items()
        for offline, found in by_steps(own).items()
    ]


def _outcome(run: Run) -> dict[str, Any]:
    """Return what one run has come to."""
    returns = run.returns
    last: Mapping[str, Any] = run.records[-1] if run.records else {"env_steps": 0, "gradient_steps": 0, "time": 0.0}
    began = run.records[0]["time"] if run.records else 0.0
    return {
        "path": str(run.path),
        "seed": run.seed,
        "final": float(returns.values[-1]) if len(returns.values) else None,
        "best": float(returns.values.max()) if len(returns.values) else None,
        "steps": last["gradient_steps" if run.learned_offline_only else "env_steps"],
        "seconds": last.get("time/seconds") or last["time"] - began,
    }


def _settings(label: str, place: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Return the settings of a group, those first that are not the defaults."""
    spec = runs[0].spec
    defaults = _defaults(str(spec["algorithm"]))
    rows = [
        {
            "name": name,
            "value": value,
            "default": defaults.get(name),
            "differs": name in defaults and _differ(value, defaults[name]),
        }
        for name, value in spec.get("config", {}).items()
    ]
    about = {name: spec.get(name) for name in ("algorithm", "env", "dataset", "preset")}
    return {
        "label": label,
        "place": place,
        "about": {name: value for name, value in about.items() if value is not None},
        "seeds": ", ".join(str(run.seed) for run in runs),
        "budget": {name: value for name, value in spec.get("budget", {}).items() if value is not None},
        "known": bool(defaults),
        "rows": sorted(rows, key=lambda row: not row["differs"]),
        "n_differing": sum(row["differs"] for row in rows),
    }


def _defaults(algorithm: str) -> Mapping[str, Any]:
    """Return the default of each setting; nothing of an algorithm that is not known here."""
    from rlox.algorithms import ALGORITHMS

    found = ALGORITHMS.get(algorithm)
    fields = () if found is None else dataclasses.fields(found.config)
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


def _differ(value: object, default: object) -> bool:
    return value != (list(default) if isinstance(default, tuple) else default)


def _versions(runs: Sequence[Run]) -> dict[str, str]:
    """Return the versions of packages; several if the runs do not agree."""
    found: dict[str, list[str]] = {}
    for run in runs:
        versions = run.spec.get("versions")
        for name, version in versions.items() if isinstance(versions, dict) else ():
            found.setdefault(str(name), []).append(str(version))
    return {name: ", ".join(dict.fromkeys(given)) for name, given in found.items()}


def number(value: float | None) -> str:
    """Return a number to about four digits, with a true minus sign."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.4g}"
    return text.replace("-", MINUS)


def interval(found: Estimate) -> str:
    """Return the bounds of an estimate."""
    return NOTHING if math.isnan(found.low) else f"{number(found.low)} to {number(found.high)}"


def duration(seconds: float | None) -> str:
    """Return a time in the two units that matter."""
    if seconds is None or math.isnan(seconds):
        return NOTHING
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def setting(value: object) -> str:
    """Return a setting as it would be typed."""
    if isinstance(value, list | tuple):
        return " ".join(map(setting, value))
    text = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]} …"
