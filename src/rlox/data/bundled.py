"""Data that ship with the package, made by ``scripts/bundled_data.py``: four environments, four tiers each."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

from rlox.data.dataset import Dataset
from rlox.envs.space_json import restore

_FOLDER = Path(__file__).parent / "bundled"
TIERS = ("random", "medium", "medium-replay", "expert")


class Reference(NamedTuple):
    """An environment of the bundled data, and the returns that its normalised score is measured by."""

    env: str
    """Gymnasium id."""
    random: float
    """Mean return of uniformly random actions: a score of 0."""
    expert: float
    """Mean return of the policy whose samples are the tier ``expert``, at its modes: a score of 100."""
    observation_space: dict[str, Any]
    action_space: dict[str, Any]

    def score(self, mean_reward: float) -> float:
        """Return ``100 (mean_reward - random) / (expert - random)``."""
        return 100 * (mean_reward - self.random) / (self.expert - self.random)


@functools.cache
def references() -> dict[str, Reference]:
    """Return the references of every environment with bundled data, by the first part of the data's names."""
    table = json.loads((_FOLDER / "references.json").read_text())
    return {name: Reference(**entry) for name, entry in table.items()}


def bundled_names() -> list[str]:
    """Return the names of all bundled data, such as ``hopper-medium-replay``."""
    return [f"{name}-{tier}" for name in references() for tier in TIERS]


def is_bundled(name: str | Path) -> bool:
    """Return whether there are bundled data of this name."""
    return str(name) in bundled_names()


def reference(name: str) -> Reference:
    """Return the references of one of ``bundled_names()``."""
    return references()[name.partition("-")[0]]


def reference_of(env_id: str | None) -> Reference | None:
    """Return an environment's references; None where there are no bundled data of it."""
    return next((found for found in references().values() if found.env == env_id), None)


def load_bundled(name: str) -> Dataset:
    """Return the bundled data of one of ``bundled_names()``."""
    made_for = reference(name)
    return Dataset.load(
        _FOLDER / f"{name}.npz",
        observation_space=restore(made_for.observation_space),
        action_space=restore(made_for.action_space),
    )
