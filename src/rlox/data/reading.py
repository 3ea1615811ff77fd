"""How logged data are read: what their columns are called, and which actions there are. A value, and flags."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from rlox.errors import DatasetError

if TYPE_CHECKING:
    from gymnasium import spaces

    from rlox.data.columns import ColumnNames

_BOUNDS = ("action_low", "action_high")
ACTIONS = (*_BOUNDS, "n_actions")
SEVERAL = ("observations", "actions", "next_observations")
"""What may be of several columns."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """Names of columns, and bounds or number of the actions; all None for data that say it themselves."""

    observations: tuple[str, ...] | None = None
    """Columns of the data that are the observations, where they are not called that."""
    actions: tuple[str, ...] | None = None
    """Columns that are the actions."""
    rewards: str | None = None
    """Column of the rewards."""
    terminals: str | None = None
    """Column that marks the ends of episodes in a terminal state."""
    timeouts: str | None = None
    """Column that marks the ends of episodes that were cut."""
    episode: str | None = None
    """Column with an id of the episode, in place of such marks."""
    next_observations: tuple[str, ...] | None = None
    """Columns that are the next observations."""
    action_log_probs: str | None = None
    """Column of the actions' log-probabilities."""
    action_low: tuple[float, ...] | None = None
    """Lowest action: a number, or one for each component; without an environment, which knows it."""
    action_high: tuple[float, ...] | None = None
    """Highest action."""
    n_actions: int | None = None
    """Number of choices, where actions are choices."""

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            alone = (isinstance(value, str) and name in SEVERAL) or (isinstance(value, int | float) and name in _BOUNDS)
            several = [value] if alone else value
            value = (tuple(several) or None) if isinstance(several, list | tuple) else value
            object.__setattr__(self, name, value)
            names = value if isinstance(value, tuple) and name in SEVERAL else (value,)
            if name not in ACTIONS and value is not None and not all(isinstance(column, str) for column in names):
                wanted = "the name of a column" + (", or a list of names" if name in SEVERAL else "")
                raise DatasetError(f"{name}={value!r} must be {wanted}.")
        if (self.action_low is None) != (self.action_high is None):
            raise DatasetError("action_low and action_high are given together, such as -1 and 1.")
        if self.action_low is not None and self.n_actions is not None:
            raise DatasetError("action_low is for continuous actions, n_actions for choices: leave one of them out.")
        if self.n_actions is not None and not (type(self.n_actions) is int and 1 <= self.n_actions <= 100_000):
            raise DatasetError(f"n_actions={self.n_actions!r} must be a whole number from 1 to 100,000.")
        if self.action_low is not None and self.action_high is not None:
            try:
                low, high = np.array(self.action_low, float), np.array(self.action_high, float)
            except (TypeError, ValueError):
                low = high = np.array([np.nan])
            if len({1, low.size, high.size}) > 2 or not (np.isfinite([*low, *high]).all() and (low < high).all()):
                raise DatasetError(
                    f"action_low={_shown(self.action_low)} and action_high={_shown(self.action_high)} must be finite, "
                    "one number or one for each component, the first below the second."
                )

    @property
    def columns(self) -> ColumnNames:
        """Names of columns, as ``Dataset.load`` takes them."""
        named = {name: value for name, value in self.given().items() if name not in ACTIONS}
        # One column alone is not a list of one, whose rows would be lists.
        return {name: x[0] if isinstance(x, tuple) and len(x) == 1 else x for name, x in named.items()}

    def given(self) -> dict[str, Any]:
        """Return what is not None, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def action_space(self, shape: tuple[int, ...], name: str) -> spaces.Space[Any] | None:
        """Return the space of actions of a shape, if this says which; ``name`` is what an error calls the data.

        Raises:
            DatasetError: as many bounds as the actions have no components.
        """
        from gymnasium import spaces

        if self.n_actions is not None:
            if shape not in ((), (1,)):
                raise DatasetError(f"{name}: n_actions is for one choice a step, but an action has shape {shape}.")
            return spaces.Discrete(self.n_actions)
        if self.action_low is None or self.action_high is None:
            return None
        try:
            low, high = (
                np.broadcast_to(np.array(bound, np.float32).reshape(-1 if len(bound) == 1 else shape), shape or (1,))
                for bound in (self.action_low, self.action_high)
            )
        except ValueError:
            raise DatasetError(
                f"{name}: action_low={_shown(self.action_low)} and action_high={_shown(self.action_high)} do not fit "
                f"actions of shape {shape}: give one number, or one for each component."
            ) from None
        return spaces.Box(low.reshape(shape), high.reshape(shape), dtype=np.float32)


AS_IT_IS = Reading()
"""Data that say it all themselves."""


def _shown(bound: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" if isinstance(value, int | float) else repr(value) for value in bound)
