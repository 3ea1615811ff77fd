"""Logged columns as the replay stores them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.core.transition import Layout, Transition
from rlox.data.columns import Column, check_memory, group, pieces
from rlox.envs.spaces import action_codec, obs_encoder
from rlox.errors import DatasetError, InvalidStepError


def transitions(
    table: Mapping[str, Column], observation_space: spaces.Space[Any], action_space: spaces.Space[Any], name: str
) -> Transition:
    """Return the steps, each column ``(N, ...)``; see ``Dataset.transitions``.

    Raises:
        DatasetError: they do not fit in memory, together with the replay that is made of them.
    """
    n, encoder, codec = len(table["rewards"]), obs_encoder(observation_space), action_codec(action_space)
    terminated, truncated, rewards = table["terminals"][:], table["timeouts"][:], table["rewards"][:]
    follows = not group(table, "next_observations")
    known = ~truncated if follows else np.ones(n, bool)
    if follows:
        truncated = truncated.copy()
        truncated[:-1] |= ~known[1:] & ~terminated[:-1]
    kept = int(known.sum())
    obs_bytes = encoder.dim * encoder.dtype.itemsize
    step_bytes = Layout(encoder.dim, encoder.dtype, codec.dim, codec.dtype).n_bytes
    # These arrays, the replay's, and one column that is being brought into the replay's shape.
    check_memory(kept * (2 * step_bytes + obs_bytes), name)
    obs, next_obs = (np.empty((kept, encoder.dim), encoder.dtype) for _ in range(2))
    action = np.empty((kept, codec.dim), codec.dtype)
    at = 0
    for rows in pieces(table.values(), "Encoding steps"):
        # One row more, since the observation after the last row of a piece is in the next piece.
        one_more = slice(rows.start, min(rows.stop + follows, n))
        read = _encode_rows(table, "observations", one_more, observation_space, name)
        here = read[: rows.stop - rows.start]
        if follows:
            there = np.concatenate([read[1:], read[-1:]])[: len(here)]
            there[terminated[rows]] = here[terminated[rows]]
        else:
            there = _encode_rows(table, "next_observations", rows, observation_space, name)
        keep = known[rows]
        to = slice(at, at := at + int(keep.sum()))
        obs[to], next_obs[to] = here[keep], there[keep]
        action[to] = codec.encode(table["actions"][rows])[keep]
    return Transition(obs, action, rewards[known].astype(np.float32), next_obs, terminated[known], truncated[known])


def encoded(
    table: Mapping[str, Column], observation_space: spaces.Space[Any], action_space: spaces.Space[Any], name: str
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield observations and actions in pieces of rows."""
    codec = action_codec(action_space)
    for rows in pieces(table.values(), "Encoding steps"):
        yield _encode_rows(table, "observations", rows, observation_space, name), codec.encode(table["actions"][rows])


def _encode_rows(
    table: Mapping[str, Column], column: str, rows: slice, space: spaces.Space[Any], name: str
) -> NDArray[Any]:
    piece = {key: part[rows] for key, part in group(table, column).items()}
    return encode(piece, column, space, rows.stop - rows.start, name)


def encode(piece: Mapping[str, Any], column: str, space: spaces.Space[Any], n: int, name: str) -> NDArray[Any]:
    """Return ``n`` observations as the replay encodes them, ``(n, dim)``."""
    try:
        return obs_encoder(space)(nested(piece, column, space, name), n)
    except InvalidStepError as error:
        raise DatasetError(f"{name}: in '{column}', {error}") from None


def nested(piece: Mapping[str, Any], column: str, space: spaces.Space[Any], name: str) -> Any:
    """Return the columns below ``column``, nested as the space is."""
    if isinstance(space, spaces.Dict):
        return {key: nested(piece, f"{column}/{key}", part, name) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(nested(piece, f"{column}/{i}", part, name) for i, part in enumerate(space.spaces))
    if column not in piece:
        raise DatasetError(
            f"{name} has no column '{column}', which the observation space needs, but {', '.join(map(repr, piece))}."
        )
    found, shape = piece[column], space.shape or ()
    # One number a step: a column of numbers, or of rows of one.
    return found.reshape(len(found), *shape) if math.prod(shape) == 1 and found.size == len(found) else found
