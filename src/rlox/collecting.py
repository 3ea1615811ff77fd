"""Weighted regression from remote collectors: they step the environments while one learner learns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlox.collectors import Collectors
from rlox.core import rollout as rollouts
from rlox.core.acting import behavior_of
from rlox.core.algorithm import Algorithm
from rlox.core.programs import Report
from rlox.core.state import TrainState
from rlox.core.streams import Streams
from rlox.core.transition import Transition
from rlox.envs.envs import Envs
from rlox.envs.remote import Batch, Worksite
from rlox.regression import PATIENCE, RegressionLearner

LENGTH = 16
"""Steps of each environment to a batch, unless it learns in rounds."""


class CollectingLearner(RegressionLearner):
    """Weighted regression whose steps come from ``n_workers`` collectors on Ray.

    Each collector has ``n_envs`` environments, and with them as many streams of the replay. It cannot go on bit for
    bit: which steps come first depends on the time that they take, and steps that are under way at a checkpoint are
    lost.

    Args:
        algorithm: its functions.
        config: its settings.
        envs: environments like those of a collector; they are not stepped.
        site: what collectors are made with.
        seed: covers networks, sampling, environments and random actions.
        data: logged steps to learn from, ``(N, ...)``.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        config: Any,
        envs: Envs,
        site: Worksite,
        *,
        seed: int,
        data: Transition | None = None,
    ):
        spaces, n = (envs.observation_space, envs.action_space), config.n_workers * config.n_envs
        super().__init__(algorithm, config, *spaces, envs=envs, seed=seed, data=data, n_streams=n)
        self._site, self._length = site, self._rows or LENGTH
        self._collectors = self._make_collectors()
        self._unsent, self._moved = 0, False
        self._ages: list[int] = []

    def advance(self, limit: int, *, offline: bool = False) -> None:
        if offline:
            super().advance(limit, offline=True)
            return
        self._own_replay()
        deadline, end = time.perf_counter() + PATIENCE, self.state.env_steps + limit
        self._take()
        while self.state.env_steps < end and time.perf_counter() < deadline:
            self._take()

    def take_offline(self, train: TrainState, report: Report) -> None:
        super().take_offline(train, report)
        self._moved = True

    def metrics(self) -> dict[str, float]:
        found, ages = super().metrics(), self._ages
        self._ages = []
        told = {"collect/staleness": float(np.mean(ages)), "collect/max_staleness": max(ages)} if ages else {}
        return {**found, **told, "collect/version": self._collectors.version, "collect/lost": self._collectors.n_lost}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().restore(arrays)
        self._collectors.close()
        self._collectors = self._make_collectors()

    def close(self) -> None:
        self._collectors.close()
        super().close()

    def _take(self) -> None:
        """Store what collectors have taken, and learn what is due by then."""
        if self._unseen and not self._too_old:
            self._publish()
        waits = self._too_old and (self._unseen or self._due() > 0)
        batches, lost = self._collectors.take(more=not waits)
        if lost:
            self._cut(np.isin(np.arange(self._n) // self.config.n_envs, lost))
        if not batches:
            return
        n = self._keep(batches)
        if self._learning:
            owed = n * (1 if self._rows else self.config.updates_per_step)
            self.state = self.state._replace(pending=self.state.pending + owed)
            self._learn()

    def _keep(self, batches: Sequence[Batch]) -> int:
        """Store batches of different collectors; returns how many steps they have."""
        block = rollouts.create(self._length, self._n, self._layout)
        for batch in batches:
            first = batch.origin.collector * self.config.n_envs
            own = slice(first, first + self.config.n_envs)
            for column, new in zip(block.steps, batch.steps, strict=True):
                column[:, own] = new
            block.valid[:, own] = batch.valid
            self._ages.append(self._collectors.version - batch.version)
        n = int(block.valid.sum())
        self._count(n, [episode for batch in batches for episode in batch.episodes])
        self._store(block.steps, block.valid)
        return n

    @property
    def _unseen(self) -> bool:
        """Whether collectors lack the policy: the first that acts, or what it has learned from data since."""
        state = self.state
        if self._collectors.version:
            return self._moved
        return state.pretrained or not self._explores(state.env_steps + 1)

    @property
    def _too_old(self) -> bool:
        """Whether, after another policy, collectors would act by one that is older than allowed."""
        return self._collectors.version + 1 - self._collectors.oldest > self.config.max_staleness

    def _due(self) -> int:
        """Return the updates, or in rounds the rounds, that the steps so far allow."""
        return self.state.pending // (self.config.rollout_steps or self.config.train_freq)

    def _learn(self) -> None:
        """Learn what is due, and send the policy; unless collectors would act by too old a one then."""
        config, mix = self.config, self._mix(0)
        while (due := self._due()) and not self._too_old:
            train, replay = self.state.train, self._replay()
            if config.rollout_steps:
                train, self._report = self._programs.learn_round_offline(train, replay, mix.actor_waits)
                paid = config.rollout_steps
            else:
                n = min(due, config.publish_interval - self._unsent)
                train, self._report = self._programs.learn_offline(train, replay, n, mix)
                paid = n * config.train_freq
                self._unsent += n
            self.state = self.state._replace(train=train, pending=self.state.pending - paid)
            if config.rollout_steps or self._unsent == config.publish_interval:
                self._publish()

    def _publish(self) -> None:
        train = self.state.train
        self._collectors.publish(behavior_of(train.actor, train.normalizer))
        self._unsent, self._moved = 0, False

    def _make_collectors(self) -> Collectors:
        site = self._site._replace(env_steps=self.state.env_steps)
        return Collectors(site, self.config.n_workers, self._length)

    def _new_collector(self, streams: Streams | None) -> None:
        """Return none: collectors are elsewhere."""
