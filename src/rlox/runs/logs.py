"""Where metrics go: a run folder's files, and the console."""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rlox.errors import RunExistsError

CONFIG = "config.json"
METRICS = "metrics.jsonl"


def versions() -> dict[str, str]:
    """Return the versions that a run's numbers depend on."""
    packages = ("rlox", "jax", "jaxlib", "equinox", "optax", "gymnasium", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def check_new(run_dir: Path) -> None:
    """Refuse a run folder that holds anything.

    Raises:
        RunExistsError: it does.
    """
    if run_dir.is_file():
        raise RunExistsError(f"run_dir '{run_dir}' is a file: name a new folder.")
    if run_dir.is_dir() and any(run_dir.iterdir()):
        raise RunExistsError(
            f"run_dir '{run_dir}' already holds files: name a new folder, or go on with what is there by "
            f"Trainer.load('{run_dir}', run_dir='{run_dir}')."
        )


class RunLog:
    """The files of a run: ``config.json`` once, ``metrics.jsonl`` a line a log interval, and TensorBoard events."""

    def __init__(self, run_dir: Path, description: dict[str, Any]):
        from tensorboardX import SummaryWriter

        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / CONFIG).write_text(json.dumps({**description, "versions": versions()}, indent=2) + "\n")
        self._file = (run_dir / METRICS).open("a")
        self._events = SummaryWriter(str(run_dir))

    def __enter__(self) -> RunLog:
        return self

    def __call__(self, metrics: dict[str, float]) -> None:
        """Append one record."""
        self._file.write(json.dumps({k: v if math.isfinite(v) else None for k, v in metrics.items()}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            if "/" in name and math.isfinite(value):
                self._events.add_scalar(name, value, int(metrics["env_steps"]))

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._events.close()


class Progress:
    """A live line on a terminal; elsewhere a plain line every few seconds.

    Args:
        total: environment steps to go when it starts.
        show: True, False, or None for only where standard error is a terminal.
    """

    def __init__(self, total: int, show: bool | None):
        self._total = total
        self._console = Console(stderr=True, highlight=False)
        shown = self._console.is_terminal if show is None else show
        self._live = Live(console=self._console, transient=True) if shown and self._console.is_terminal else None
        self._plain = shown and self._live is None
        self._start = self._last = time.perf_counter()
        self._line = ""

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()
        if self._line and (self._live or self._plain):
            print(self._line, file=sys.stderr)

    def update(self, steps: int, metrics: dict[str, float]) -> None:
        """Show where training stands after ``steps`` of ``total``."""
        now = time.perf_counter()
        speed = steps / max(now - self._start, 1e-9)
        parts = [f"{steps:,}/{self._total:,} steps", f"{speed:,.0f} steps/s"]
        parts.append(f"{_clock((self._total - steps) / max(speed, 1e-9))} left")
        for label, name in _SHOWN:
            if math.isfinite(metrics.get(name, math.nan)):
                parts.append(f"{label} {metrics[name]:.4g}")
        self._line = " | ".join(parts)
        if self._live:
            bar = "━" * int(20 * steps / self._total)
            self._live.update(Text.assemble((f"{bar:─<20} ", "cyan"), self._line))
        elif self._plain and now - self._last > 5:
            print(self._line, file=sys.stderr, flush=True)
            self._line, self._last = "", now


_SHOWN = [
    ("return", "rollout/episode_return"),
    ("eval", "eval/mean_reward"),
    ("critic loss", "critic/loss"),
    ("actor loss", "actor/loss"),
]


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
