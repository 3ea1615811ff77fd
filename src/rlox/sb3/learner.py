"""A model of Stable-Baselines3 as a learner: its own collecting and training, in pieces."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import TrainFreq

from rlox.algorithms.others import OtherConfig
from rlox.envs.envs import Envs
from rlox.errors import CheckpointError, DivergedError, RloxError
from rlox.learner import Counters
from rlox.regression import PATIENCE, RECENT
from rlox.sb3 import state
from rlox.sb3.envs import Environments
from rlox.sb3.model import make_model
from rlox.sb3.policy import OtherPolicy, copy_of

_REPORT = "report."
_NAMES = {
    "train/policy_gradient_loss": "actor/loss",
    "train/actor_loss": "actor/loss",
    "train/value_loss": "critic/loss",
    "train/critic_loss": "critic/loss",
    "train/explained_variance": "critic/explained_variance",
    "train/std": "policy/std",
    "train/ent_coef": "train/entropy_coef",
    "train/ent_coef_loss": "train/entropy_coef_loss",
}
"""Their metrics that have a name of ours."""


class OtherLearner:
    """PPO, SAC or TD3 of Stable-Baselines3.

    Args:
        algorithm: its name.
        config: its settings.
        observation_space: of the environment.
        action_space: likewise.
        envs: where to act; None where it only predicts.
        seed: covers networks, sampling, environments and random actions.
        n_streams: of the replay, if there are no environments.
        acts_only: leaves out the memory for what it learns from.

    Raises:
        SpaceError: spaces that it does not take.
        ConfigError: the replay does not fit in memory.
    """

    can_learn_offline = False
    data_digest: int | None = None

    def __init__(
        self,
        algorithm: str,
        config: OtherConfig,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        *,
        envs: Envs | None,
        seed: int,
        n_streams: int = 1,
        acts_only: bool = False,
    ):
        self.algorithm, self.config, self.envs, self._seed = algorithm, config, envs, seed
        self.observation_space, self.action_space = observation_space, action_space
        n = envs.n if envs else n_streams
        self._envs = Environments(envs, observation_space, action_space, n, seed)
        self._random = state.Randomness()
        with self._random.own():
            self.model = make_model(config, self._envs, seed, acts_only=acts_only)
        self._end, self._episodes, self._forgotten = 0, 0, 0
        self._callback: BaseCallback | None = None
        """None where new episodes begin at the next step."""
        self._recent = np.zeros((0, 2))
        self._continued = False
        self._policy: OtherPolicy | None = None

    @property
    def counters(self) -> Counters:
        actor, *_ = state.optimizers(self.model).values()
        return Counters(self.model.num_timesteps, state.steps_of(actor), self._episodes)

    @property
    def forgot(self) -> bool:
        return self._forgotten > 0

    @property
    def policy(self) -> OtherPolicy:
        if self._policy is None:
            seed = int(np.random.SeedSequence([self._seed, 1]).generate_state(2)[1])
            spaces = self.observation_space, self.action_space
            self._policy = OtherPolicy(copy_of(self.model.policy), *spaces, self.algorithm, self.config, seed=seed)
        return self._policy

    def set_end(self, env_steps: int) -> None:
        self._end = env_steps

    def advance(self, limit: int, *, offline: bool = False) -> None:
        assert not offline
        deadline, end = time.perf_counter() + PATIENCE, self.model.num_timesteps + limit
        self._policy = None
        with self._random.own():
            if self._callback is None:
                self._start()
            self.model._total_timesteps = max(self._end, end)
            self._learn()
            while self.model.num_timesteps < end and time.perf_counter() < deadline:
                self._learn()

    def _start(self) -> None:
        """Begin new episodes."""
        if self._continued:
            warnings.warn(
                f"{self.algorithm} runs on Stable-Baselines3: it continues about as it would have, not exactly, since "
                "episodes that were under way begin anew.",
                stacklevel=6,
            )
            self._continued = False
        self.model._last_obs = None
        _, self._callback = self.model._setup_learn(1, reset_num_timesteps=False)

    def _learn(self) -> None:
        """Collect steps and learn, as ``learn`` of Stable-Baselines3 does between two looks at its clock."""
        model, before = self.model, self.model.num_timesteps
        try:
            if isinstance(model, PPO):
                self._learn_from_rollout(model)
            else:
                self._learn_from_replay(model)
        except BaseException as error:
            # New episodes begin, since some environments may have taken a step, and others not.
            self._callback = None
            if isinstance(model, PPO):
                model.num_timesteps = before
            if isinstance(error, ValueError) and not isinstance(error, RloxError):
                # What PyTorch says of a distribution whose parameters are not finite.
                self.check_finite()
            raise
        finally:
            self._count()

    def _learn_from_rollout(self, model: PPO) -> None:
        assert model.env is not None
        assert self._callback is not None
        buffer = model.rollout_buffer
        model.collect_rollouts(model.env, self._callback, buffer, n_rollout_steps=model.n_steps)
        self._forget_resets(state.columns(buffer), end=model.n_steps)
        model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
        model.train()

    def _learn_from_replay(self, model: SAC | TD3) -> None:
        env, replay, train_freq, callback = model.env, state.replay_of(model), model.train_freq, self._callback
        assert isinstance(train_freq, TrainFreq)
        assert env is not None
        assert callback is not None
        collected = model.collect_rollouts(
            env,
            train_freq=train_freq,
            action_noise=model.action_noise,
            callback=callback,
            learning_starts=model.learning_starts,
            replay_buffer=replay,
            log_interval=None,
        )
        self._forget_resets(state.columns(replay), end=replay.pos)
        if model.num_timesteps - self._forgotten > model.learning_starts:
            n = model.gradient_steps if model.gradient_steps >= 0 else collected.episode_timesteps
            if n > 0:
                model.train(batch_size=model.batch_size, gradient_steps=n)

    def _forget_resets(self, columns: Mapping[str, NDArray[Any]], *, end: int) -> None:
        """Put another step in the place of each that only reset an environment, and do not count it.

        Theirs have one row for all environments, so that none can be left out: the step before it is there twice.

        Args:
            columns: those of the rollout or the replay, ``(rows, n, ...)``.
            end: the row after the last step.
        """
        valid, self._envs.valid = np.array(self._envs.valid), []
        for t, i in np.argwhere(~valid):
            for column in columns.values():
                row = (end - len(valid) + t) % len(column)
                # A rollout knows nothing of the one before it: there, the step after it.
                column[row, i] = column[row - 1 if row or end < len(column) else 1 % len(column), i]
        self.model.num_timesteps -= int((~valid).sum())

    def _count(self) -> None:
        """Take over the episodes that have ended."""
        finished, self._envs.finished, self._envs.valid = self._envs.finished, [], []
        if finished:
            self._episodes += len(finished)
            self._recent = np.concatenate([self._recent, finished])[-RECENT:]

    def end_episodes(self) -> None:
        self._callback = None

    def metrics(self) -> dict[str, float]:
        self.check_finite()
        found = {name: float(x) for name, x in self.model.logger.name_to_value.items() if name != "train/n_updates"}
        if "train/entropy_loss" in found:
            found["policy/entropy"] = -found.pop("train/entropy_loss")
            self._in_our_units(found)
        returns, lengths = self._recent.T if len(self._recent) else (np.nan, np.nan)
        return {
            **{_NAMES.get(name, name): x for name, x in found.items()},
            "rollout/episode_return": float(np.mean(returns)),
            "rollout/episode_length": float(np.mean(lengths)),
        }

    def _in_our_units(self, found: dict[str, float]) -> None:
        """Turn entropy and standard deviation of continuous actions into those in units of half the range."""
        policy, space = self.model.policy, self.action_space
        if not isinstance(policy, ActorCriticPolicy) or not isinstance(space, gym.spaces.Box):
            return
        half = (space.high.astype(np.float64) - space.low).ravel() / 2
        found["policy/entropy"] -= float(np.log(half).sum())
        if not self.model.use_sde:
            found["train/std"] = float((policy.log_std.detach().exp().numpy() / half).mean())

    def check_finite(self) -> None:
        """Stop if a parameter is no longer finite.

        Raises:
            DivergedError: with the gradient step, and what to try.
        """
        for name, tensor in state.parameters(self.model).items():
            if not torch.isfinite(tensor).all():
                raise DivergedError(
                    f"Training diverged: parameter {name.removeprefix(state.POLICY)} is not finite at gradient step "
                    f"{self.counters.gradient_steps:,} (env step {self.counters.env_steps:,}). Lower learning_rate "
                    f"({self.config.learning_rate:g}) or scale the rewards."
                )

    def snapshot(self, *, replay: bool = True) -> dict[str, NDArray[Any]]:
        """Return copies of all that training needs to go on, but for where the environments are.

        Raises:
            DivergedError: a parameter is not finite.
        """
        self.check_finite()
        model = self.model
        kept, forgotten = {}, self._forgotten
        if not isinstance(model, PPO):
            kept = state.pack_replay(state.replay_of(model)) if replay else {}
            forgotten = forgotten if replay else model.num_timesteps
        report = {f"{_REPORT}{name}": np.array(x, np.float64) for name, x in model.logger.name_to_value.items()}
        counts = (model.num_timesteps, self._episodes, model._n_updates, forgotten)
        return {
            **state.pack_training(model),
            **kept,
            **report,
            **self._random.pack(),
            "counts": np.array(counts, np.int64),
            "recent": self._recent.copy(),
            "streams.episode": self._envs.streams(),
        }

    def take_policy(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over the networks of a snapshot alone.

        Raises:
            CheckpointError: they are those of another configuration.
        """
        state.unpack_policy(self.model, arrays)
        self._policy = None

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over a snapshot; new episodes begin at the next step.

        Raises:
            CheckpointError: it was made with another configuration.
        """
        model = self.model
        steps, episodes, updates, forgotten = (int(x) for x in state.take(arrays, "counts", np.zeros(4, np.int64)))
        episode = state.take(arrays, "streams.episode", self._envs.episode)
        if min(steps, episodes, updates, forgotten, *episode) < 0:
            raise CheckpointError("The checkpoint counts fewer than no steps: it is damaged, or was made up.")
        state.unpack_training(model, arrays)
        if not isinstance(model, PPO) and "replay_position" in arrays:
            state.unpack_replay(state.replay_of(model), arrays)
        for name in arrays:
            if name.startswith(_REPORT):
                model.logger.record(name.removeprefix(_REPORT), float(state.take(arrays, name, np.array(0.0))))
        self._random.unpack(arrays)
        model.num_timesteps, model._n_updates = steps, updates
        self._episodes, self._forgotten = episodes, forgotten
        self._recent = state.take(arrays, "recent", np.zeros((0, 2)), free=True)
        self._envs.episode = episode.copy()
        # Random actions that are not those from the beginning.
        model.action_space.seed(int(np.random.SeedSequence([self._seed, steps]).generate_state(1)[0]))
        self._callback, self._policy, self._continued = None, None, True

    def close(self) -> None:
        self._envs.close()
