"""Where metrics go: a run folder's files."""

from __future__ import annotations

import json
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
            f"run_dir '{run_dir}' already holds files: name a new folder, or continue the run in it by "
            f"Trainer.load('{run_dir}').train()."
        )


class RunLog:
    """The files of a run: ``config.json``, ``metrics.jsonl`` with a line for each record, and TensorBoard events.

    TensorBoard's curves of an environment are over environment steps; those of offline learning are a run beside
    it, ``offline``, over gradient steps.
    """

    def __init__(self, run_dir: Path, description: dict[str, Any], *, offline: bool):
        from tensorboardX import SummaryWriter

        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / CONFIG).write_text(json.dumps({**description, "versions": versions()}, indent=2) + "\n")
        self._file = (run_dir / METRICS).open("a")
        self._events = SummaryWriter(str(run_dir / "offline" if offline else run_dir))
        self._clock = "gradient_steps" if offline else "env_steps"

    def __enter__(self) -> RunLog:
        return self

    def __call__(self, metrics: dict[str, float]) -> None:
        """Append one record."""
        self._file.write(json.dumps({k: v if math.isfinite(v) else None for k, v in metrics.items()}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            if "/" in name and math.isfinite(value):
                self._events.add_scalar(name, value, int(metrics[self._clock]))

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._events.close()
