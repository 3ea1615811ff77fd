"""What the loop needs of anything that learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
from numpy.typing import NDArray

from rlox.envs.envs import Envs
from rlox.policy.policy import TrainedPolicy


class Counters(NamedTuple):
    """How far a run is."""

    env_steps: int = 0
    gradient_steps: int = 0
    """Actor steps."""
    episodes: int = 0
    """Finished training episodes."""


class Learner(Protocol):
    """What the loop needs of whatever learns."""

    envs: Envs | None
    """Where it acts, if it does."""
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    data_digest: int | None
    """Checksum of the data that it learns from, if there are any."""

    @property
    def forgot(self) -> bool:
        """Whether it was restored without the steps that it had learned from."""
        ...

    @property
    def can_learn_offline(self) -> bool:
        """Whether there are data to learn from."""
        ...

    @property
    def counters(self) -> Counters: ...

    @property
    def policy(self) -> TrainedPolicy:
        """A copy of the policy as it is."""
        ...

    def set_end(self, env_steps: int) -> None:
        """Say at which environment step the run will end: schedules may depend on it."""
        ...

    def advance(self, limit: int, *, offline: bool = False) -> None:
        """Learn from at least one and about ``limit`` steps (environment steps, or offline gradient steps).

        Comes back after about half a second or a round; may overshoot where steps come several at a time.
        """
        ...

    def metrics(self) -> dict[str, float]:
        """Return the last update's metrics and those of the last episodes.

        Raises:
            DivergedError: a loss or a parameter is not finite.
        """
        ...

    def check_finite(self) -> None:
        """Stop if a loss or a parameter is no longer finite.

        Raises:
            DivergedError: it is not.
        """
        ...

    def end_episodes(self) -> None:
        """Cut the episodes where they stand, as truncated; new ones begin at the next step."""
        ...

    def snapshot(self, *, replay: bool = True) -> dict[str, NDArray[Any]]:
        """Return copies of all that training needs to go on, with its replay or without. Nothing is changed."""
        ...

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over a snapshot."""
        ...

    def close(self) -> None:
        """Close the environments that it was given to own."""
        ...
