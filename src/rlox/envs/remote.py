"""A collector in a process of its own: a policy in NumPy steps environments. This module never imports JAX."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlox.core.behavior import Behavior
from rlox.core.transition import Transition
from rlox.envs.collector import Collector, Episode
from rlox.envs.envs import Envs, make_envs
from rlox.envs.spaces import action_codec, obs_encoder


class Origin(NamedTuple):
    """Where steps are from: no two batches have the same."""

    collector: int
    incarnation: int
    """How many collectors of that number were lost before."""
    sequence: int
    """Batches of this incarnation before."""


class Batch(NamedTuple):
    """Steps that follow each other, of the environments of one collector."""

    origin: Origin
    version: int
    """Of the policy that acted."""
    steps: Transition
    """Each ``(k, n, ...)``."""
    valid: NDArray[np.bool_]
    """``(k, n)``: which of them are steps of an environment."""
    episodes: list[Episode]
    """Those that ended."""


class Worksite(NamedTuple):
    """What collectors are made with, as plain values."""

    env: Any
    """An id, or a callable that makes an environment."""
    n_envs: int
    mode: str
    timeout: float | None
    seed: int
    modules: Sequence[str] = ()
    """What is imported first."""
    env_steps: int = 0
    """Of the run before these collectors: one that goes on must not draw again what it has drawn."""

    def make(self, seed: int) -> Envs:
        """Return the environments of a collector, which has a seed of its own."""
        for name in self.modules:
            importlib.import_module(name)
        return make_envs(self.env, self.n_envs, self.mode, seed, timeout=self.timeout)


class RemoteCollector:
    """Collects as it is told; it lives where Ray puts it."""

    def __init__(self, site: Worksite, number: int, incarnation: int):
        seed = np.random.SeedSequence([site.seed, number, incarnation, site.env_steps])
        env_seed, noise = seed.spawn(2)
        self._envs, self._origin = site.make(int(env_seed.generate_state(1)[0])), Origin(number, incarnation, 0)
        spaces = self._envs.observation_space, self._envs.action_space
        self._collector = Collector(self._envs, obs_encoder(spaces[0]), action_codec(spaces[1]), env_seed)
        self._rng, self._steps = np.random.default_rng(noise), 0
        self._collector.start()

    def collect(self, behavior: Behavior | None, version: int, n: int) -> Batch:
        """Step the environments ``n`` times; without a policy by random actions."""
        rows, episodes = [], []
        for _ in range(n):
            transition, valid, ended = self._collector.step(self._act(behavior))
            rows.append((transition, valid))
            episodes += ended
        steps = Transition(*(np.stack(column) for column in zip(*(row for row, _ in rows), strict=True)))
        batch = Batch(self._origin, version, steps, np.stack([valid for _, valid in rows]), episodes)
        self._origin = self._origin._replace(sequence=self._origin.sequence + 1)
        return batch

    def _act(self, behavior: Behavior | None) -> NDArray[Any]:
        self._steps += 1
        if behavior is None:
            return self._collector.random_action(self._steps)
        return behavior.sample(self._collector.obs, self._rng)
