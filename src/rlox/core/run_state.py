"""The state of a run as a value, and as the arrays of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from rlox.core import replay as replays
from rlox.core import rollout as rollouts
from rlox.core.pack import pack, unpack
from rlox.core.replay import Replay
from rlox.core.rollout import Rollout
from rlox.core.state import TrainState


class RunState(NamedTuple):
    """The state of a run. A checkpoint is this value."""

    train: TrainState
    replay: Replay | None
    """None until the first step of an environment, or the first logged one of a round."""
    rollout: Rollout | None
    """In rounds, the steps since the last one."""
    action: Array | None
    """The next actions ``(n, action_dim)``, if the last update has chosen them already."""
    env_steps: int
    episodes: int
    pretrained: bool
    """Whether it has learned offline."""
    recent: NDArray[np.float64]
    """Return and length of the last finished training episodes, ``(k, 2)``."""


def to_arrays(state: RunState) -> dict[str, NDArray[Any]]:
    """Return copies of all arrays by their path; of replay and rollout, the rows in use."""
    rows = 0
    if state.replay is not None:
        rows = len(state.replay.columns.reward)
        state = state._replace(replay=replays.trim(state.replay))
    if state.rollout is not None:
        state = state._replace(rollout=rollouts.trim(state.rollout))
    return {**pack(state), "replay_rows": np.array(rows)}


def from_arrays(fresh: RunState, arrays: Mapping[str, NDArray[Any]]) -> RunState:
    """Return the state that ``to_arrays`` took apart, without its next action.

    Args:
        fresh: a state of the same configuration, with a replay of any length and an empty rollout if it has one.
        arrays: of the checkpoint.

    Raises:
        CheckpointError: they are those of another configuration.
    """
    kept = {name: array for name, array in arrays.items() if name not in ("action", "replay_rows")}
    rows, rollout = int(arrays["replay_rows"]), fresh.rollout
    assert fresh.replay is not None
    template = fresh._replace(
        replay=replays.trim(fresh.replay) if rows else None,
        rollout=rollouts.trim(rollout) if rollout and "rollout.filled" in kept else None,
        recent=np.zeros((0, 2)),
    )
    state = unpack(template, kept)
    if state.replay is not None:
        state = state._replace(replay=replays.refill(rows, state.replay))
    if rollout and state.rollout:
        rollout = rollouts.refill(rollout, state.rollout)
    return state._replace(rollout=rollout)
