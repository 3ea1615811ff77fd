"""Episodes of anything that acts: for evaluation, recording, playing and videos."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.envs.collector import Episode, EpisodeCounter
from rlox.envs.envs import Envs, Step
from rlox.envs.spaces import action_codec, interchangeable, same_actions
from rlox.envs.streams import LONGEST
from rlox.errors import ConfigError
from rlox.policy.policy import Predictor, TrainedPolicy

Act = Callable[[Any], NDArray[Any]]
"""From a batch of observations to a batch of actions that the environments accept."""


class Taken(NamedTuple):
    """A step of ``n`` environments: what was observed, the actions, and what followed."""

    obs: Any
    action: NDArray[Any]
    step: Step


def steps(envs: Envs, act: Act, seed: int | None) -> Iterator[Taken]:
    """Yield steps without end, one episode after another, from a reset with ``seed``.

    Warns, once, of an episode that does not end.
    """
    obs = envs.reset(seed)
    lengths, is_long = np.zeros(envs.n, int), False
    while True:
        with envs.checked():
            action = act(obs)
        step = envs.step(action)
        lengths = np.where(step.ended, 0, lengths + step.valid)
        if not is_long and (is_long := bool(lengths.max() >= LONGEST)):
            warnings.warn(
                f"An episode has taken {LONGEST:,} steps, and goes on: give the environment a time limit, such as "
                "gymnasium.make(..., max_episode_steps=1000).",
                stacklevel=2,
            )
        yield Taken(obs, action, step)
        obs = step.obs


def episodes(envs: Envs, act: Act, n_episodes: int, seed: int | None) -> Iterator[Episode]:
    """Yield ``n_episodes`` episodes as they end.

    Several environments share the episodes evenly, so that short ones are not counted more often than long ones.
    """
    quota = np.full(envs.n, n_episodes // envs.n)
    quota[: n_episodes % envs.n] += 1
    counter = EpisodeCounter(envs.n)
    for taken in steps(envs, act, seed):
        for i, episode in counter.count(taken.step):
            if quota[i]:
                quota[i] -= 1
                yield episode
        if not quota.any():
            return


def check_fits(policy: Predictor, envs: Envs) -> None:
    """Refuse an environment of other spaces than the policy's.

    Raises:
        ConfigError: naming both.
    """
    fits = interchangeable(policy.observation_space, envs.observation_space)
    if not fits or not same_actions(policy.action_space, envs.action_space):
        raise ConfigError(
            f"The policy takes {policy.observation_space} and gives {policy.action_space}, but the environment has "
            f"{envs.observation_space} and {envs.action_space}: choose the environment that it was trained in."
        )


def evaluate(
    policy: Predictor, envs: Envs, n_episodes: int, *, deterministic: bool = True, seed: int = 0
) -> dict[str, float]:
    """Return statistics of whole episodes.

    Args:
        policy: what acts.
        envs: where.
        n_episodes: how many.
        deterministic: the policy's mode; otherwise its samples.
        seed: of the first reset, and of our policies' samples.

    Returns:
        ``mean_reward``, ``std_reward`` (of the episodes, not of their mean), ``min_reward``, ``max_reward``,
        ``mean_length``, ``n_episodes``.

    Raises:
        ConfigError: the environment has other spaces than the policy.
    """
    check_fits(policy, envs)
    acting = policy.seeded(seed) if isinstance(policy, TrainedPolicy) else policy
    found = list(episodes(envs, lambda obs: acting.predict(obs, deterministic=deterministic), n_episodes, seed))
    returns = np.array([episode.episode_return for episode in found])
    return {
        "mean_reward": float(returns.mean()),
        "std_reward": float(returns.std()),
        "min_reward": float(returns.min()),
        "max_reward": float(returns.max()),
        "mean_length": float(np.mean([episode.length for episode in found])),
        "n_episodes": len(found),
    }


class RandomPolicy:
    """Takes uniformly random actions."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any], seed: int):
        self.observation_space, self.action_space = observation_space, action_space
        action_space.seed(seed)

    def predict(self, obs: Any, *, deterministic: bool = True) -> NDArray[Any]:
        """Return a batch with one random action; ``deterministic`` has no meaning here."""
        return np.asarray(self.action_space.sample())[None]

    def log_prob(self, obs: Any, action: NDArray[Any]) -> NDArray[np.float64]:
        """Return the logarithm of each action's probability, or of its density, ``(B,)``."""
        space = self.action_space
        if isinstance(space, spaces.Box):
            low, high = space.low.astype(np.float64), space.high.astype(np.float64)
            # Components of whole numbers have one value more than their range; one with a single value has no density.
            span = high - low + (space.dtype.kind in "iu")
            volume = np.log(np.where(high > low, span, 1.0)).sum()
        else:
            volume = np.log(action_codec(space).nvec).sum()
        return np.full(len(action), -volume)
