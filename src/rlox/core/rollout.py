"""The steps of a round that are not in the replay yet: fixed buffers on the host, and a count."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlox.core.transition import Layout, Transition


class Rollout(NamedTuple):
    """Steps of ``n`` environments in order of time."""

    steps: Transition
    """Each ``(rows, n, ...)``."""
    valid: NDArray[np.bool_]
    """``(rows, n)``: which of them are steps of an environment."""
    filled: int
    """Rows so far."""


def create(rows: int, n: int, layout: Layout) -> Rollout:
    """Return an empty rollout of ``rows`` steps of ``n`` environments."""
    return Rollout(layout.zeros(rows, n), np.zeros((rows, n), bool), 0)


def append(rollout: Rollout, transition: Transition, valid: NDArray[np.bool_]) -> Rollout:
    """Return the rollout with one more row, written into the same buffers."""
    for column, new in zip(rollout.steps, transition, strict=True):
        column[rollout.filled] = new
    rollout.valid[rollout.filled] = valid
    return rollout._replace(filled=rollout.filled + 1)


def cut(rollout: Rollout, streams: NDArray[np.bool_]) -> tuple[Rollout, NDArray[np.bool_]]:
    """Return a rollout whose last step of each of ``streams`` is truncated, unless its episode ended there.

    Also returns which of them have no step in it, ``(n,)``: their last one is in the replay.
    """
    truncated = rollout.steps.truncated.copy()
    inside = np.asarray(rollout.valid.any(axis=0))
    for i in np.flatnonzero(inside & streams):
        last = np.flatnonzero(rollout.valid[:, i])[-1]
        truncated[last, i] |= ~rollout.steps.terminated[last, i]
    return rollout._replace(steps=rollout.steps._replace(truncated=truncated)), streams & ~inside


def trim(rollout: Rollout) -> Rollout:
    """Return a copy of the rows so far."""
    steps = Transition(*(column[: rollout.filled].copy() for column in rollout.steps))
    return Rollout(steps, rollout.valid[: rollout.filled].copy(), rollout.filled)


def refill(rollout: Rollout, rows: Rollout) -> Rollout:
    """Return ``rollout`` beginning with the rows that ``trim`` returned."""
    for column, kept in zip(rollout.steps, rows.steps, strict=True):
        column[: len(kept)] = kept
    rollout.valid[: len(rows.valid)] = rows.valid
    return rollout._replace(filled=len(rows.valid))
