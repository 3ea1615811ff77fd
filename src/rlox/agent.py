"""What a trained policy does: it acts, and is evaluated, recorded and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from rlox.core.config import Config
from rlox.data.dataset import Dataset, DatasetLike, make_dataset
from rlox.data.record import record, replay_dataset
from rlox.envs.envs import EnvLike, Envs, NoEnv, batch_of_one, make_envs
from rlox.envs.spaces import describe
from rlox.errors import ConfigError
from rlox.learner import Learner
from rlox.policy.episodes import run_episodes, summarize
from rlox.runs.logs import Progress


class Agent:
    """A policy and its environment, which ``Trainer`` trains."""

    algorithm: str
    """Name of the member of the family."""
    config: Config
    """Its settings."""
    env_id: str | None
    """Id of the environment, where it was given by one."""
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    _learner: Learner
    _env: EnvLike | NoEnv
    _eval_envs: Envs | None
    _eval_seed: int
    _predict_key: Array

    def evaluate(
        self, n_episodes: int = 10, *, deterministic: bool = True, seed: int | None = None
    ) -> dict[str, float]:
        """Run whole episodes and return their statistics.

        An id or a callable is evaluated on an environment of its own. A ready-made environment is shared with
        training: the training episode that it stands in ends there, as truncated.

        Args:
            n_episodes: how many.
            deterministic: the policy's mode; otherwise its samples.
            seed: of the episodes' resets; None for one that follows from the trainer's seed.

        Returns:
            ``mean_reward``, ``std_reward``, ``min_reward``, ``max_reward``, ``mean_length``, ``n_episodes``.
        """
        check_positive(n_episodes=n_episodes)
        learner = self._learner
        if isinstance(self._env, gym.Env | gym.vector.VectorEnv):
            envs = learner.envs
            learner.end_episodes()
        else:
            mode = "envpool" if self.config.vectorization_mode == "envpool" else "sync"
            envs = self._eval_envs = self._eval_envs or make_envs(self._env, 1, mode, self._eval_seed)
        seed = self._eval_seed if seed is None else seed
        key = jax.random.key(seed)
        actor, normalizer = learner.state.actor, learner.state.normalizer

        def policy(obs: NDArray[Any]) -> NDArray[Any]:
            nonlocal key
            if deterministic:
                return np.asarray(learner.programs.mode(actor, normalizer, obs))
            action, key = learner.programs.act(actor, normalizer, obs, key)
            return np.asarray(action)

        return summarize(list(run_episodes(envs, learner.codec, policy, n_episodes, seed)))

    def evaluate_offline(
        self,
        dataset: DatasetLike,
        *,
        deterministic: bool = True,
        gradient_steps: int = 6_000,
        seed: int = 0,
        progress: bool | None = None,
    ) -> dict[str, float]:
        """Estimate from logged data, best such that the policy was not trained on, how good it is before it runs.

        Args:
            dataset: as in ``Trainer``.
            deterministic: the policy's mode; otherwise its samples.
            gradient_steps: of the fitted Q functions.
            seed: of the fit and the bootstrap samples.
            progress: a live line (plain lines where there is no terminal); None shows it on a terminal only.

        Returns:
            Values are discounted returns from the data's first states, at the ``gamma`` of the run.

            ``fqe/value``, ``fqe/low``, ``fqe/high``: fitted Q evaluation with its 95% interval, and ``fqe/td_error``;
            ``data/value``: what the data's own episodes returned;
            ``behavior/action_distance``, ``behavior/log_prob``, ``weight/effective_sample_size``: how far the policy
            is from the data, and the share of the data that its weights use;
            where the data have ``action_log_probs``, and the actions are choices or sampled:
            ``wis/value``, ``wis/low``, ``wis/high``: weighted importance sampling, and
            ``wis/effective_sample_size``, the share of the episodes that speaks for the policy.

        Raises:
            DatasetError: data that cannot be used, or are not of the policy's spaces.
            ConfigError: ``gradient_steps`` below 1.
            DivergedError: a value of the fitted Q functions is not finite.
        """
        from rlox.policy.estimates import evaluate_offline

        check_positive(gradient_steps=gradient_steps)
        data = make_dataset(dataset).within(self.observation_space, self.action_space)
        with Progress(gradient_steps, progress) as bar:
            return evaluate_offline(
                self._learner, data, deterministic=deterministic, gradient_steps=gradient_steps, seed=seed,
                report=lambda steps: bar.update(steps, {}),
            )  # fmt: skip

    def predict(self, obs: Any, *, deterministic: bool = True) -> NDArray[Any]:
        """Return the action that the policy takes, as the environment accepts it.

        Args:
            obs: an observation of the space, or a batch of them along a leading axis (for Dict and Tuple spaces, of
                each entry).
            deterministic: the policy's mode; otherwise a sample, from a stream that the trainer's seed starts.

        Returns:
            An action of ``action_space``, or a batch of them.

        Raises:
            InvalidStepError: an observation of another shape, or not finite.
        """
        learner = self._learner
        n = learner.encoder.batch_size(obs)
        encoded = learner.encoder(batch_of_one(obs) if n is None else obs, 1 if n is None else n)
        actor, normalizer = learner.state.actor, learner.state.normalizer
        if deterministic:
            action = learner.programs.mode(actor, normalizer, encoded)
        else:
            action, self._predict_key = learner.programs.act(actor, normalizer, encoded, self._predict_key)
        decoded = learner.codec.decode(np.asarray(action))
        return decoded[0] if n is None else decoded

    def record(self, n_steps: int, *, deterministic: bool = False, seed: int = 0) -> Dataset:
        """Return whole episodes of the policy in its environment, ``n_steps`` steps or as many more as the last needs.

        Args:
            n_steps: least number of steps.
            deterministic: the policy's modes; otherwise its samples, with their ``action_log_probs``.
            seed: of the first reset, and of the samples.

        Raises:
            ConfigError: there is no environment, or a ready-made one that steps several at once.
        """
        check_positive(n_steps=n_steps)
        if isinstance(self._env, NoEnv | gym.vector.VectorEnv):
            raise ConfigError("record needs one environment to act in: pass an id, a gymnasium.Env or a callable.")
        if isinstance(self._env, gym.Env):
            self._learner.end_episodes()
        env: Any = self._env if isinstance(self._env, gym.Env) else make_envs(self._env).env

        learner, key = self._learner, jax.random.key(seed)
        state = learner.state

        def act(obs: Any) -> tuple[Any, float | None]:
            nonlocal key
            if deterministic:
                return self.predict(obs), None
            encoded = learner.encoder(batch_of_one(obs), 1)
            coded, key = learner.programs.act(state.actor, state.normalizer, encoded, key)
            action = learner.codec.decode(np.asarray(coded))
            return action[0], float(self.log_prob(batch_of_one(obs), action)[0])

        return record(env, act, n_steps, seed, name=self.env_id or "recorded")

    def replay_dataset(self) -> Dataset:
        """Return the steps that the replay holds, in order of time, one environment after another.

        Raises:
            ConfigError: it holds none yet.
            DatasetError: observations are not of a Box, and known in the networks' encoding only.
        """
        replay = self._learner.replay
        if replay is None:
            raise ConfigError("The replay holds no steps: nothing was learned from an environment yet.")
        return replay_dataset(replay, self.observation_space, self.action_space, f"replay of {self.env_id}")

    def log_prob(self, obs: Any, action: Any) -> NDArray[np.float64]:
        """Return the log-probability with which the policy, sampled, takes actions: ``(B,)``.

        Of continuous actions it is that of a density per unit of the environment inside the bounds, and of the
        probability to be clipped there at a bound.

        Args:
            obs: a batch of observations.
            action: a batch of the environment's actions.

        Raises:
            InvalidStepError: an observation of another shape, or not finite.
        """
        learner = self._learner
        coded = learner.codec.encode(np.asarray(action))
        encoded = learner.encoder(obs, len(coded))
        state = learner.state
        log_prob = learner.programs.log_prob(state.actor, state.normalizer, encoded, coded)
        return np.asarray(log_prob, np.float64) - learner.codec.log_scale(coded)

    def export_onnx(self, path: str | Path) -> Path:
        """Write the policy to an ONNX file that takes raw observations and returns the environment's actions.

        Where onnxruntime is installed, the file is compared with ``predict`` on 64 observations before it is there.
        Its inputs and outputs have a leading batch axis of any length:

        ``obs``: observations ``(batch, *observation_space.shape)``; of Dict and Tuple spaces an input for each entry,
        such as ``obs.goal`` or ``obs.0``. float32 for Boxes of floats, int64 for Discrete and MultiDiscrete,
        otherwise the space's own type.
        ``action``: what ``predict`` returns, ``(batch, *action_space.shape)``, in the space's type.
        ``logits``, the components' side by side, for choices; ``mean`` and ``std`` in units of half the range
        around its centre for continuous actions: what ``predict(deterministic=False)`` samples from.

        Args:
            path: file to write, ending in .onnx.

        Returns:
            The file, moved into place whole.

        Raises:
            ConfigError: another ending, a folder that does not exist, or the extra rlox[onnx] is missing.
            DivergedError: a parameter is not finite.
            ExportError: the file and ``predict`` disagree.
        """
        from rlox.policy.onnx import export_onnx

        learner = self._learner
        learner.check_finite()
        about = {
            "algorithm": self.algorithm, "env": self.env_id or "",
            "observation_space": describe(self.observation_space), "action_space": describe(self.action_space),
        }  # fmt: skip
        actor, normalizer = learner.state.actor, learner.state.normalizer
        return export_onnx(Path(path), actor, normalizer, self.observation_space, learner.codec, self.predict, about)


def check_positive(**numbers: int | None) -> None:
    """Refuse numbers that are not whole or below 1.

    Raises:
        ConfigError: the name and the number.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
            raise ConfigError(f"{name}={number!r} must be a whole number of at least 1.")
