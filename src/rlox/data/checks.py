"""What logged columns must be, checked piece by piece."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.data.columns import PER_STEP, Column, check_memory, group, pieces
from rlox.envs.spaces import action_codec, obs_encoder
from rlox.errors import DatasetError, InvalidStepError


def check_columns(table: Mapping[str, Column], name: str) -> dict[str, Column]:
    """Return the columns, those of one number a step in memory, after all checks that need no space.

    Raises:
        DatasetError: a column of another length than the rewards, not of numbers, or with flags that are none; a
            number a step that is not finite.
    """
    n = (table["rewards"].shape or (0,))[0]
    if n == 0:
        raise DatasetError(f"{name} has no steps: 'rewards' has shape {table['rewards'].shape}.")
    for key, column in table.items():
        shape = column.shape or ()
        if column.dtype.kind not in "fiub":
            raise DatasetError(f"{name}: column '{key}' is of type {column.dtype}: it must hold numbers.")
        if shape[:1] != (n,):
            raise DatasetError(f"{name}: column '{key}' has shape {shape}, but there are {n:,} rewards.")
        if key in PER_STEP and math.prod(shape) != n:
            raise DatasetError(f"{name}: column '{key}' has shape {shape}: it must be ({n},), one for each step.")
    check_memory(sum(n * table[key].dtype.itemsize for key in PER_STEP if key in table), name)
    checked = dict(table)
    for key in PER_STEP:
        if key not in table:
            continue
        column = table[key][:].reshape(n)
        check_finite(column, key, 0, name)
        if key in ("terminals", "timeouts"):
            if not np.isin(column, (0, 1)).all():
                raise DatasetError(f"{name}: column '{key}' must hold 0 and 1 (or False and True) only.")
            column = column.astype(bool)
        checked[key] = column
    return checked


def check_finite(piece: NDArray[Any], key: str, first: int, name: str) -> None:
    """Refuse numbers that are not finite in a piece of a column that begins with row ``first``."""
    if piece.dtype.kind == "f" and not np.isfinite(piece).all():
        row, *entry = np.argwhere(~np.isfinite(piece))[0].tolist()
        raise DatasetError(
            f"{name}: column '{key}' holds {piece[(row, *entry)]} in row {first + row:,}"
            f"{f', entry {entry}' if entry else ''}: every number must be finite. Mend or drop that episode."
        )


def check_observations(table: Mapping[str, Column], column: str, space: spaces.Space[Any], name: str) -> None:
    """Refuse observations that are not finite, or not of the space."""
    parts = group(table, column)
    for rows in pieces(parts.values(), f"Checking {column}"):
        piece = {key: part[rows] for key, part in parts.items()}
        for key, part in piece.items():
            check_finite(part, key, rows.start, name)
        encode(piece, column, space, rows.stop - rows.start, name)


def encode(piece: Mapping[str, Any], column: str, space: spaces.Space[Any], n: int, name: str) -> NDArray[Any]:
    """Return a piece of ``n`` observations in the coding of the replay, ``(n, dim)``."""
    try:
        return obs_encoder(space)(_nest(piece, column, space, name), n)
    except InvalidStepError as error:
        raise DatasetError(f"{name}: in '{column}', {error}") from None


def _nest(piece: Mapping[str, Any], column: str, space: spaces.Space[Any], name: str) -> Any:
    """Return the columns below ``column`` as an observation of the space is nested."""
    if isinstance(space, spaces.Dict):
        return {key: _nest(piece, f"{column}/{key}", part, name) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_nest(piece, f"{column}/{i}", part, name) for i, part in enumerate(space.spaces))
    if column not in piece:
        raise DatasetError(
            f"{name} has no column '{column}' as the observation space has it, but {', '.join(map(repr, piece))}."
        )
    return piece[column]


class ActionRange(NamedTuple):
    """What the actions of a column lie between, component by component."""

    low: NDArray[Any]
    high: NDArray[Any]
    whole: bool
    """Every action is a whole number."""


def action_range(actions: Column, name: str) -> ActionRange:
    """Return the range of the actions, all of which must be finite."""
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
    """Return a Box without bounds, or a Dict of such where there are columns below ``column``."""
    if column in table:
        observations = table[column]
        dtype: Any = np.uint8 if observations.dtype == np.uint8 else np.float32
        low, high = (0, 255) if dtype is np.uint8 else (-np.inf, np.inf)
        return spaces.Box(low, high, observations.shape[1:], dtype)
    below = dict.fromkeys(key.removeprefix(f"{column}/").partition("/")[0] for key in group(table, column))
    return spaces.Dict({key: infer_observation_space(table, f"{column}/{key}") for key in below})


def infer_action_space(actions: Column, limits: ActionRange) -> spaces.Space[Any]:
    """Return ``Discrete`` up to the largest whole number, or a Box of -1 to 1, or wider where the data are."""
    shape = actions.shape[1:]
    if actions.dtype.kind == "f":
        low, high = np.minimum(limits.low, -1), np.maximum(limits.high, 1)
        return spaces.Box(low.reshape(shape).astype(np.float32), high.reshape(shape).astype(np.float32))
    if len(limits.high) == 1:
        return spaces.Discrete(int(limits.high[0]) + 1)
    return spaces.MultiDiscrete(limits.high.astype(np.int64) + 1)


def check_log_probs(table: Mapping[str, Column], space: spaces.Space[Any], name: str) -> None:
    """Refuse log-probabilities of choices above 0: those are probabilities."""
    if "action_log_probs" in table and not isinstance(space, spaces.Box):
        largest = table["action_log_probs"][:].max()
        if largest > 1e-5:
            raise DatasetError(
                f"{name}: column 'action_log_probs' holds {largest:g}, but the logarithm of a choice's probability is "
                "at most 0: take the logarithm."
            )


def check_actions(actions: Column, limits: ActionRange, space: spaces.Space[Any], name: str) -> None:
    """Refuse actions of another shape than the space's, or outside it."""
    shape = space.shape or ()
    if len(limits.low) != max(math.prod(shape), 1):
        raise DatasetError(f"{name}: an action has shape {actions.shape[1:]}, but the space {space} has {shape}.")
    if isinstance(space, spaces.Box):
        low, high = space.low.ravel(), space.high.ravel()
        # Logs in another precision than the space's may be off by a rounding.
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
                "pass the action_space that the data were logged in."
            )
