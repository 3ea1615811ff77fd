"""Data of one's own: whole episodes of anything that acts."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.core import replay as replays
from rlox.core.replay import Replay
from rlox.core.state import Transition
from rlox.data.columns import track
from rlox.data.dataset import Dataset
from rlox.envs.spaces import action_codec
from rlox.errors import DatasetError

Act = Callable[[Any], tuple[Any, float | None]]
"""From an observation to an action that the environment accepts, and its log-probability where it is known."""


def record(env: gym.Env[Any, Any], act: Act, n_steps: int, seed: int, *, name: str = "recorded") -> Dataset:
    """Return whole episodes, of ``n_steps`` steps or as many more as the last one needs.

    Where that lasts over two seconds, a line on a terminal says how far it is.

    Args:
        env: where to act.
        act: chooses the actions; their log-probabilities are the column ``action_log_probs`` where it gives any.
        n_steps: least number of steps.
        seed: of the first reset.
        name: what errors and summaries call the data.
    """
    counted = track(f"Recording {name}", (slice(i, i + 1) for i in itertools.count()), n_steps)
    rows = [step for _, step in zip(counted, _steps(env, act, n_steps, seed), strict=False)]
    counted.close()
    obs, action, log_prob, reward, terminated, truncated, next_obs = zip(*rows, strict=True)
    columns: dict[str, Any] = {
        "observations": stack(env.observation_space, obs),
        "actions": stack(env.action_space, action),
        "rewards": np.array(reward, np.float32),
        "terminals": np.array(terminated, bool),
        "timeouts": np.array(truncated, bool),
        "next_observations": stack(env.observation_space, next_obs),
    }
    if None not in log_prob:
        columns["action_log_probs"] = np.array(log_prob, np.float32)
    return Dataset.from_arrays(
        columns, observation_space=env.observation_space, action_space=env.action_space, name=name
    )


def _steps(env: gym.Env[Any, Any], act: Act, n_steps: int, seed: int) -> Iterator[tuple[Any, ...]]:
    # Copies: simulators write their next observation into the same array.
    obs = copy.deepcopy(env.reset(seed=seed)[0])
    taken, ended = 0, True
    while taken < n_steps or not ended:
        action, log_prob = act(obs)
        led_to, reward, terminated, truncated, _ = env.step(action)
        next_obs = copy.deepcopy(led_to)
        yield obs, action, log_prob, reward, terminated, truncated, next_obs
        ended, taken = terminated or truncated, taken + 1
        obs = copy.deepcopy(env.reset()[0]) if ended else next_obs


def random_agent(env: gym.Env[Any, Any], seed: int) -> Act:
    """Return what takes uniformly random actions."""
    space = env.action_space
    space.seed(seed)
    codec = action_codec(space)
    if isinstance(space, spaces.Box):
        log_prob = -float(np.log(space.high.astype(np.float64) - space.low).sum())
    else:
        log_prob = -float(np.log(codec.nvec).sum())
    return lambda _: (space.sample(), log_prob)


def replay_dataset(
    replay: Replay, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], name: str
) -> Dataset:
    """Return the steps of a replay, stream after stream in order of time.

    Raises:
        DatasetError: the observations are encoded in the replay, so that theirs are no longer known.
    """
    if not isinstance(observation_space, spaces.Box):
        raise DatasetError(
            f"A replay keeps observations of {observation_space} encoded only: record the policy instead."
        )
    order, stored = (np.asarray(x) for x in replays.in_order(replay))
    places = np.concatenate([stream[stored[stream]] for stream in order.T])
    steps = Transition(*(np.asarray(column)[places] for column in replays.flatten(replay)))
    shape = (len(places), *observation_space.shape)
    columns = {
        "observations": steps.obs.reshape(shape), "actions": action_codec(action_space).decode(steps.action),
        "rewards": steps.reward, "terminals": steps.terminated, "timeouts": steps.truncated,
        "next_observations": steps.next_obs.reshape(shape),
    }  # fmt: skip
    return Dataset.from_arrays(columns, observation_space=observation_space, action_space=action_space, name=name)


def stack(space: spaces.Space[Any], values: tuple[Any, ...]) -> NDArray[Any] | dict[str, Any]:
    """Return elements of a space along a new leading axis, each entry of Dict and Tuple spaces on its own."""
    if isinstance(space, spaces.Dict):
        return {key: stack(part, tuple(value[key] for value in values)) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return {str(i): stack(part, tuple(value[i] for value in values)) for i, part in enumerate(space.spaces)}
    return np.stack([np.asarray(value, space.dtype) for value in values])
