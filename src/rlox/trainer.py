"""The Trainer: the facade over a member of the family, and the one loop."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlox.agent import Agent, check_positive
from rlox.algorithms import find_algorithm, find_saved
from rlox.core.config import Config, make_config
from rlox.core.state import TrainState
from rlox.data.dataset import DatasetLike, make_dataset
from rlox.envs.envs import EnvLike, Envs, NoEnv, make_envs, names_module
from rlox.envs.spaces import describe, interchangeable, restore
from rlox.errors import CheckpointError, ConfigError, DatasetError, DivergedError
from rlox.learner import Learner
from rlox.presets import with_preset
from rlox.runs import checkpoint
from rlox.runs.logs import Progress, RunLog, check_new

Callback = Callable[["Trainer", dict[str, float]], bool | None]
"""Called with the trainer and the metrics once a log interval; returning False ends the training."""
Logger = Callable[[dict[str, float]], None]
"""Called with the metrics once a log interval."""


class Trainer(Agent):
    """Trains a policy and keeps all that its training needs to go on.

    Args:
        algorithm: name of a member of ``rlox.ALGORITHMS``, in any case.
        env: an id (``module:Id`` imports the module that registers it), a ``gymnasium.Env``, a callable that makes
            one, or a ``VectorEnv``.
        dataset: logged data: a file, a ``Dataset``, or a mapping of columns (see ``Dataset.from_arrays``). With an
            environment its spaces are the data's; without one the policy is only trained offline.
        config: the algorithm's settings, as a dict or its dataclass; None for the documented defaults.
        preset: a named set of settings, which a dict given as ``config`` overrides one by one: ``"paper"`` (as the
            authors ran it), ``"tuned"`` (the best known for the environment); None for the defaults.
        seed: covers networks, sampling, environments and random actions.
        callbacks: called as ``callback(trainer, metrics)`` once a log interval; one that returns False ends training.
        logger: called as ``logger(metrics)`` once a log interval.
        run_dir: new folder for configuration, metrics and checkpoints; None writes nothing.

    Raises:
        ConfigError: an unknown algorithm, environment id or setting, or a value out of range.
        SpaceError: an observation or action space that is not supported.
        DatasetError: data that cannot be learned from, or are not the environment's.
        RunExistsError: ``run_dir`` already holds files.
    """

    def __init__(
        self,
        algorithm: str,
        env: EnvLike | None = None,
        *,
        dataset: DatasetLike | None = None,
        config: Mapping[str, Any] | Config | None = None,
        preset: str | None = None,
        seed: int = 42,
        callbacks: Iterable[Callback] = (),
        logger: Logger | None = None,
        run_dir: str | Path | None = None,
    ):
        self.algorithm, member = find_algorithm(algorithm)
        self.env_id = env if isinstance(env, str) else None
        """Id of the environment, where it was given by one."""
        self.preset = preset
        data = None if dataset is None else make_dataset(dataset)
        if env is None:
            if data is None:
                raise ConfigError(
                    f"{self.algorithm} needs something to learn from: pass env=, such as env='CartPole-v1', or "
                    "dataset=, such as dataset='logs.npz'."
                )
            env = NoEnv(data.observation_space, data.action_space)
        if preset is not None:
            config = with_preset(self.algorithm, preset, env, config)
        self.config = make_config(member.config, self.algorithm, config)
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise ConfigError(f"seed={seed!r} must be a whole number of at least 0.")
        self.seed = int(seed)
        self.run_dir = Path(run_dir) if run_dir is not None else None
        if self.run_dir:
            check_new(self.run_dir)
        self.callbacks, self.logger = tuple(callbacks), logger
        self.dataset_path = str(dataset) if isinstance(dataset, str | Path) else None
        """File of the data, where they were given by one."""
        self._env = env
        n_envs = 1 if isinstance(env, NoEnv) else self.config.n_envs
        envs = make_envs(env, n_envs, self.config.vectorization_mode, self.seed)
        self.observation_space, self.action_space = envs.observation_space, envs.action_space
        steps = None if data is None else data.within(self.observation_space, self.action_space).transitions()
        self._learner = Learner(member, self.config, envs, self.seed, steps)
        self._eval_envs: Envs | None = None
        self._eval_seed, predict_seed = (int(s) for s in np.random.SeedSequence([self.seed, 1]).generate_state(2))
        self._predict_key = jax.random.key(predict_seed)
        self._last: dict[str, float] = {}

    @property
    def state(self) -> TrainState:
        """Networks, optimisers, random key and counters."""
        return self._learner.state

    @property
    def env_steps(self) -> int:
        """Environment steps so far."""
        return self._learner.env_steps

    @property
    def gradient_steps(self) -> int:
        """Actor steps so far."""
        return int(self._learner.state.gradient_steps)

    @property
    def episodes(self) -> int:
        """Finished training episodes so far."""
        return self._learner.episodes

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
            ConfigError: a number below 1.
            InvalidStepError: the environment returned something that is not finite or has a wrong shape.
            DivergedError: a loss or a parameter is no longer finite.
        """
        check_positive(total_timesteps=total_timesteps)
        learner = self._learner
        if learner.pretrained and not learner.has_data:
            warnings.warn(
                "The data that this run learned from are not at hand, so that training goes on without them: "
                "Trainer.load(path, dataset=...) keeps them in the mix.",
                stacklevel=2,
            )
        every = {"log": log_interval, "save": checkpoint_interval, "eval": eval_interval}
        return self._loop(
            lambda _: learner.step(), lambda: learner.env_steps, total_timesteps, every, n_eval_episodes, progress
        )

    def train_offline(
        self,
        gradient_steps: int,
        *,
        eval_interval: int | None = None,
        n_eval_episodes: int = 10,
        log_interval: int = 1000,
        checkpoint_interval: int = 100_000,
        progress: bool | None = None,
    ) -> dict[str, float]:
        """Learn from the data alone; a second call goes on where the first ended, and so does ``train``.

        Args:
            gradient_steps: actor steps; where learning goes in rounds, rounded up to whole ones.
            eval_interval: gradient steps between evaluations in the environment; None for none.
            n_eval_episodes: episodes of such an evaluation.
            log_interval: gradient steps between records of metrics, and between calls of callbacks and logger.
            checkpoint_interval: gradient steps between checkpoints, where there is a run folder.
            progress: a live line (plain lines where there is no terminal); None shows it on a terminal only.

        Returns:
            As ``train`` does.

        Raises:
            ConfigError: a number below 1; no data; an evaluation without an environment.
            DivergedError: a loss or a parameter is no longer finite.
        """
        check_positive(gradient_steps=gradient_steps)
        learner = self._learner
        if not learner.has_data:
            raise ConfigError(
                "train_offline learns from data: pass Trainer(..., dataset=), such as dataset='logs.npz'."
            )
        if eval_interval is not None and isinstance(self._env, NoEnv):
            raise ConfigError(
                "eval_interval needs an environment to evaluate in: pass Trainer(..., env=), or leave it out."
            )
        every = {"log": log_interval, "save": checkpoint_interval, "eval": eval_interval}
        return self._loop(
            learner.step_offline, lambda: self.gradient_steps, gradient_steps, every, n_eval_episodes, progress
        )

    def _loop(
        self,
        advance: Callable[[int], None],
        position: Callable[[], int],
        total: int,
        intervals: dict[str, int | None],
        n_eval_episodes: int,
        progress: bool | None,
    ) -> dict[str, float]:
        """Advance until ``position`` is ``total`` further; ``advance`` is told how far it is to what is due next."""
        check_positive(
            n_eval_episodes=n_eval_episodes, log_interval=intervals["log"], checkpoint_interval=intervals["save"],
            eval_interval=1 if intervals["eval"] is None else intervals["eval"],
        )  # fmt: skip
        learner = self._learner
        steps_before, updates_before, started = self.env_steps, self.gradient_steps, time.perf_counter()
        begin = position()
        end = begin + total
        every = {what: interval or math.inf for what, interval in intervals.items()}
        due = {what: begin + interval for what, interval in every.items()}
        with contextlib.ExitStack() as stack:
            sinks = [stack.enter_context(RunLog(self.run_dir, self._describe()))] if self.run_dir else []
            sinks += [self.logger] if self.logger else []
            bar = stack.enter_context(Progress(total, progress))
            stack.push(self._save_on_error)
            while (at := position()) < end:
                upcoming = min(end, *due.values())
                advance(int(upcoming - at))
                if (at := position()) < upcoming:
                    continue
                now = {what for what, when in due.items() if at >= when}
                due |= {what: at + every[what] for what in now}
                learner.check_finite()
                if "eval" in now:
                    self._last |= {f"eval/{k}": v for k, v in self.evaluate(n_eval_episodes).items()}
                metrics = self._fetch_metrics(steps_before, updates_before, time.perf_counter() - started)
                for sink in sinks:
                    sink(metrics)
                bar.update(at - begin, metrics)
                if "save" in now and self.run_dir:
                    self.save(self.run_dir)
                if False in [callback(self, metrics) for callback in self.callbacks]:
                    break
        if self.run_dir:
            self.save(self.run_dir)
        seconds = time.perf_counter() - started
        return {
            "mean_reward": self._last["rollout/episode_return"],
            "episodes": self.episodes,
            "env_steps": self.env_steps,
            "gradient_steps": self.gradient_steps,
            "seconds": seconds,
            "env_steps_per_second": (self.env_steps - steps_before) / seconds,
            **self._last,
        }

    def _fetch_metrics(self, begin: int, updates_before: int, seconds: float) -> dict[str, float]:
        """Return the last update's metrics, fetched from the device, and those of the rollout."""
        learner = self._learner
        self._last |= learner.report.fetch() if learner.report else {}
        returns, lengths = zip(*learner.recent, strict=True) if learner.recent else ([math.nan], [math.nan])
        self._last |= {
            "rollout/episode_return": float(np.mean(returns)),
            "rollout/episode_length": float(np.mean(lengths)),
            "time/env_steps_per_second": (self.env_steps - begin) / seconds,
            "time/gradient_steps_per_second": (self.gradient_steps - updates_before) / seconds,
        }
        return {"env_steps": self.env_steps, "gradient_steps": self.gradient_steps, **self._last}

    def _save_on_error(self, kind: type[BaseException] | None, *_: object) -> None:
        """Keep what was learned before an error; a state that diverged is not worth keeping."""
        if kind is not None and self.run_dir:
            with contextlib.suppress(DivergedError):
                self.save(self.run_dir)

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint of all that changes (networks, optimisers, replay, random keys, counters) to a folder.

        Returns:
            The file, moved into place whole; a checkpoint that was there is kept beside it as the previous one.

        Raises:
            DivergedError: a parameter is not finite; nothing is written.
        """
        arrays, info = self._learner.snapshot()
        return checkpoint.save(Path(path), arrays, {**self._describe(), **info})

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        env: EnvLike | None = None,
        dataset: DatasetLike | None = None,
        callbacks: Iterable[Callback] = (),
        logger: Logger | None = None,
        run_dir: str | Path | None = None,
    ) -> Trainer:
        """Return the trainer that a checkpoint holds; ``train`` goes on where it stood, in a new episode.

        Args:
            path: folder that ``save`` or a run wrote, or the file in it.
            env: where to go on; None makes the environment of the same id, if it was given by id, and otherwise
                leaves a trainer that only predicts. An id that names a module (``module:Id``) has to be passed again.
            dataset: what to learn from offline; None opens the same file, if the data were given by one that is still
                there.
            callbacks: as in ``Trainer``.
            logger: as in ``Trainer``.
            run_dir: as in ``Trainer``; the loaded run's own folder is continued.

        Raises:
            CheckpointError: no checkpoint there, a torn one, or one made for other spaces than ``env``'s.
        """
        path = Path(path)
        arrays, info = checkpoint.load(path)
        spaces = restore(info["observation_space"]), restore(info["action_space"])
        find_saved(info["algorithm"], path)
        if env is None:
            env = NoEnv(*spaces, info["env"]) if names_module(info["env"]) else info["env"]
        if dataset is None and info["dataset"]:
            # Without its data the run still acts, and `train` says that they are gone.
            with contextlib.suppress(DatasetError):
                dataset = make_dataset(info["dataset"])
        trainer = cls(
            info["algorithm"], NoEnv(*spaces) if env is None else env, dataset=dataset, config=info["config"],
            seed=info["seed"], callbacks=callbacks, logger=logger,
        )  # fmt: skip
        trainer.env_id = trainer.env_id or (env.env_id if isinstance(env, NoEnv) else None)
        trainer.preset, trainer.dataset_path = info["preset"], trainer.dataset_path or info["dataset"]
        found_spaces = trainer.observation_space, trainer.action_space
        alike = interchangeable(spaces[0], found_spaces[0]), spaces[1] == found_spaces[1]
        for fits, saved, found in zip(alike, spaces, found_spaces, strict=True):
            if not fits:
                raise CheckpointError(
                    f"Checkpoint '{path}' was made for the space {saved}, but the environment has {found}: "
                    "load it with the environment that it was trained in."
                )
        trainer.run_dir = Path(run_dir) if run_dir is not None else None
        if trainer.run_dir and trainer.run_dir.resolve() != path.resolve():
            check_new(trainer.run_dir)
        trainer._learner.restore(arrays, info, trainer.seed)
        return trainer

    from_checkpoint = load

    def _describe(self) -> dict[str, Any]:
        """Return what makes this run, as plain JSON values."""
        return {
            "algorithm": self.algorithm,
            "env": self.env_id,
            "dataset": self.dataset_path,
            "preset": self.preset,
            "config": dataclasses.asdict(self.config),
            "seed": self.seed,
            "observation_space": describe(self.observation_space),
            "action_space": describe(self.action_space),
        }
