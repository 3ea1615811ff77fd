"""Checks of logged columns, piece by piece, and the spaces inferred from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.data.columns import PER_STEP, Column, check_memory, group, pieces, row_bytes
from rlox.data.encoding import encode
from rlox.envs.space_json import MOST_ENTRIES
from rlox.envs.spaces import action_codec, obs_encoder
from rlox.errors import DatasetError, SpaceError

_LARGEST = float(np.finfo(np.float32).max)
_MOST_CHOICES = 100_000
"""Whole numbers above this are taken for something else than choices."""


def check_columns(table: Mapping[str, Column], name: str) -> dict[str, Column]:
    """Return the columns after the checks that need no space, those of one number per step in memory.

    Raises:
        DatasetError: a column of another length than the rewards, or without values; flags other than 0 or 1; a
            number per step that is not finite.
    """
    n = (table["rewards"].shape or (0,))[0]
    if n == 0:
        raise DatasetError(f"{name} has no steps: there is no row in its columns, and it takes at least one.")
    for key, column in table.items():
        shape = column.shape or ()
        if shape[:1] != (n,):
            raise DatasetError(f"{name}: column '{key}' has shape {shape}, but there are {n:,} rewards.")
        if math.prod(shape) == 0:
            raise DatasetError(f"{name}: column '{key}' has shape {shape}: its rows are empty.")
        if math.prod(shape[1:]) > MOST_ENTRIES:
            raise DatasetError(
                f"{name}: column '{key}' has shape {shape}, but a row has at most {MOST_ENTRIES:,} numbers: make it "
                "smaller."
            )
        if key in PER_STEP and math.prod(shape) != n:
            raise DatasetError(f"{name}: column '{key}' has shape {shape}: it must be ({n},), one number per step.")
    # A row of a space takes its bounds, and flags of what is bounded.
    spaces_bytes = 4 * row_bytes(table.values())
    check_memory(spaces_bytes + sum(n * table[key].dtype.itemsize for key in PER_STEP if key in table), name)
    return {key: _per_step(column, key, name) if key in PER_STEP else column for key, column in table.items()}


def _per_step(column: Column, key: str, name: str) -> NDArray[Any]:
    values = column[:].reshape(-1)
    if key == "episode":
        return values
    if key in ("terminals", "timeouts"):
        if not np.isin(values, (0, 1)).all():
            raise DatasetError(f"{name}: column '{key}' must hold 0 and 1 (or False and True) only.")
        return values.astype(bool)
    check_finite(values, key, 0, name)
    # Rewards are learned from as float32.
    largest = float(values[np.abs(values.astype(np.float64)).argmax()])
    if key == "rewards" and abs(largest) > _LARGEST:
        raise DatasetError(f"{name}: column 'rewards' holds {largest:g}, which is too large: scale the rewards down.")
    return values


def mark_ends(table: dict[str, Any], name: str) -> bool:
    """Make ``timeouts`` exclude ``terminals`` and include the last row; return whether the last episode was not over.

    Raises:
        DatasetError: no episode ends, or no step can be used.
    """
    terminated = table["terminals"]
    truncated = table.get("timeouts", np.zeros(len(terminated), bool)) & ~terminated
    if not (terminated.any() or truncated.any()):
        raise DatasetError(
            f"{name}: no episode ends in {len(terminated):,} steps: mark the ends in 'terminals' (the state is "
            "terminal) or 'timeouts' (the episode was truncated), name a column with an id of the episode, or take "
            "more rows."
        )
    unfinished = not (terminated[-1] or truncated[-1])
    truncated[-1] |= unfinished
    table["timeouts"] = truncated
    check_usable(table, name)
    return bool(unfinished)


def check_usable(table: Mapping[str, Column], name: str) -> None:
    """Refuse steps of which none says where it led.

    Raises:
        DatasetError: all are truncated, and there are no ``next_observations``.
    """
    if table["timeouts"][:].all() and not group(table, "next_observations"):
        raise DatasetError(f"{name}: every step is truncated, and without 'next_observations' none can be used.")


def check_finite(piece: NDArray[Any], key: str, first: int, name: str) -> None:
    """Refuse numbers that are not finite in a piece of a column that begins with row ``first``."""
    if piece.dtype.kind == "f" and not np.isfinite(piece).all():
        row, *entry = np.argwhere(~np.isfinite(piece))[0].tolist()
        raise DatasetError(
            f"{name}: column '{key}' holds {piece[(row, *entry)]} in row {first + row:,}"
            f"{f', entry {entry}' if entry else ''}: every number must be finite. Correct or drop that episode."
        )


def check_observations(table: Mapping[str, Column], column: str, space: spaces.Space[Any], name: str) -> None:
    """Refuse observations that are not finite, or not of the space."""
    parts = group(table, column)
    encoded = obs_encoder(space).dim * np.dtype(np.float32).itemsize
    for rows in pieces(parts.values(), f"Checking {column}", encoded=encoded):
        piece = {key: part[rows] for key, part in parts.items()}
        for key, part in piece.items():
            check_finite(part, key, rows.start, name)
        encode(piece, column, space, rows.stop - rows.start, name)


class ActionRange(NamedTuple):
    """The range of the actions of a column, component by component."""

    low: NDArray[Any]
    high: NDArray[Any]
    whole: bool
    """Every action is a whole number."""


def action_range(actions: Column, name: str) -> ActionRange:
    """Return the range of the actions.

    Raises:
        DatasetError: an action is not finite.
    """
    found: ActionRange | None = None
    for rows in pieces([actions], "Checking actions"):
        piece = actions[rows]
        check_finite(piece, "actions", rows.start, name)
        flat = piece.reshape(len(piece), -1)
        low, high = flat.min(axis=0), flat.max(axis=0)
        whole = piece.dtype.kind != "f" or bool((flat == np.rint(flat)).all())
        found = ActionRange(
            np.minimum(low, found.low) if found else low,
            np.maximum(high, found.high) if found else high,
            whole and (not found or found.whole),
        )
    assert found is not None
    return found


def infer_observation_space(table: Mapping[str, Column], column: str = "observations") -> spaces.Space[Any]:
    """Return a Box without bounds (of bytes, with theirs), or a Dict of such if there are columns below ``column``."""
    if column in table:
        observations = table[column]
        dtype: Any = np.uint8 if observations.dtype == np.uint8 else np.float32
        low, high = (0, 255) if dtype is np.uint8 else (-np.inf, np.inf)
        return spaces.Box(low, high, observations.shape[1:], dtype)
    below = dict.fromkeys(key.removeprefix(f"{column}/").partition("/")[0] for key in group(table, column))
    return spaces.Dict({key: infer_observation_space(table, f"{column}/{key}") for key in below})


def infer_action_space(
    actions: Column, limits: ActionRange, name: str, *, any_number: bool = False
) -> spaces.Space[Any]:
    """Return ``Discrete`` up to the largest whole number, or a Box from -1 to 1 (wider if the data are).

    With ``any_number``, whole numbers that cannot be choices counted from 0 are in a Box too.

    Raises:
        DatasetError: the actions are too large for either.
    """
    shape, largest = actions.shape[1:], max(float(limits.high.max()), -float(limits.low.min()))
    if actions.dtype.kind == "f" or (any_number and (limits.low.min() < 0 or limits.high.max() >= _MOST_CHOICES)):
        if largest > _LARGEST:
            raise DatasetError(f"{name}: column 'actions' holds {largest:g}, which is too large for an action.")
        low, high = np.minimum(limits.low, -1), np.maximum(limits.high, 1)
        return spaces.Box(low.reshape(shape).astype(np.float32), high.reshape(shape).astype(np.float32))
    if limits.high.max() >= _MOST_CHOICES:
        raise DatasetError(
            f"{name}: column 'actions' holds {limits.high.max():,}, which is too large for a choice: give continuous "
            "actions as floats."
        )
    # A negative choice is refused by check_actions.
    choices = np.maximum(limits.high.astype(np.int64), 0) + 1
    return spaces.Discrete(int(choices[0])) if len(choices) == 1 else spaces.MultiDiscrete(choices.reshape(shape))


FILLED = 0.9
"""Share of a guessed range of actions, on both sides of 0, that data reach which confirm it."""


def doubt(actions: Column, limits: ActionRange, space: spaces.Space[Any]) -> str:
    """Return what may be wrong with an inferred action space, and the way out; nothing if the data confirm it."""
    if isinstance(space, spaces.Discrete):
        return _doubt_choices(actions, int(space.n))
    if not isinstance(space, spaces.Box):
        return ""
    low, high = float(limits.low.min()), float(limits.high.max())
    if low == high:  # The summary says that they are constant.
        return ""
    if limits.whole and low >= 0 and high >= 1:
        n = f"{high + 1:.0f}"
        return (
            f"The actions are floats, all of them whole numbers from {low:g} to {high:g}, and are learned as "
            f"continuous ones: if they are choices, say action_space=gymnasium.spaces.Discrete({n}) (--n-actions {n}); "
            "if not, say their bounds (--action-low, --action-high)."
        )
    inside = (limits.low >= -1).all() and (limits.high <= 1).all()
    if inside and (limits.low <= -FILLED).all() and (limits.high >= FILLED).all():
        return ""
    bounds = f"from {space.low.min():g} to {space.high.max():g}"
    return (
        f"The bounds of the actions had to be guessed, {bounds}, and the data lie from {low:g} to {high:g}: the policy "
        "measures its noise in these bounds, and cannot leave them. Say the true ones: action_space=gymnasium.spaces."
        f"Box(low, high, {actions.shape[1:]}) (--action-low, --action-high), or name the environment."
    )


def _doubt_choices(actions: Column, n: int) -> str:
    """Return what may be wrong with whole numbers that are taken for ``n`` choices."""
    taken = np.zeros(n, bool)
    for rows in pieces([actions], "Checking actions"):
        piece = actions[rows].ravel().astype(np.int64)
        taken[piece[piece >= 0]] = True
    # The largest one occurs. Choices are counted from 0, and seldom half of them are left out.
    if taken[0] and 2 * taken.sum() > n:
        return ""
    return (
        f"The actions are whole numbers, and taken for {n:,} choices, of which {taken.sum():,} occur in the data (the "
        f"lowest is {int(taken.argmax())}): if they are amounts, say their bounds (--action-low, --action-high); if "
        f"they are choices, count them from 0, or say action_space=gymnasium.spaces.Discrete({n}) (--n-actions {n})."
    )


def check_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any], name: str) -> None:
    """Refuse spaces that rlox does not encode."""
    try:
        obs_encoder(observation_space)
        action_codec(action_space)
    except SpaceError as error:
        raise DatasetError(f"{name}: {error}") from None


def check_log_probs(table: Mapping[str, Column], space: spaces.Space[Any], name: str) -> None:
    """Refuse log-probabilities of choices above 0: they are probabilities."""
    if "action_log_probs" in table and not isinstance(space, spaces.Box):
        largest = table["action_log_probs"][:].max()
        if largest > 1e-5:
            raise DatasetError(
                f"{name}: column 'action_log_probs' holds {largest:g}, but the logarithm of a choice's probability is "
                "at most 0: take the logarithm."
            )


def check_actions(actions: Column, limits: ActionRange, space: spaces.Space[Any], name: str) -> None:
    """Refuse actions that have not the space's shape, or are outside it."""
    way_out = "pass the action_space of the environment that was logged"
    if isinstance(space, spaces.Discrete) and (limits.low < space.start).any():
        way_out = "count choices from 0, or say the bounds of amounts (action_space=, --action-low, --action-high)"
    shape = space.shape or ()
    if len(limits.low) != max(math.prod(shape), 1):
        raise DatasetError(f"{name}: an action has shape {actions.shape[1:]}, but the space {space} has {shape}.")
    if isinstance(space, spaces.Box):
        low, high = space.low.ravel(), space.high.ravel()
        # Logs in another precision than the space's may be off by a rounding error.
        slack = 1e-5 * np.maximum(np.abs(low), np.abs(high))
        low, high = low - slack, high + slack
    else:
        if not limits.whole:
            raise DatasetError(f"{name}: the actions of {space} must be whole numbers, but they are {actions.dtype}.")
        low = np.ravel(getattr(space, "start", 0))
        high = low + np.asarray(action_codec(space).nvec) - 1
    if (limits.low >= low).all() and (limits.high <= high).all():
        return
    for rows in pieces([actions], "Checking actions"):
        piece = actions[rows]
        flat = piece.reshape(len(piece), -1)
        outside = ((flat < low) | (flat > high)).any(axis=1)
        if outside.any():
            row = int(outside.argmax())
            raise DatasetError(
                f"{name}: the action in row {rows.start + row:,} is {piece[row].tolist()}, which is outside {space}: "
                f"{way_out}."
            )
