"""Acts in the environments: random first steps, episode returns, and one transition after another."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlox.core.state import Transition
from rlox.envs.envs import Envs
from rlox.envs.spaces import ActionCodec


class Episode(NamedTuple):
    """A finished episode."""

    episode_return: float
    length: int


class Collector:
    """The streams' present: where each environment stands, and its episode so far.

    ``seed`` covers the environments and the random actions.
    """

    def __init__(self, envs: Envs, codec: ActionCodec, seed: np.random.SeedSequence):
        self.envs = envs
        self.codec = codec
        env_seed, action_seed = (int(s) for s in seed.generate_state(2))
        envs.action_space.seed(action_seed)
        self._seeds = np.random.default_rng(env_seed)
        self.obs: NDArray[Any] = np.empty(0)
        self.started = False

    def start(self) -> None:
        """Begin new episodes everywhere."""
        # A seed of its own each time: an evaluation may have left the environments with one that recurs.
        self.obs = self.envs.reset(int(self._seeds.integers(2**31)))
        self._returns = np.zeros(self.envs.n)
        self._lengths = np.zeros(self.envs.n, int)
        self.started = True

    def random_action(self) -> NDArray[Any]:
        """Return a uniformly random ``(n, dim)`` action in the policy's coding."""
        drawn = np.stack([np.asarray(self.envs.action_space.sample()) for _ in range(self.envs.n)])
        return self.codec.encode(drawn)

    def step(self, action: NDArray[Any]) -> tuple[Transition, NDArray[np.bool_], list[Episode]]:
        """Take an action of the policy's coding; returns transitions, which of them are real, and ended episodes."""
        step = self.envs.step(self.codec.decode(action))
        transition = Transition(self.obs, action, step.reward, step.next_obs, step.terminated, step.truncated)
        self.obs = step.obs
        self._returns += step.reward * step.valid
        self._lengths += step.valid
        episodes = []
        for i in np.flatnonzero((step.terminated | step.truncated) & step.valid):
            episodes.append(Episode(float(self._returns[i]), int(self._lengths[i])))
            self._returns[i] = self._lengths[i] = 0
        return transition, step.valid, episodes
