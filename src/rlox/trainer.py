"""The Trainer: the facade over a member of the family, and the one loop."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from rlox.algorithms import find_algorithm
from rlox.core.config import Config, make_config
from rlox.core.update import Metrics, init_state
from rlox.data import replay as replays
from rlox.data.collector import Collector, Episode
from rlox.data.envs import EnvLike, Envs, NoEnv, batch_of_one, make_envs
from rlox.data.replay import Replay
from rlox.data.spaces import action_codec, describe, restore
from rlox.errors import CheckpointError, ConfigError, DivergedError
from rlox.programs import compile_programs
from rlox.runs import checkpoint
from rlox.runs.evaluation import run_episodes, summarize
from rlox.runs.logs import Progress, RunLog, check_new

Callback = Callable[["Trainer", dict[str, float]], bool | None]
"""Called with the trainer and the metrics once a log interval; returning False ends the training."""
Logger = Callable[[dict[str, float]], None]
"""Called with the metrics once a log interval."""


class Trainer:
    """Trains a policy and keeps all that its training needs to go on.

    Args:
        algorithm: name of a member of ``rlox.ALGORITHMS``, in any case.
        env: an id, a ``gymnasium.Env``, a callable that makes one, or a ``VectorEnv``.
        config: the algorithm's settings, as a dict or its dataclass; None for the documented defaults.
        seed: covers networks, sampling, environments and random actions.
        callbacks: called as ``callback(trainer, metrics)`` once a log interval; one that returns False ends training.
        logger: called as ``logger(metrics)`` once a log interval.
        run_dir: new folder for configuration, metrics and checkpoints; None writes nothing.

    Raises:
        ConfigError: an unknown algorithm, environment id or setting, or a value out of range.
        SpaceError: an observation or action space that is not supported.
        RunExistsError: ``run_dir`` already holds files.
    """

    def __init__(
        self,
        algorithm: str,
        env: EnvLike | None = None,
        *,
        config: Mapping[str, Any] | Config | None = None,
        seed: int = 42,
        callbacks: Iterable[Callback] = (),
        logger: Logger | None = None,
        run_dir: str | Path | None = None,
    ):
        self.algorithm, member = find_algorithm(algorithm)
        self.config = make_config(member.config, self.algorithm, config)
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise ConfigError(f"seed={seed!r} must be a whole number of at least 0.")
        if env is None:
            raise ConfigError(f"{self.algorithm} needs something to learn from: pass env=, such as env='CartPole-v1'.")
        self.seed = int(seed)
        self.run_dir = Path(run_dir) if run_dir is not None else None
        if self.run_dir:
            check_new(self.run_dir)
        self.callbacks, self.logger = tuple(callbacks), logger
        self._env = env
        envs = make_envs(env, self.config.n_envs)
        self.observation_space, self.action_space = envs.observation_space, envs.action_space
        self._encoder, self._codec = envs.encoder, action_codec(envs.action_space)
        self._programs = compile_programs(member, self.config, envs.n)
        network, collect, evaluate, predict = np.random.SeedSequence(self.seed).spawn(4)
        network_key = jax.random.key(int(network.generate_state(1)[0]))
        self.state = init_state(self.config, self._encoder.dim, self._codec.nvec, self._codec.dim, network_key)
        self._collector = Collector(envs, self._codec, collect)
        self._eval_envs: Envs | None = None
        self._eval_seed = int(evaluate.generate_state(1)[0])
        self._predict_key = jax.random.key(int(predict.generate_state(1)[0]))
        self._replay: Replay | None = None
        self._action: Array | None = None
        self.env_steps = 0
        self.episodes = 0
        self._recent: deque[Episode] = deque(maxlen=100)
        self._metrics: Metrics = {}
        self._last: dict[str, float] = {}
        self._log: RunLog | None = None

    @property
    def gradient_steps(self) -> int:
        """Actor steps so far."""
        return int(self.state.gradient_steps)

    def train(
        self,
        total_timesteps: int,
        *,
        eval_interval: int | None = None,
        n_eval_episodes: int = 10,
        log_interval: int = 1000,
        checkpoint_interval: int = 10_000,
        progress: bool | None = None,
    ) -> dict[str, float]:
        """Learn from ``total_timesteps`` more environment steps; a second call goes on where the first ended.

        Args:
            total_timesteps: steps over all environments, rounded up to a multiple of their number.
            eval_interval: environment steps between evaluations; None for none.
            n_eval_episodes: episodes of such an evaluation.
            log_interval: environment steps between records of metrics, and between calls of callbacks and logger.
            checkpoint_interval: environment steps between checkpoints, where there is a run folder.
            progress: a live line (plain lines where there is no terminal); None shows it on a terminal only.

        Returns:
            ``mean_reward`` (mean return of the last 100 finished training episodes, nan if none finished),
            ``episodes``, ``env_steps``, ``gradient_steps``, ``seconds``, ``env_steps_per_second``, and the last
            logged losses, weight statistics and evaluation.

        Raises:
            InvalidStepError: the environment returned something that is not finite or has a wrong shape.
            DivergedError: a loss or a parameter is no longer finite.
        """
        _check_positive(
            total_timesteps=total_timesteps, n_eval_episodes=n_eval_episodes, log_interval=log_interval,
            checkpoint_interval=checkpoint_interval, eval_interval=1 if eval_interval is None else eval_interval,
        )  # fmt: skip
        begin, started = self.env_steps, time.perf_counter()
        self._gradient_steps_before = self.gradient_steps
        end = begin + total_timesteps
        every = {"log": log_interval, "save": checkpoint_interval, "eval": eval_interval or math.inf}
        due = {what: begin + interval for what, interval in every.items()}
        if self.run_dir:
            self._log = RunLog(self.run_dir, self._describe())
        try:
            with Progress(total_timesteps, progress) as bar:
                while self.env_steps < end:
                    self._step()
                    if self.env_steps < min(end, *due.values()):
                        continue
                    now = {what for what, at in due.items() if self.env_steps >= at}
                    due |= {what: self.env_steps + every[what] for what in now}
                    self._check_finite()
                    if "eval" in now:
                        self._last |= {f"eval/{k}": v for k, v in self.evaluate(n_eval_episodes).items()}
                    metrics = self._record(self.env_steps - begin, time.perf_counter() - started)
                    bar.update(self.env_steps - begin, metrics)
                    if "save" in now and self.run_dir:
                        self.save(self.run_dir)
                    if any([callback(self, metrics) is False for callback in self.callbacks]):
                        break
        except BaseException as error:
            if self.run_dir and not isinstance(error, DivergedError):
                self.save(self.run_dir)
            raise
        finally:
            if self._log:
                self._log.close()
        if self.run_dir:
            self.save(self.run_dir)
        seconds = time.perf_counter() - started
        return {
            "mean_reward": _mean([episode.episode_return for episode in self._recent]),
            "episodes": self.episodes,
            "env_steps": self.env_steps,
            "gradient_steps": self.gradient_steps,
            "seconds": seconds,
            "env_steps_per_second": (self.env_steps - begin) / seconds,
            **self._last,
        }

    def _step(self) -> None:
        """One pass of the loop: act, step the environments, store, and learn once learning has started."""
        collector = self._collector
        if not collector.started:
            collector.start()
        if self._replay is None:
            self._replay = self._new_replay()
        if self._action is not None:
            action = np.asarray(self._action)
        elif self.env_steps + 1 < self.config.learning_starts:
            action = collector.random_action()
        else:
            key, act_key = jax.random.split(self.state.key)
            self.state = self.state._replace(key=key)
            action = np.asarray(self._programs.act(self.state.actor, collector.obs, act_key))
        transition, valid, episodes = collector.step(action)
        self.env_steps += int(valid.sum())
        self.episodes += len(episodes)
        self._recent.extend(episodes)
        if self.env_steps >= max(self.config.learning_starts, self.config.batch_size):
            self.state, self._replay, self._action, self._metrics = self._programs.learn(
                self.state, self._replay, transition, valid, collector.obs
            )
        else:
            self._replay, self._action = self._programs.store(self._replay, transition, valid), None

    def evaluate(self, n_episodes: int = 10, *, deterministic: bool = True, seed: int | None = None) -> dict[str, float]:
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
        _check_positive(n_episodes=n_episodes)
        if isinstance(self._env, gym.Env | gym.vector.VectorEnv):
            envs = self._collector.envs
            self._end_episodes()
        else:
            self._eval_envs = self._eval_envs or make_envs(self._env)
            envs = self._eval_envs
        if seed is None:
            seed = self._eval_seed
        key = jax.random.key(seed)

        def policy(obs: NDArray[Any]) -> NDArray[Any]:
            nonlocal key
            if deterministic:
                return np.asarray(self._programs.mode(self.state.actor, obs))
            key, act_key = jax.random.split(key)
            return np.asarray(self._programs.act(self.state.actor, obs, act_key))

        return summarize(list(run_episodes(envs, self._codec, policy, n_episodes, seed)))

    def _new_replay(self) -> Replay:
        size, encoder, codec = self.config.buffer_size, self._encoder, self._codec
        return replays.create(size, self._collector.envs.n, encoder.dim, encoder.dtype, codec.dim, codec.dtype)

    def _end_episodes(self) -> None:
        """Let the training episodes end here, as truncated, and new ones begin at the next step."""
        if self._replay is not None:
            self._replay = replays.cut(self._replay)
        self._collector.started, self._action = False, None

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
        n = self._encoder.batch_size(obs)
        encoded = self._encoder(batch_of_one(obs) if n is None else obs, n or 1)
        if deterministic:
            action = self._programs.mode(self.state.actor, encoded)
        else:
            self._predict_key, act_key = jax.random.split(self._predict_key)
            action = self._programs.act(self.state.actor, encoded, act_key)
        decoded = self._codec.decode(np.asarray(action))
        return decoded[0] if n is None else decoded

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint of all that changes (networks, optimisers, replay, random keys, counters) to a folder.

        Returns:
            The file, moved into place whole; a checkpoint that was there is kept beside it as the previous one.

        Raises:
            DivergedError: a parameter is not finite; nothing is written.
        """
        self._check_finite()
        arrays = checkpoint.flatten(self.state, "state")
        if self._replay is not None:
            filled = int(self._replay.size.max())
            columns = jax.tree.map(lambda column: np.asarray(column)[:filled], self._replay.columns)
            arrays |= checkpoint.flatten(self._replay._replace(columns=columns), "replay")
        counters = {"env_steps": self.env_steps, "episodes": self.episodes, "recent": list(self._recent)}
        return checkpoint.save(Path(path), arrays, {**self._describe(), **counters})

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        env: EnvLike | None = None,
        callbacks: Iterable[Callback] = (),
        logger: Logger | None = None,
        run_dir: str | Path | None = None,
    ) -> Trainer:
        """Return the trainer that a checkpoint holds; ``train`` goes on where it stood, in a new episode.

        Args:
            path: folder that ``save`` or a run wrote, or the file in it.
            env: where to go on; None makes the environment of the same id, if it was given by id, and otherwise
                leaves a trainer that only predicts.
            callbacks: as in ``Trainer``.
            logger: as in ``Trainer``.
            run_dir: as in ``Trainer``; the loaded run's own folder is continued.

        Raises:
            CheckpointError: no checkpoint there, a torn one, or one made for other spaces than ``env``'s.
        """
        path = Path(path)
        arrays, info = checkpoint.load(path)
        spaces = restore(info["observation_space"]), restore(info["action_space"])
        env = info["env"] if env is None else env
        trainer = cls(
            info["algorithm"], NoEnv(*spaces) if env is None else env, config=info["config"], seed=info["seed"],
            callbacks=callbacks, logger=logger,
        )  # fmt: skip
        for saved, found in zip(spaces, (trainer.observation_space, trainer.action_space), strict=True):
            if saved != found:
                raise CheckpointError(
                    f"Checkpoint '{path}' was made for the space {saved}, but the environment has {found}: load it with "
                    "the environment that it was trained in."
                )
        trainer.run_dir = Path(run_dir) if run_dir is not None else None
        if trainer.run_dir and trainer.run_dir.resolve() != path.resolve():
            check_new(trainer.run_dir)
        trainer.state = checkpoint.unflatten(trainer.state, "state", arrays)
        if "replay.size" in arrays:
            full = trainer._new_replay()
            filled = int(arrays["replay.size"].max())
            head = full._replace(columns=jax.tree.map(lambda column: column[:filled], full.columns))
            head = checkpoint.unflatten(head, "replay", arrays)
            columns = jax.tree.map(lambda column, part: column.at[:filled].set(part), full.columns, head.columns)
            # The environments begin anew: what was last stored has no successor.
            trainer._replay = replays.cut(head._replace(columns=columns))
        trainer.env_steps, trainer.episodes = info["env_steps"], info["episodes"]
        trainer._recent.extend(Episode(*episode) for episode in info["recent"])
        # Fresh episodes, not the ones that the run has seen.
        fresh = np.random.SeedSequence([trainer.seed, trainer.env_steps])
        trainer._collector = Collector(trainer._collector.envs, trainer._codec, fresh)
        return trainer

    from_checkpoint = load

    def _describe(self) -> dict[str, Any]:
        """Return what makes this run, as plain JSON values."""
        return {
            "algorithm": self.algorithm,
            "env": self._env if isinstance(self._env, str) else None,
            "config": dataclasses.asdict(self.config),
            "seed": self.seed,
            "observation_space": describe(self.observation_space),
            "action_space": describe(self.action_space),
        }

    def _record(self, steps: int, seconds: float) -> dict[str, float]:
        """Fetch the latest metrics from the device, write them where they go, and return them."""
        self._last |= {name: float(metric) for name, metric in jax.device_get(self._metrics).items()}
        self._last |= {
            "rollout/episode_return": _mean([episode.episode_return for episode in self._recent]),
            "rollout/episode_length": _mean([episode.length for episode in self._recent]),
            "time/env_steps_per_second": steps / seconds,
            "time/gradient_steps_per_second": (self.gradient_steps - self._gradient_steps_before) / seconds,
        }
        metrics = {"env_steps": self.env_steps, "gradient_steps": self.gradient_steps, **self._last}
        if self._log:
            self._log.write(metrics)
        if self.logger:
            self.logger(metrics)
        return metrics

    def _check_finite(self) -> None:
        """Stop where a loss or a parameter is no longer finite.

        Raises:
            DivergedError: with the gradient step, and the way out.
        """
        step = int(self.state.diverged_at)
        if step < 0:
            parameters = jax.tree.leaves((self.state.actor, self.state.critic))
            if all(np.isfinite(p).all() for p in parameters):
                return
            step = self.gradient_steps
        saved = self.run_dir and (self.run_dir / checkpoint.NAME)
        kept = f" The last good state is in '{saved}'." if saved and saved.exists() else ""
        raise DivergedError(
            f"Training diverged: a loss or a parameter is not finite from gradient step {step:,} on. Lower learning_rate "
            f"({self.config.learning_rate:g}), set max_grad_norm=1.0 or scale the rewards.{kept}"
        )


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
            raise ConfigError(f"{name}={number!r} must be a whole number of at least 1.")


def _mean(values: list[float] | list[int]) -> float:
    return float(np.mean(values)) if values else math.nan
