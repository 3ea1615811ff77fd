"""All that training has in hand, and one pass of its loop."""

from __future__ import annotations

from collections import deque
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from rlox.core import replay as replays
from rlox.core.normalizer import Normalizer
from rlox.core.programs import Mix, Report, compile_programs
from rlox.core.replay import Replay
from rlox.core.state import Transition
from rlox.core.update import Algorithm, init_state
from rlox.envs.collector import Collector, Episode
from rlox.envs.envs import Envs
from rlox.envs.spaces import action_codec
from rlox.errors import DivergedError
from rlox.runs.checkpoint import Snapshot, pack, unpack

Row = tuple[Transition, np.ndarray[Any, Any]]
"""A step of the environments ``(n, ...)``, and in which of them it is one."""


class Learner:
    """A state, a replay and the environments that fill it.

    Args:
        algorithm: the member's holes.
        config: its settings.
        envs: where to act.
        seed: covers networks, sampling, environments and random actions.
        data: logged steps to learn from, ``(N, ...)``.
    """

    def __init__(self, algorithm: Algorithm, config: Any, envs: Envs, seed: int, data: Transition | None = None):
        self.algorithm, self.config = algorithm, config
        self.envs = envs
        self.encoder, self.codec = envs.encoder, action_codec(envs.action_space)
        self.programs = compile_programs(algorithm, config, envs.n)
        network_seed, collector_seed = np.random.SeedSequence(seed).spawn(2)
        self.state = init_state(
            algorithm, config, self.encoder.dim, self.codec.nvec, self.codec.dim, int(network_seed.generate_state(1)[0])
        )
        self.collector = Collector(envs, self.codec, collector_seed)
        self.replay: Replay | None = None
        rollout_steps = config.rollout_steps
        self.rows_per_round = -(-rollout_steps // envs.n) if rollout_steps else 0
        """Steps of the environments between rounds of learning; 0 learns after every one."""
        self.rows_collected = 0
        self.rollout: list[Row] = []
        """Of the steps since the last round, those that are not in the replay yet."""
        self.action: Array | None = None
        """The next actions, where the last update has already chosen them."""
        self.report: Report | None = None
        """The last update's metrics, still on the device."""
        self.env_steps = 0
        self.episodes = 0
        self.recent: deque[Episode] = deque(maxlen=100)
        self.capacity = config.buffer_size
        """Transitions that the replay holds."""
        self.data: Replay | None = None
        """Logged steps; where learning goes in rounds, the replay starts with them instead."""
        self.has_data = self.pretrained = data is not None
        if data is not None:
            self._take(data)

    def _take(self, data: Transition) -> None:
        """Make logged steps what there is to learn from, and the normaliser's statistics theirs."""
        if self.state.normalizer is not None:
            self.state = self.state._replace(normalizer=Normalizer.fit(data.obs))
        if self.rows_per_round:
            self.capacity = max(self.capacity, len(data.reward))
            self.replay = replays.fill(data, self.capacity, self.envs.n)
        else:
            self.data = replays.fill(data, 0, 1)

    def step_offline(self, n: int) -> None:
        """Learn from the data alone: ``n`` updates, or a round."""
        if self.rows_per_round:
            self.state, self.report = self.programs.learn_round_offline(self.state, self._replay())
        else:
            assert self.data is not None
            self.state, self.report = self.programs.learn_offline(self.state, self.data, n)
        self.action = None

    def step(self) -> None:
        """Act, step the environments, and learn where it is time to."""
        if not self.collector.started:
            self.collector.start()
        transition, valid, episodes = self.collector.step(self._act())
        self.env_steps += int(valid.sum())
        self.episodes += len(episodes)
        self.recent.extend(episodes)
        learning = self.env_steps >= max(self.config.learning_starts, self.config.batch_size)
        if self.rows_per_round:
            self.rollout.append((transition, valid))
            self.rows_collected += 1
            if self.rows_collected >= self.rows_per_round:
                self._finish_round(learning)
        elif learning:
            self.state, self.replay, self.action, self.report = self.programs.learn(
                self.state, self._replay(), self._mix(), transition, valid, self.collector.obs
            )
        else:
            self._store([(transition, valid)], 1)

    @property
    def data_share(self) -> float | None:
        """Share of the minibatches that comes from the data at present; None where there are none."""
        if self.data is None:
            return None
        decay = self.config.data_ratio_decay
        return self.config.data_ratio * (1.0 if decay is None else max(1 - self.env_steps / decay, 0.0))

    def _mix(self) -> Mix:
        warmup = self.config.critic_warmup_steps if self.pretrained else 0
        return Mix(self.data, self.data_share, self.env_steps <= warmup if warmup else None)

    def _finish_round(self, learning: bool) -> None:
        """Learn from the whole replay, with the rollout in it."""
        if learning:
            rows = _stack(self.rollout, self.rows_per_round)
            self.state, self.replay, self.report = self.programs.learn_round(
                self.state, self._replay(), self._mix(), *rows
            )
            self.rollout = []
        else:
            self._flush()
        self.rows_collected = 0

    def _flush(self) -> None:
        """Store the rollout so far."""
        if self.rollout:
            self._store(self.rollout, self.rows_per_round)
            self.rollout = []

    def _store(self, rows: list[Row], length: int) -> None:
        normalizer, self.replay = self.programs.store(self.state.normalizer, self._replay(), *_stack(rows, length))
        self.state = self.state._replace(normalizer=normalizer)

    def _act(self) -> np.ndarray[Any, Any]:
        if self.action is not None:
            action, self.action = np.asarray(self.action), None
            return action
        if not self.pretrained and self.env_steps + 1 < self.config.learning_starts:
            return self.collector.random_action()
        state = self.state
        action, key = self.programs.act(state.actor, state.normalizer, self.collector.obs, state.key)
        self.state = state._replace(key=key)
        return np.asarray(action)

    def _replay(self) -> Replay:
        self.replay = self._new_replay() if self.replay is None else self.replay
        return self.replay

    def _new_replay(self) -> Replay:
        return replays.create(
            self.capacity, self.envs.n, self.encoder.dim, self.encoder.dtype, self.codec.dim, self.codec.dtype
        )

    def end_episodes(self) -> None:
        """Let the episodes end where they stand, as truncated, and new ones begin at the next step."""
        self._flush()
        if self.replay is not None:
            self.replay = replays.cut(self.replay)
        self.collector.started, self.action = False, None

    def check_finite(self) -> None:
        """Stop where a loss or a parameter is no longer finite.

        Raises:
            DivergedError: with the gradient step, and the way out.
        """
        step = int(self.state.diverged_at)
        if step < 0:
            parameters = jax.tree.leaves((self.state.actor, self.state.critic))
            if all(np.isfinite(parameter).all() for parameter in parameters):
                return
            step = int(self.state.gradient_steps)
        raise DivergedError(
            f"Training diverged: a loss or a parameter is not finite from gradient step {step:,} on. Lower "
            f"learning_rate ({self.config.learning_rate:g}), set max_grad_norm=1.0 or scale the rewards."
        )

    def snapshot(self) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
        """Return named arrays and JSON values from which ``restore`` goes on.

        Raises:
            DivergedError: the state is not finite.
        """
        self.check_finite()
        self._flush()
        counters = {
            "env_steps": self.env_steps, "episodes": self.episodes, "rows_collected": self.rows_collected,
            "capacity": self.capacity, "pretrained": self.pretrained,
        }  # fmt: skip
        return pack(Snapshot(self.state, self.replay, counters, list(self.recent)))

    def restore(self, arrays: dict[str, np.ndarray[Any, Any]], info: dict[str, Any], seed: int) -> None:
        """Take over a snapshot; new episodes begin, which are not those that it has seen.

        Raises:
            CheckpointError: it was made with another configuration.
        """
        self.capacity = info["counters"]["capacity"]
        self.state, self.replay, counters, recent = unpack(arrays, info, self.state, self._new_replay)
        self.env_steps, self.episodes = counters["env_steps"], counters["episodes"]
        self.rows_collected, self.pretrained = counters["rows_collected"], bool(counters["pretrained"])
        self.has_data |= self.pretrained and self.rows_per_round > 0
        self.recent.extend(recent)
        self.collector = Collector(self.envs, self.codec, np.random.SeedSequence([seed, self.env_steps]))


def _stack(rows: list[Row], length: int) -> Row:
    """Return rows as one ``(length, n, ...)``, the missing ones not valid: programs take one length only."""
    transitions, valid = zip(*rows, strict=True)
    missing = length - len(rows)
    columns = [
        np.concatenate([np.stack(column), np.zeros((missing, *column[0].shape), column[0].dtype)])
        for column in zip(*transitions, strict=True)
    ]
    return Transition(*columns), np.concatenate([np.stack(valid), np.zeros((missing, len(valid[0])), bool)])
