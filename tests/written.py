"""Run folders with records of our choice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlox.runs.history import Run, read_run
from rlox.runs.logs import CONFIG, METRICS

Metric = Sequence[float | None] | Callable[[int], float | None] | float
EVALUATION = {"std_reward": 5.0, "mean_length": 50.0, "n_episodes": 20.0}


def records_of(n: int = 10, *, every: int = 1000, **metrics: Any) -> list[dict[str, Any]]:
    """Return records at ``every``, ``2 * every``, ... of metrics ``group__name``: constants, sequences, functions."""

    def value(metric: Metric, i: int) -> float | None:
        return metric(i) if callable(metric) else metric[i] if isinstance(metric, Sequence) else metric

    return [
        {
            "time": 1000.0 + 10 * i,
            "env_steps": every * (i + 1),
            "gradient_steps": every * i,
            "time/seconds": 10.0 * (i + 1),
            **{name.replace("__", "/", 1): value(metric, i) for name, metric in metrics.items()},
        }
        for i in range(n)
    ]


def evaluated(returns: Sequence[float], **metrics: Any) -> list[dict[str, Any]]:
    """Return records with evaluations of these mean returns."""
    found: dict[str, Any] = {f"eval__{name}": value for name, value in EVALUATION.items()}
    found |= {
        "eval__min_reward": [value - 10 for value in returns],
        "eval__max_reward": [value + 10 for value in returns],
    }
    return records_of(len(returns), eval__mean_reward=list(returns), **found, **metrics)


def write_run(
    folder: Path,
    records: Sequence[Mapping[str, Any]] = (),
    *,
    algorithm: str = "awr",
    config: Mapping[str, Any] | None = None,
    **about: Any,
) -> Run:
    """Write a run's folder and return what is read of it."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = {"algorithm": algorithm, "config": {"beta": 1.0, **(config or {})}, "env": "CartPole-v1", "seed": 0, **about}
    (folder / CONFIG).write_text(json.dumps(spec))
    (folder / METRICS).write_text("".join(json.dumps(record) + "\n" for record in records))
    return read_run(folder)


def append(folder: Path, *records: Mapping[str, Any]) -> None:
    """Add records to a run, as a trainer does."""
    with (folder / METRICS).open("a") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records))
