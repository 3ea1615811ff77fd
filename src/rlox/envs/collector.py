"""Acts in the environments: random first steps, episode returns, and one transition after another."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlox.core.state import Transition
from rlox.envs.envs import Envs, Step
from rlox.envs.spaces import ActionCodec, ObsEncoder


class Episode(NamedTuple):
    """A finished episode."""

    episode_return: float
    length: int


class EpisodeCounter:
    """Returns and lengths of the episodes of ``n`` environments so far."""

    def __init__(self, n: int):
        self.returns, self.lengths = np.zeros(n), np.zeros(n, int)

    def count(self, step: Step) -> list[tuple[int, Episode]]:
        """Add a step; returns the episodes that ended with it, each after the number of its environment."""
        self.returns += step.reward * step.valid
        self.lengths += step.valid
        found = []
        for i in np.flatnonzero(step.ended):
            found.append((int(i), Episode(float(self.returns[i]), int(self.lengths[i]))))
            self.returns[i] = self.lengths[i] = 0
        return found


class Collector:
    """Where each environment stands, and its episode so far.

    ``seed`` covers the environments and the random actions.
    """

    def __init__(self, envs: Envs, encoder: ObsEncoder, codec: ActionCodec, seed: np.random.SeedSequence):
        self.envs, self.encoder, self.codec = envs, encoder, codec
        env_seed, action_seed = (int(s) for s in seed.generate_state(2))
        envs.action_space.seed(action_seed)
        self._seeds = np.random.default_rng(env_seed)
        self.obs: NDArray[Any] = np.empty(0)
        self.started = False

    def start(self) -> None:
        """Begin new episodes everywhere."""
        # A seed of its own each time: an evaluation may have left the environments with one that recurs.
        self.obs = self._encode(self.envs.reset(int(self._seeds.integers(2**31))))
        self._counter = EpisodeCounter(self.envs.n)
        self.started = True

    def random_action(self) -> NDArray[Any]:
        """Return a uniformly random ``(n, dim)`` action in the policy's coding."""
        drawn = np.stack([np.asarray(self.envs.action_space.sample()) for _ in range(self.envs.n)])
        return self.codec.encode(drawn)

    def step(self, action: NDArray[Any]) -> tuple[Transition, NDArray[np.bool_], list[Episode]]:
        """Take an action of the policy's coding; returns transitions, which of them are real, and ended episodes."""
        step = self.envs.step(self.codec.decode(action))
        next_obs = self._encode(step.next_obs)
        transition = Transition(self.obs, action, step.reward, next_obs, step.terminated, step.truncated)
        self.obs = next_obs if step.obs is step.next_obs else self._encode(step.obs)
        return transition, step.valid, [episode for _, episode in self._counter.count(step)]

    def _encode(self, obs: Any) -> NDArray[Any]:
        with self.envs.checked():
            return self.encoder(obs, self.envs.n)
