"""Returns of a policy over whole episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlox.envs.collector import Episode
from rlox.envs.envs import Envs
from rlox.envs.spaces import ActionCodec

Policy = Callable[[NDArray[Any]], NDArray[Any]]
"""From encoded observations ``(n, obs_dim)`` to actions ``(n, dim)`` in the policy's coding."""


def run_episodes(envs: Envs, codec: ActionCodec, policy: Policy, n_episodes: int, seed: int) -> Iterator[Episode]:
    """Yield ``n_episodes`` episodes from a fresh reset with ``seed``.

    Several environments share the episodes evenly, so that short ones are not counted more often than long ones.
    """
    quota = np.full(envs.n, n_episodes // envs.n)
    quota[: n_episodes % envs.n] += 1
    returns, lengths = np.zeros(envs.n), np.zeros(envs.n, int)
    obs = envs.reset(seed)
    while quota.any():
        step = envs.step(codec.decode(policy(obs)))
        obs = step.obs
        returns += step.reward * step.valid
        lengths += step.valid
        for i in np.flatnonzero((step.terminated | step.truncated) & step.valid):
            if quota[i]:
                quota[i] -= 1
                yield Episode(float(returns[i]), int(lengths[i]))
            returns[i] = lengths[i] = 0


def summarize(episodes: list[Episode]) -> dict[str, float]:
    """Return mean, standard deviation (of the episodes, not of their mean), minimum and maximum of the returns."""
    returns = np.array([episode.episode_return for episode in episodes])
    return {
        "mean_reward": float(returns.mean()),
        "std_reward": float(returns.std()),
        "min_reward": float(returns.min()),
        "max_reward": float(returns.max()),
        "mean_length": float(np.mean([episode.length for episode in episodes])),
        "n_episodes": len(episodes),
    }
