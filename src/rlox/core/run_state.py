"""The state of a run as a value, and as the arrays of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from rlox.core import replay as replays
from rlox.core import rollout as rollouts
from rlox.core.networks import Actor
from rlox.core.normalizer import Normalizer
from rlox.core.pack import pack, unpack
from rlox.core.replay import Replay
from rlox.core.rollout import Rollout
from rlox.core.state import TrainState
from rlox.core.streams import Streams
from rlox.errors import CheckpointError


class RunState(NamedTuple):
    """The state of a run. A checkpoint is this value."""

    train: TrainState
    replay: Replay | None
    """None until the first step of an environment, or the first logged one of a round."""
    rollout: Rollout | None
    """In rounds, the steps since the last one."""
    action: Array | None
    """The next actions ``(n, action_dim)``, if the last update has chosen them already."""
    behavior: tuple[Actor, Normalizer | None] | None
    """With ``overlap`` what acts, one round old, in NumPy's arrays; None before the first round."""
    env_steps: int
    forgotten: int
    """Environment steps of which the replay knows nothing, since it was left out of the checkpoint."""
    episodes: int
    pretrained: bool
    """Whether it has learned offline."""
    recent: NDArray[np.float64]
    """Return and length of the last finished training episodes, ``(k, 2)``."""
    streams: Streams | None
    """Where the environments were at a snapshot; None without any."""
    pending: int = 0
    """With collectors, steps of the replay for which no update or round was made yet, times ``updates_per_step``."""
    offline_at: int = 0
    """Environment steps when it last learned offline."""


def to_arrays(state: RunState, *, replay: bool = True) -> dict[str, NDArray[Any]]:
    """Return copies of all arrays by their path; of replay and rollout, the rows in use, or not the replay at all."""
    rows = 0
    if not replay:
        state = state._replace(replay=None, forgotten=state.env_steps, pending=0)
    if state.replay is not None:
        rows = len(state.replay.columns.reward)
        state = state._replace(replay=replays.trim(state.replay))
    if state.rollout is not None:
        state = state._replace(rollout=rollouts.trim(state.rollout))
    return {**pack(state), "replay_rows": np.array(rows)}


def from_arrays(fresh: RunState, arrays: Mapping[str, NDArray[Any]]) -> RunState:
    """Return the state that ``to_arrays`` took apart.

    Args:
        fresh: a state of the same configuration that has every part that a run can have: a replay of any length, an
            empty rollout if it learns in rounds, a next action, and streams.
        arrays: of the checkpoint. Parts that it lacks are None.

    Raises:
        CheckpointError: they are those of another configuration.
    """
    kept = {**dict.fromkeys(("forgotten", "pending", "offline_at"), np.array(0)), **arrays}
    counted = kept.pop("replay_rows", np.array(0))
    if counted.shape or counted.dtype.kind not in "iu":
        raise CheckpointError("'replay_rows' in the checkpoint is no whole number: it is damaged, or was made up.")
    rows = int(counted)
    rollout = fresh.rollout
    assert fresh.replay is not None
    template = fresh._replace(
        replay=replays.trim(fresh.replay) if rows else None,
        rollout=rollouts.trim(rollout) if rollout and "rollout.filled" in kept else None,
        action=fresh.action if "action" in kept else None,
        behavior=fresh.behavior if any(name.startswith("behavior") for name in kept) else None,
        recent=np.zeros((0, 2)),
        streams=fresh.streams if "streams.episode" in kept else None,
    )
    state = unpack(template, kept)
    _check(state, rows, len(rollout.valid) if rollout else 0)
    if state.replay is not None:
        state = state._replace(replay=replays.refill(rows, state.replay))
    if rollout and state.rollout:
        rollout = rollouts.refill(rollout, state.rollout)
    return state._replace(rollout=rollout)


def _check(state: RunState, rows: int, rollout_rows: int) -> None:
    """Refuse counts and places that the arrays do not have room for.

    Raises:
        CheckpointError: they do not fit.
    """
    fits = [rows < 2**31, min(state.env_steps, state.forgotten, state.episodes, state.pending, state.offline_at) >= 0]
    if state.replay is not None:
        filled, size, position = len(state.replay.columns.reward), state.replay.size, state.replay.position
        fits += [
            filled <= rows,
            all(len(column) == filled for column in state.replay.columns),
            (size >= 0).all(),
            (size <= filled).all(),
            (position >= 0).all(),
            (position < rows).all(),
        ]
    if state.rollout is not None:
        kept = len(state.rollout.valid)
        fits += [state.rollout.filled == kept <= rollout_rows, all(len(x) == kept for x in state.rollout.steps)]
    if state.streams is not None:
        episode, lengths, kept = state.streams.episode, state.streams.lengths, state.streams.kept
        fits += [np.min([episode, lengths, kept]) >= 0, kept.sum() == len(state.streams.actions)]
    if not all(fits):
        raise CheckpointError("The checkpoint counts more steps than it holds: it is damaged, or was made up.")
