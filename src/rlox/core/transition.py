"""Steps of an environment, as a value. This module never imports JAX."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

AT_BOUND = 1e-6
"""How near to a bound an action counts as clipped to it, in units of half the range."""
LARGE_OBS = 1e4
"""Larger observations are hard to learn from without a normaliser."""
_PIECE = 65_536
"""Steps that are compared at once."""


class Transition(NamedTuple):
    """Steps of an environment; any leading axes, the same in every field.

    ``next_obs`` is the observation that the action led to, also where the episode ended there.
    """

    obs: Any
    """``(..., obs_dim)``."""
    action: Any
    """``(..., action_dim)``: whole numbers (choices), or floats in units of half the action range."""
    reward: Any
    """``(...)``."""
    next_obs: Any
    """``(..., obs_dim)``."""
    terminated: Any
    """``(...)`` bool: the episode ended in a terminal state; its value is not bootstrapped."""
    truncated: Any
    """``(...)`` bool: the episode was cut from outside; its value is bootstrapped."""


class Layout(NamedTuple):
    """What the columns of steps are made of."""

    obs_dim: int
    obs_dtype: np.dtype[Any]
    action_dim: int
    action_dtype: np.dtype[Any]

    @property
    def n_bytes(self) -> int:
        """Of one step."""
        return 2 * self.obs_dim * self.obs_dtype.itemsize + self.action_dim * self.action_dtype.itemsize + 4 + 1 + 1

    def zeros(self, *lead: int, of: Any = np) -> Transition:
        """Return steps ``(*lead, ...)`` that are all 0, as arrays of NumPy or of another module that has ``zeros``."""
        return Transition(
            obs=of.zeros((*lead, self.obs_dim), self.obs_dtype),
            action=of.zeros((*lead, self.action_dim), self.action_dtype),
            reward=of.zeros(lead, np.float32),
            next_obs=of.zeros((*lead, self.obs_dim), self.obs_dtype),
            terminated=of.zeros(lead, bool),
            truncated=of.zeros(lead, bool),
        )


def cut_at_gaps(steps: Transition) -> Transition:
    """Return logged steps ``(N, ...)`` that are truncated also where one does not lead to the next one's observation.

    There, steps are missing between them, or the log does not say that an episode was cut. What differs by rounding
    is the same.
    """
    truncated = np.array(steps.truncated, bool)
    for at in range(0, len(truncated) - 1, _PIECE):
        led_to, began = steps.next_obs[at : at + _PIECE], steps.obs[at + 1 : at + 1 + _PIECE]
        led_to = led_to[: len(began)]
        same = led_to == began if began.dtype.kind in "ub" else np.isclose(led_to, began, rtol=1e-4, atol=1e-5)
        truncated[at : at + len(began)] |= ~same.all(axis=1)
    return steps._replace(truncated=truncated & ~np.asarray(steps.terminated, bool))
