"""Weighted regression as a learner: the state of a run, and one pass of its loop."""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from rlox.core import replay as replays
from rlox.core import rollout as rollouts
from rlox.core.acting import act, behavior_of
from rlox.core.algorithm import Algorithm
from rlox.core.behavior import Behavior
from rlox.core.normalizer import Normalizer
from rlox.core.pack import checksum, pack
from rlox.core.programs import Mix, Report, compile_programs
from rlox.core.replay import Replay
from rlox.core.rollout import Rollout
from rlox.core.run_state import RunState, from_arrays, to_arrays
from rlox.core.state import TrainState
from rlox.core.streams import Streams
from rlox.core.transition import LARGE_OBS, Layout, Transition, cut_at_gaps
from rlox.core.update import init_state
from rlox.core.weigh import share_in_use
from rlox.envs.collector import Collector, Episode, begin_at
from rlox.envs.envs import Envs
from rlox.envs.spaces import action_codec, obs_encoder
from rlox.errors import DivergedError
from rlox.learner import Counters
from rlox.memory import check_replay_memory
from rlox.policy.policy import Policy, SampleStream

PATIENCE = 0.5
"""Seconds after which ``advance`` comes back, so that the loop can save, evaluate or stop."""
_NOT_FOUND = {
    True: "The environment does not come back to where it was when it is reset with the same seed and takes the same "
    "actions (its world or a wrapper remembers earlier episodes, or it draws random numbers of its own).",
    False: "An EnvPool or a ready-made VectorEnv cannot be brought back to where it was.",
}
_REPORT, _COMING = "report.", "coming."
_CUT = "The episode that was under way is cut there, as truncated, and a new one begins."
_LATEST = 5
"""By how much learning starts later, at most, where few episodes have ended."""
RECENT = 100
"""Finished training episodes that ``mean_reward`` is the mean of."""


class RegressionLearner:
    """Weighted regression: a state, and the environments that fill its replay.

    Args:
        algorithm: its functions.
        config: its settings.
        observation_space: of the environment or the data.
        action_space: likewise.
        envs: where to act; None learns from data only.
        seed: covers networks, sampling, environments and random actions.
        data: logged steps to learn from, ``(N, ...)``.
        n_streams: of the replay; by default one an environment.

    Raises:
        ConfigError: the replay does not fit in memory.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        config: Any,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        *,
        envs: Envs | None,
        seed: int,
        data: Transition | None = None,
        n_streams: int | None = None,
    ):
        self.algorithm, self.config, self.envs = algorithm, config, envs
        self.observation_space, self.action_space = observation_space, action_space
        self.encoder, self.codec = obs_encoder(observation_space), action_codec(action_space)
        self._n = n_streams or (envs.n if envs else 1)
        self._layout = Layout(self.encoder.dim, self.encoder.dtype, self.codec.dim, self.codec.dtype)
        self._rows = -(-config.rollout_steps // self._n) if config.rollout_steps else 0
        self.data_digest = (
            None if data is None else functools.reduce(lambda crc, column: checksum(column, crc), data, 0)
        )
        """Checksum of the data."""
        if envs or self._rows:
            rows = max(config.buffer_size // self._n, len(data.reward) // self._n if data and self._rows else 0, 1)
            check_replay_memory(rows * self._n * self._layout.n_bytes, config.buffer_size)
        self._programs = compile_programs(algorithm, config, self._n)
        network_seed, self._collector_seed, behavior_seed = np.random.SeedSequence(seed).spawn(3)
        self._behavior_seed = int(behavior_seed.generate_state(1)[0])
        train = init_state(
            algorithm, config, self.encoder.dim, self.codec.nvec, self.codec.dim, int(network_seed.generate_state(1)[0])
        )
        self._collector = self._new_collector(None)
        if data is not None and train.normalizer is not None:
            train = train._replace(normalizer=Normalizer.fit(data.obs))
        # In rounds, whole streams are labelled: the replay starts with the data.
        in_replay = cut_at_gaps(data) if data is not None and self._rows else None
        self._data = None if data is None or self._rows else replays.fill(data, 0, 1)
        self._shares_replay = False
        self.state = RunState(
            train=train,
            replay=None if in_replay is None else replays.fill(in_replay, config.buffer_size, self._n),
            rollout=self._new_rollout(),
            action=None,
            behavior=None,
            env_steps=0,
            forgotten=0,
            episodes=0,
            pretrained=False,
            recent=np.zeros((0, 2)),
            streams=None,
        )
        if data is not None:
            self._warn_if_large(data.obs)
        self._report: Report | None = None
        # With ``overlap``, of the round that is being learned: its report, and the gradient steps after it.
        self._coming: Report | None = None
        self._expected: int | None = None
        self._behavior: Behavior | None = None
        self._chunk = 64
        self._policy: tuple[TrainState, Policy] | None = None
        self._samples = SampleStream(int(np.random.SeedSequence([seed, 1]).generate_state(2)[1]))

    @property
    def counters(self) -> Counters:
        state = self.state
        gradient_steps = int(state.train.gradient_steps) if self._expected is None else self._expected
        return Counters(state.env_steps, gradient_steps, state.episodes)

    @property
    def forgot(self) -> bool:
        return self.state.forgotten > 0

    @property
    def can_learn_offline(self) -> bool:
        # In rounds the replay holds what was learned from offline.
        return self.data_digest is not None or (
            self._rows > 0 and self.state.pretrained and self.state.replay is not None
        )

    @property
    def policy(self) -> Policy:
        train = self.state.train
        if self._policy is None or self._policy[0] is not train:
            actor, normalizer = jax.tree.map(jnp.copy, (train.result, train.normalizer))
            spaces = self.observation_space, self.action_space
            self._policy = train, Policy(actor, normalizer, *spaces, self.config, samples=self._samples)
        return self._policy[1]

    def set_end(self, env_steps: int) -> None:
        """Do nothing: what decays here has a number of steps of its own."""

    def advance(self, limit: int, *, offline: bool = False) -> None:
        if offline:
            self._learn_offline(limit)
            return
        self._own_replay()
        deadline, end = time.perf_counter() + PATIENCE, self.state.env_steps + limit
        self._step()
        while self.state.env_steps < end and time.perf_counter() < deadline:
            self._step()

    def _learn_offline(self, limit: int) -> None:
        began, n, train, data = time.perf_counter(), min(limit, self._chunk), self.state.train, self.data
        if self._rows:
            learned = self._programs.learn_round_offline(train, data)
        else:
            learned = self._programs.learn_offline(train, data, n)
        self.take_offline(*learned)
        learned[1].values.block_until_ready()
        self._chunk = next_chunk(n, time.perf_counter() - began)

    @property
    def data(self) -> Replay:
        """What it learns from offline."""
        data = self.state.replay if self._rows else self._data
        assert data is not None
        return data

    def share_data(self, other: RegressionLearner) -> None:
        """Learn offline from another's copy of the same data, in the place of an own one."""
        if self._rows:
            self.state = self.state._replace(replay=other.data)
            self._shares_replay = other._shares_replay = True
        else:
            self._data = other.data

    def _own_replay(self) -> None:
        """Copy a replay that others have too, before steps are stored in it."""
        if self._shares_replay:
            self.state = self.state._replace(replay=jax.tree.map(jnp.copy, self.state.replay))
            self._shares_replay = False

    def take_offline(self, train: TrainState, report: Report) -> None:
        """Go on from a state that has learned from the data, which reports this."""
        self._report, self._coming, self._expected = report, None, None
        at = self.state.env_steps
        self.state = self.state._replace(train=train, action=None, behavior=None, pretrained=True, offline_at=at)

    def _step(self) -> None:
        """Act, step the environments, and learn if it is time to."""
        collector = self._collector
        assert collector is not None
        if not collector.started:
            self._start(collector)
        self._finish_round()  # An error may have come between it and the last one.
        before = self.state
        try:
            transition, valid, episodes = collector.step(self._act(collector))
        except BaseException:
            # As if the step had not begun, also for those environments that have taken it.
            self.state = before
            with contextlib.suppress(Exception):
                self._collector = self._new_collector(collector.streams())
            raise
        self._count(int(valid.sum()), episodes)
        state = self.state
        span = self._n * self.config.train_freq
        turn = state.env_steps // span > (state.env_steps - int(valid.sum())) // span
        if state.rollout is not None:
            self.state = state._replace(rollout=rollouts.append(state.rollout, transition, valid))
            self._finish_round()
        elif self._learning and turn:
            self._learn_from(transition, valid, collector.obs)
        else:
            self._store_step(transition, valid)

    def _learn_from(self, transition: Transition, valid: NDArray[np.bool_], obs: NDArray[Any]) -> None:
        """Store a step that has been counted, and learn."""
        state, mix = self.state, self._mix(int(valid.sum()))
        try:
            train, replay, action, self._report = self._programs.learn(
                state.train, self._replay(), mix, transition, valid, obs
            )
        except BaseException:
            # Unless it was computing already, which has used up the state.
            with contextlib.suppress(Exception):
                self._store_step(transition, valid)
            raise
        self.state = state._replace(train=train, replay=replay, action=action)

    @property
    def _learning(self) -> bool:
        """Whether there are steps enough to learn from."""
        n_steps = self.state.env_steps - self.state.forgotten
        return n_steps >= self.config.batch_size and not self._explores(n_steps)

    def _explores(self, n_steps: int) -> bool:
        """Whether so many steps are too few to learn from; with few episodes among them, more are needed."""
        few_episodes = self.state.episodes < self.config.random_episodes and not self.state.pretrained
        return n_steps < self.config.learning_starts * (_LATEST if few_episodes else 1)

    def _count(self, n: int, episodes: Sequence[Episode]) -> None:
        """Count ``n`` more steps of the environments, and the episodes that ended with them."""
        state = self.state
        recent = np.concatenate([state.recent, np.reshape(episodes, (-1, 2))])[-RECENT:] if episodes else state.recent
        self.state = state._replace(
            env_steps=state.env_steps + n, episodes=state.episodes + len(episodes), recent=recent
        )

    def _start(self, collector: Collector) -> None:
        """Go to where the environments were; cut the episodes that cannot be found again."""
        lost = collector.start()
        if self.state.env_steps == 0:
            self._warn_if_large(collector.obs)
        if lost.any():
            self._cut(lost)
            warnings.warn(f"{_NOT_FOUND[collector.envs.numbered]} {_CUT}", stacklevel=6)

    def _warn_if_large(self, obs: NDArray[Any]) -> None:
        """Say of observations that are far too large for a network that they are."""
        if self.state.train.normalizer is not None or obs.dtype.kind != "f":
            return
        largest = max(obs.max(initial=0), -obs.min(initial=0))
        if largest > LARGE_OBS:
            warnings.warn(
                f"Observations of up to {largest:.3g} are too large to learn from as they are: set normalize_obs=True.",
                stacklevel=7,
            )

    def _act(self, collector: Collector) -> NDArray[Any]:
        state = self.state
        if state.action is not None:
            self.state = state._replace(action=None)
            return np.asarray(state.action)
        if not state.pretrained and self._explores(state.env_steps + 1):
            return collector.random_action(state.env_steps)
        if state.behavior is not None:
            if self._behavior is None:
                actor, normalizer = state.behavior
                self._behavior = behavior_of(actor, normalizer)
            rng = np.random.default_rng([self._behavior_seed, state.env_steps])
            return self._behavior.sample(collector.obs, rng)
        action, key = act(state.train.actor, state.train.normalizer, collector.obs, state.train.key)
        self.state = state._replace(train=state.train._replace(key=key))
        return np.asarray(action)

    def _finish_round(self) -> None:
        """Learn from the whole replay with the rollout in it, if that is full."""
        rollout = self.state.rollout
        if rollout is None or rollout.filled < self._rows:
            return
        if self._learning:
            mix = self._mix(int(rollout.valid.sum()))
            if self.config.overlap:
                self._let_act(mix)
            train, replay, report = self._programs.learn_round(
                self.state.train, self._replay(), mix, rollout.steps, rollout.valid
            )
            self.state = self.state._replace(train=train, replay=replay)
            self._report, self._coming = (self._coming, report) if self.config.overlap else (report, None)
        else:
            self._store(rollout.steps, rollout.valid)
        self.state = self.state._replace(rollout=self._new_rollout())

    def _let_act(self, mix: Mix) -> None:
        """Wait for the round before, whose policy then collects while the next one is learned.

        Raises:
            DivergedError: it is not finite.
        """
        self.check_finite()
        train = self.state.train
        self._expected = int(train.gradient_steps) + (0 if mix.actor_waits else self.config.n_actor_updates)
        self.state = self.state._replace(behavior=jax.tree.map(np.array, (train.actor, train.normalizer)))
        # Now: what JAX would compute for it later waits for the round.
        self._behavior = behavior_of(train.actor, train.normalizer)

    def _store_step(self, transition: Transition, valid: NDArray[np.bool_]) -> None:
        self._store(jax.tree.map(lambda x: x[None], transition), valid[None])

    def _store(self, steps: Transition, valid: NDArray[np.bool_]) -> None:
        train, frozen = self.state.train, Mix(frozen=self._mix(int(valid.sum())).frozen)
        normalizer, replay = self._programs.store(train.normalizer, self._replay(), frozen, steps, valid)
        self.state = self.state._replace(train=train._replace(normalizer=normalizer), replay=replay)

    def _mix(self, n_new: int) -> Mix:
        """Return what an update has to know, after ``n_new`` steps that are not stored yet."""
        config, env_steps = self.config, self.state.env_steps
        decay, warmup, until = config.data_ratio_decay, config.critic_warmup_steps, config.normalize_obs_until
        share = config.data_ratio * (1.0 if decay is None else max(1 - env_steps / decay, 0.0))
        return Mix(
            data=self._data,
            share=None if self._data is None else share,
            actor_waits=env_steps - self.state.offline_at <= warmup if warmup and self.state.pretrained else None,
            frozen=None if until is None else env_steps - n_new >= until,
        )

    def _replay(self) -> Replay:
        replay = self.state.replay
        # A round fits, also where the environments do not divide it.
        capacity = max(self.config.buffer_size, self._rows * self._n)
        return replays.create(capacity, self._n, self._layout) if replay is None else replay

    def _new_rollout(self) -> Rollout | None:
        # Steps of collectors are stored as they come.
        return rollouts.create(self._rows, self._n, self._layout) if self._rows and not self.config.n_workers else None

    def _new_collector(self, streams: Streams | None) -> Collector | None:
        return Collector(self.envs, self.encoder, self.codec, self._collector_seed, streams) if self.envs else None

    def stored(self) -> Replay | None:
        """Return a replay with all steps so far, those of an unfinished round too, cut where they end; or None."""
        rollout, replay = self.state.rollout, self.state.replay
        if rollout is not None and rollout.filled:
            steps, valid = jax.tree.map(jnp.asarray, (rollout.steps, rollout.valid))
            replay = replays.extend(self._replay(), steps, valid)
        return None if replay is None else replays.cut(replay)

    def end_episodes(self) -> None:
        self._cut(np.ones(self._n, bool))
        if self._collector:
            self._collector.end_episodes()

    def _cut(self, streams: NDArray[np.bool_]) -> None:
        """Mark the last step of ``streams`` as truncated, and leave the next action, which was for another place."""
        state = self.state
        if state.rollout is not None:
            rollout, streams = rollouts.cut(state.rollout, streams)
            state = state._replace(rollout=rollout)
        if state.replay is not None:
            state = state._replace(replay=replays.cut(state.replay, streams))
        self.state = state._replace(action=None)

    def share_in_use(self, steps: Transition, seed: int) -> float | None:
        """Return the effective sample size of the weights that steps ``(N, ...)`` have, as a share of them.

        None if the algorithm fits other actions than theirs.
        """
        steps = cut_at_gaps(steps) if self._rows else steps
        return share_in_use(self.algorithm, self.config, self.state.train, steps, seed)

    def metrics(self) -> dict[str, float]:
        if not self.config.overlap:  # Which would wait for the round that is being learned.
            self.check_finite()
        returns, lengths = self.state.recent.T if len(self.state.recent) else (np.nan, np.nan)
        return {
            **(self._report.fetch() if self._report else {}),
            "rollout/episode_return": float(np.mean(returns)),
            "rollout/episode_length": float(np.mean(lengths)),
        }

    def check_finite(self) -> None:
        """Stop if a loss, a parameter or a moment of its gradients is no longer finite.

        Raises:
            DivergedError: with the gradient step, and what to try.
        """
        train = self.state.train
        # Of a gradient whose square overflows, its moment is infinite, and its parameter stands still from then on.
        named = pack({name: getattr(train, name) for name in ("actor", "critic", "actor_opt", "critic_opt")})
        wrong = [name for name, parameter in named.items() if not np.isfinite(parameter).all()]
        step = int(train.diverged_at)
        if step < 0 and not wrong:
            return
        newest = self._coming or self._report
        report = newest.fetch() if newest else {}
        losses = [name for name, value in report.items() if name.endswith("loss") and not np.isfinite(value)]
        kind = "moment" if wrong and "_opt" in wrong[0] else "parameter"
        what = f"{kind} {wrong[0]}" if wrong else f"loss {losses[0]}" if losses else "a loss"
        raise DivergedError(
            f"Training diverged: {what} is not finite from gradient step "
            f"{int(train.gradient_steps) if step < 0 else step:,} on (env step {self.state.env_steps:,}). Lower "
            f"learning_rate ({self.config.learning_rate:g}), set max_grad_norm=1.0 or scale the rewards."
        )

    def snapshot(self, *, replay: bool = True) -> dict[str, NDArray[Any]]:
        """Return copies of all that training needs to go on, with its replay or without. Nothing is changed.

        Raises:
            DivergedError: the state is not finite.
        """
        self.check_finite()
        streams = self._collector.streams() if self._collector else self.state.streams
        named = {
            f"{prefix}{name}": np.array(value, np.float32)
            for prefix, report in ((_REPORT, self._report), (_COMING, self._coming))
            for name, value in (report.fetch() if report else {}).items()
        }
        return {**to_arrays(self.state._replace(streams=streams), replay=replay), **named}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over a snapshot.

        The environments are brought to where they were at the next step. If one does not come back there, its episode
        is cut, with a warning.

        Raises:
            CheckpointError: it was made with another configuration.
        """
        self._report, self._coming = (_report_in(arrays, prefix) for prefix in (_REPORT, _COMING))
        arrays = {name: array for name, array in arrays.items() if not name.startswith((_REPORT, _COMING))}
        self._expected, self._behavior, train = None, None, self.state.train
        fresh = self.state._replace(
            replay=replays.create(1, self._n, self._layout),
            rollout=self._new_rollout(),
            action=jnp.zeros((self._n, self.codec.dim), self.codec.dtype),
            behavior=jax.tree.map(np.array, (train.actor, train.normalizer)),
            streams=begin_at(np.zeros(self._n, np.int64), self.codec),
        )
        from_data = self.state.replay
        self.state = state = from_arrays(fresh, arrays)
        if state.replay is None:
            self.state = state = state._replace(replay=from_data)
        begin = state.streams or begin_at(np.full(self._n, state.episodes, np.int64), self.codec)
        self._collector = self._new_collector(begin)
        if state.streams is None:
            self.end_episodes()

    def close(self) -> None:
        if self.envs:
            self.envs.close()


def _report_in(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Report | None:
    """Return the report that a snapshot has under a prefix, if it has one."""
    found = {name.removeprefix(prefix): jnp.asarray(x) for name, x in arrays.items() if name.startswith(prefix)}
    return Report.of(found) if found else None


def next_chunk(n: int, seconds: float) -> int:
    """Return how many updates a call makes after one of ``n`` took so long."""
    return int(np.clip(n * PATIENCE / max(seconds, 1e-6), 1, 4 * n))
