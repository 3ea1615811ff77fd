"""Steps of an environment, as a value. This module never imports JAX."""

from __future__ import annotations

from typing import Any, NamedTuple

AT_BOUND = 1e-6
"""How near to a bound an action counts as clipped to it, in units of half the range."""


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
