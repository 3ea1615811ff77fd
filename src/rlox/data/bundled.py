"""The data sets that ship with the package: names, files, spaces and reference returns.

``scripts/bundled_data.py`` makes them: four environments, four tiers each.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

_FOLDER = Path(__file__).parent / "bundled"
TIERS = ("random", "medium", "medium-replay", "expert")


class Reference(NamedTuple):
    """An environment with bundled data, and the returns that define its normalised score."""

    env: str
    """Gymnasium id."""
    random: float
    """Mean return of uniformly random actions: a score of 0."""
    expert: float
    """Mean return of the modes of the policy whose samples are the tier ``expert``: a score of 100."""
    observation_space: dict[str, Any]
    """As ``rlox.envs.space_json.describe`` returns it."""
    action_space: dict[str, Any]

    def score(self, mean_reward: float) -> float:
        """Return ``100 (mean_reward - random) / (expert - random)``."""
        return 100 * (mean_reward - self.random) / (self.expert - self.random)


@functools.cache
def references() -> dict[str, Reference]:
    """Return the reference of each environment with bundled data; the keys are the first part of the data's names."""
    table = json.loads((_FOLDER / "references.json").read_text())
    return {name: Reference(**entry) for name, entry in table.items()}


def bundled_names() -> list[str]:
    """Return the names of all bundled data sets, such as ``hopper-medium-replay``."""
    return [f"{name}-{tier}" for name in references() for tier in TIERS]


def is_bundled(name: str | Path) -> bool:
    """Return whether a bundled data set has this name."""
    return str(name) in bundled_names()


def bundled_path(name: str) -> Path:
    """Return the file of one of ``bundled_names()``."""
    return _FOLDER / f"{name}.npz"


def reference(name: str) -> Reference:
    """Return the reference of one of ``bundled_names()``."""
    return references()[name.partition("-")[0]]


def reference_of(env_id: str | None) -> Reference | None:
    """Return the reference of an environment, or None if it has no bundled data."""
    return next((found for found in references().values() if found.env == env_id), None)
