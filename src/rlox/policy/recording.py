"""Recorded data: whole episodes of a policy, and the steps that a replay holds."""

from __future__ import annotations

import copy
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.core import replay as replays
from rlox.core.replay import Replay
from rlox.core.transition import Transition
from rlox.data.checks import check_spaces
from rlox.data.dataset import Dataset
from rlox.envs.envs import Envs
from rlox.envs.spaces import ActionCodec, ObsEncoder
from rlox.errors import ConfigError
from rlox.policy.episodes import Taken, steps
from rlox.policy.policy import Predictor, TrainedPolicy
from rlox.runs.progress import track


class KnowsItsOdds(Predictor, Protocol):
    """A policy that can tell the probability of its samples."""

    def log_prob(self, obs: Any, action: NDArray[Any]) -> NDArray[np.float64]:
        """Return the log-probability of sampled actions, ``(B,)``."""
        ...


def record(
    policy: KnowsItsOdds,
    envs: Envs,
    n_steps: int,
    *,
    deterministic: bool = False,
    seed: int = 0,
    name: str = "recorded",
) -> Dataset:
    """Return whole episodes, of ``n_steps`` steps or as many more as the last one needs.

    If that takes over two seconds, a line on a terminal says how far it is.

    Args:
        policy: what acts.
        envs: one environment.
        n_steps: least number of steps.
        deterministic: the policy's modes; otherwise its samples, with their ``action_log_probs``.
        seed: of the first reset, and of our policies' samples.
        name: what errors and summaries call the data.

    Raises:
        ConfigError: several environments at once.
        DatasetError: spaces that data cannot have.
    """
    if envs.n > 1:
        raise ConfigError(f"record needs one environment to act in, but this one steps {envs.n} at once.")
    check_spaces(envs.observation_space, envs.action_space, name)
    acting = policy.seeded(seed) if isinstance(policy, TrainedPolicy) else policy
    rows: list[Taken] = []
    log_probs: list[NDArray[np.float64]] = []
    for taken in track(
        f"Recording {name}", steps(envs, lambda obs: acting.predict(obs, deterministic=deterministic), seed), n_steps
    ):
        if not taken.step.valid.all():
            continue
        rows.append(copy.deepcopy(taken) if envs.is_vector else taken)
        if not deterministic:
            log_probs.append(acting.log_prob(taken.obs, taken.action))
        if len(rows) >= n_steps and taken.step.ended.all():
            break
    columns: dict[str, Any] = {
        "observations": _stack(envs.observation_space, [row.obs for row in rows]),
        "actions": np.concatenate([row.action for row in rows]),
        "rewards": np.concatenate([row.step.reward for row in rows]),
        "terminals": np.concatenate([row.step.terminated for row in rows]),
        "timeouts": np.concatenate([row.step.truncated for row in rows]),
        "next_observations": _stack(envs.observation_space, [row.step.next_obs for row in rows]),
    }
    if log_probs:
        columns["action_log_probs"] = np.concatenate(log_probs).astype(np.float32)
    return Dataset.from_arrays(
        columns, observation_space=envs.observation_space, action_space=envs.action_space, name=name
    )


def replay_dataset(replay: Replay, encoder: ObsEncoder, codec: ActionCodec, name: str) -> Dataset:
    """Return the steps of a replay, stream after stream in order of time.

    Raises:
        SpaceError: the observations are not of a Box, and kept encoded only.
    """
    order, stored = (np.asarray(x) for x in replays.in_order(replay))
    places = np.concatenate([stream[stored[stream]] for stream in order.T])
    kept = Transition(*(np.asarray(column)[places] for column in replays.flatten(replay)))
    columns = {
        "observations": encoder.decode(kept.obs),
        "actions": codec.decode(kept.action),
        "rewards": kept.reward,
        "terminals": kept.terminated,
        "timeouts": kept.truncated,
        "next_observations": encoder.decode(kept.next_obs),
    }
    return Dataset.from_arrays(columns, observation_space=encoder.space, action_space=codec.space, name=name)


def _stack(space: spaces.Space[Any], batches: list[Any]) -> NDArray[Any] | dict[str, Any]:
    """Return batches of a space one after another, each entry of Dict and Tuple spaces on its own."""
    if isinstance(space, spaces.Dict):
        return {key: _stack(part, [batch[key] for batch in batches]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return {str(i): _stack(part, [batch[i] for batch in batches]) for i, part in enumerate(space.spaces)}
    return np.concatenate([np.asarray(batch, space.dtype) for batch in batches])
