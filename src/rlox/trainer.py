"""The Trainer: one door to everything, over a learner and the one loop."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rlox import habits, loop
from rlox.algorithms.others import only_ours
from rlox.arguments import check_positive, check_seed
from rlox.assemble import is_discrete, load_run, make_learner, named, no_env
from rlox.callbacks import Callback
from rlox.core.config import Settings
from rlox.core.state import TrainState
from rlox.data.dataset import Dataset, DatasetLike, make_dataset
from rlox.envs.envs import EnvLike, Envs, make_envs, mode_of_one
from rlox.envs.space_json import describe
from rlox.errors import ConfigError, RloxError
from rlox.files import refusing
from rlox.learner import Learner
from rlox.loggers import Loggers, LoggersLike
from rlox.policy.episodes import evaluate
from rlox.policy.policy import TrainedPolicy
from rlox.policy.recording import record, replay_dataset
from rlox.presets import TUNED
from rlox.regression import RegressionLearner
from rlox.runs import checkpoint
from rlox.runs.folder import RunFolder, last_saved, may_write
from rlox.runs.logs import CONFIG
from rlox.runs.progress import Progress
from rlox.spec import Intervals, RunSpec, evaluation_seed
from rlox.tables import Results, as_html, as_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Metrics = dict[str, float]


class Trainer:
    """Trains a policy, and keeps all that its training needs to continue.

    A context manager: leaving it closes the environments that it made, as ``close`` does.

    Args:
        algorithm: name of one of ``rlox.ALGORITHMS``, in any case; or ``"tuned"``, the best known for the environment,
            with its preset. Where none was measured, that is mpo for continuous and awr for discrete actions.
        env: an id (``module:Id`` imports the module first), a ``gymnasium.Env``, a callable that makes one, or a
            ``VectorEnv``.
        dataset: logged data: a file, a Minari id, a bundled name, a ``Dataset``, or a mapping of columns (see
            ``Dataset.from_arrays``). With an environment its spaces are the data's; without one the policy is only
            trained offline.
        config: the algorithm's settings, as a dict or its dataclass; None for the documented defaults.
        preset: a named set of settings, which a dict given as ``config`` overrides one by one: ``"paper"`` (as the
            authors ran it), ``"tuned"`` (the best known for the environment); None for the defaults.
        seed: covers networks, sampling, environments and random actions.
        callbacks: called as ``callback(trainer, metrics)`` with every record; one that returns False ends training
            (see ``rlox.callbacks``).
        logger: where records go besides the run folder: ``"csv"``, ``"trackio"``, ``"wandb"``, ``"mlflow"``, a logger
            of ``rlox.loggers``, a function that is called as ``logger(metrics)``, or a list of them.
        run_dir: new folder for configuration, metrics and checkpoints; None writes nothing.

    Raises:
        ConfigError: an unknown algorithm, environment id, setting or logger, or a value out of range.
        SpaceError: an observation or action space that is not supported.
        DatasetError: data that cannot be learned from, or are not the environment's.
        RunExistsError: ``run_dir`` already holds files.
        RunInUseError: another trainer writes to ``run_dir``.
    """

    @habits.answered
    def __init__(
        self,
        algorithm: str,
        env: EnvLike | None = None,
        *,
        dataset: DatasetLike | None = None,
        config: Mapping[str, Any] | Settings | None = None,
        preset: str | None = None,
        seed: int = 42,
        callbacks: Callback | Iterable[Callback] | None = None,
        logger: LoggersLike = None,
        run_dir: str | Path | None = None,
    ):
        if env is None and str(algorithm).lower() == TUNED:
            raise ConfigError("'tuned' is the best for learning in an environment: pass env=, or name an algorithm.")
        data = None if dataset is None else make_dataset(dataset, spaces_known=env is not None)
        spec = RunSpec.resolve(
            algorithm,
            config=config,
            preset=preset,
            env=env if isinstance(env, str) else None,
            discrete=lambda: is_discrete(env, data),
            dataset=named(dataset),
            seed=seed,
        )
        self._set_up(spec, env, Loggers(logger), make_learner(spec, env, data), callbacks, run_dir)

    @classmethod
    def from_spec(
        cls,
        spec: RunSpec,
        *,
        env: EnvLike | None = None,
        dataset: DatasetLike | None = None,
        callbacks: Callback | Iterable[Callback] | None = None,
        logger: LoggersLike = None,
        run_dir: str | Path | None = None,
    ) -> Trainer:
        """Return the trainer of a specification; ``env`` and ``dataset`` are live objects in place of its names."""
        source = spec.dataset if dataset is None else dataset
        known = env is not None or spec.env is not None
        data = None if source is None else make_dataset(source, spec.reading, spaces_known=known)
        spec = dataclasses.replace(spec, dataset=named(source))
        return cls._from_data(spec, env, data, callbacks=callbacks, logger=logger, run_dir=run_dir)

    @classmethod
    def _from_data(
        cls,
        spec: RunSpec,
        env: EnvLike | None,
        data: Dataset | None,
        *,
        callbacks: Callback | Iterable[Callback] | None = None,
        logger: LoggersLike = None,
        run_dir: str | Path | None = None,
    ) -> Trainer:
        """Return the trainer of a specification, which names the data that are given."""
        if env is None:
            env = spec.env
        else:
            spec = dataclasses.replace(spec, env=env if isinstance(env, str) else None)
        trainer = cls.__new__(cls)
        trainer._set_up(spec, env, Loggers(logger), make_learner(spec, env, data), callbacks, run_dir)
        return trainer

    def _set_up(
        self,
        spec: RunSpec,
        env: EnvLike | None,
        loggers: Loggers,
        learner: Learner,
        callbacks: Callback | Iterable[Callback] | None,
        run_dir: str | Path | None,
        folder: RunFolder | None = None,
    ) -> None:
        self._spec, self._env, self._learner = spec, env, learner
        self.callbacks: tuple[Callback, ...] = (callbacks,) if callable(callbacks) else tuple(callbacks or ())
        self.loggers = loggers
        """Where records go besides the run folder."""
        self.observation_space, self.action_space = learner.observation_space, learner.action_space
        self._no_data = ""
        """Why the data that it learned from are not there, if they should be."""
        self._eval_envs: Envs | None = None
        self._eval_seed = evaluation_seed(spec.seed)
        self.standing = loop.Standing()
        """What its training has come to."""
        self._kept: object = None
        self._latest, self._closed = True, False
        self.folder = folder
        """Where the run is written."""
        if run_dir is not None:
            try:
                self.folder = RunFolder.new(Path(run_dir))
            except RloxError:
                self.close()
                raise

    @property
    def spec(self) -> RunSpec:
        """What makes this run; frozen."""
        return self._spec

    @property
    def config(self) -> Settings:
        """The algorithm's settings; frozen, since networks and compiled programs are made of them."""
        return self._spec.config

    @config.setter
    def config(self, value: object) -> None:
        raise ConfigError("The settings of a trainer cannot be changed: make another with Trainer(..., config=...).")

    @property
    def run_dir(self) -> Path | None:
        """The run's folder; None if nothing is written."""
        return self.folder.path if self.folder else None

    @property
    def last_metrics(self) -> Metrics:
        """The last record of each metric."""
        return dict(self.standing.metrics)

    @property
    def policy(self) -> TrainedPolicy:
        """A copy of the policy as it is."""
        return self._learner.policy

    @property
    def state(self) -> TrainState:
        """Networks, optimisers and random key; its arrays are used up by the next ``train``."""
        return self._ours("state", "its state is that library's").state.train

    @property
    def env_steps(self) -> int:
        """Environment steps so far."""
        return self._learner.counters.env_steps

    @property
    def gradient_steps(self) -> int:
        """Actor steps so far."""
        return self._learner.counters.gradient_steps

    @property
    def episodes(self) -> int:
        """Finished training episodes so far."""
        return self._learner.counters.episodes

    def train(
        self, total_timesteps: int | None = None, *, progress: bool | None = None, **intervals: Unpack[Intervals]
    ) -> Metrics:
        """Learn from environment steps; a second call continues where the first ended.

        Args:
            total_timesteps: that many more, over all environments, rounded up to a multiple of their number; None
                finishes what an earlier call, or the loaded run, was to do, and does nothing if nothing is left of it.
            progress: a live line (plain lines without a terminal or notebook); None shows it there only.
            intervals: ``eval_interval``, ``n_eval_episodes``, ``log_interval``, ``checkpoint_interval``,
                ``checkpoint_minutes`` and ``checkpoint_replay``, as ``Budget`` has them; what is not given stays as it
                was.

        Returns:
            ``mean_reward`` (mean return of the last 100 finished training episodes, nan if none finished),
            ``episodes``, ``env_steps``, ``gradient_steps``, ``seconds``, ``env_steps_per_second``, and the last
            logged losses, weight statistics and evaluation.

        Raises:
            ConfigError: no environment, a number below 1, or none although there never was one.
            InvalidStepError: the environment returned something that is not finite or has a wrong shape.
            DivergedError: a loss or a parameter is no longer finite.
        """
        if self._learner.envs is None:
            raise no_env(self._spec.env, "train")
        learner = self._learner
        if isinstance(learner, RegressionLearner) and learner.state.pretrained and not learner.can_learn_offline:
            warnings.warn(
                f"{self._no_data or 'The data that this run learned from are not there.'} Training continues without "
                "them.",
                stacklevel=2,
            )
        cursor = self._begin("total_timesteps", self.env_steps, total_timesteps, dict(intervals))
        return Results(loop.train(self, learner, cursor, progress))

    def train_offline(
        self, gradient_steps: int | None = None, *, progress: bool | None = None, **intervals: Unpack[Intervals]
    ) -> Metrics:
        """Learn from the data alone; a second call continues where the first ended, and so does ``train``.

        Args:
            gradient_steps: that many more actor steps, rounded up to whole rounds if it learns in rounds; None
                finishes what an earlier call, or the loaded run, was to do, and does nothing if nothing is left of it.
            progress: as in ``train``.
            intervals: as in ``train``, in gradient steps.

        Returns:
            As ``train`` does.

        Raises:
            ConfigError: no data, a number below 1, none although there never was one, or an evaluation without
                an environment.
            DivergedError: a loss or a parameter is no longer finite.
        """
        learner, cursor = self._begin_offline(gradient_steps, **intervals)
        return Results(loop.train(self, learner, cursor, progress))

    def _begin_offline(self, n: int | None = None, **how: Any) -> tuple[RegressionLearner, loop.Cursor]:
        """Extend the budget of offline learning; returns the learner, and where the loop stands."""
        learner = self._ours("train_offline", "it learns from an environment only")
        if not learner.can_learn_offline:
            raise ConfigError(
                self._no_data
                or "train_offline learns from data: pass Trainer(..., dataset=), such as dataset='logs.npz'."
            )
        return learner, self._begin("gradient_steps", self.gradient_steps, n, how)

    def _begin(self, unit: str, at: int, n: int | None, how: dict[str, Any]) -> loop.Cursor:
        """Extend the budget; returns where the loop stands."""
        if not self._latest and self.run_dir is None:
            raise ConfigError(
                "This is not the run's latest checkpoint: continue in a new folder, by Trainer.load(path, run_dir=...)."
            )
        if self._closed:
            raise ConfigError("This trainer was closed: load its run, or make another.")
        budget, end = self._spec.budget.extended(unit, at, n, how)
        if budget.eval_interval is not None and self._env is None:
            raise no_env(self._spec.env, "eval_interval")
        self._spec = dataclasses.replace(self._spec, budget=budget)
        if self.folder:
            self.folder.begin()
        cursor = loop.Cursor.start(offline=unit == "gradient_steps", begin=at, end=end, budget=budget)
        before = self.standing.cursor
        if before is not None and before.offline == cursor.offline and at < before.end:
            return before.until(cursor)
        return cursor

    @habits.answered
    def evaluate(self, n_episodes: int = 10, *, deterministic: bool = True, seed: int | None = None) -> Metrics:
        """Run whole episodes and return their statistics.

        An id or a callable is evaluated on an environment of its own. A ready-made environment is shared with
        training: the training episode in it ends there, as truncated.

        Args:
            n_episodes: how many.
            deterministic: the policy's mode; otherwise its samples.
            seed: of the episodes' resets; None for one that follows from the trainer's seed.

        Returns:
            ``mean_reward``, ``std_reward``, ``min_reward``, ``max_reward``, ``mean_length``, ``n_episodes``.

        Raises:
            ConfigError: there is no environment.
        """
        check_positive(n_episodes=n_episodes)
        if self._env is None or self._learner.envs is None:
            raise no_env(self._spec.env, "evaluate")
        seed = self._eval_seed if seed is None else seed
        check_seed(seed)
        if isinstance(self._env, gym.Env | gym.vector.VectorEnv):
            self._learner.end_episodes()
            envs = self._learner.envs
        elif self._eval_envs is not None and self._eval_envs.takes_seeds and not self._eval_envs.is_lost:
            envs = self._eval_envs
        else:
            if self._eval_envs is not None:
                self._eval_envs.close()
            timeout = self.config.env_timeout
            # One that hangs can be told only from another process.
            mode = mode_of_one(self.config.vectorization_mode) if timeout is None else self.config.vectorization_mode
            envs = self._eval_envs = make_envs(self._env, 1, mode, seed, timeout=timeout)
        return Results(evaluate(self.policy, envs, n_episodes, deterministic=deterministic, seed=seed))

    def evaluate_offline(
        self,
        dataset: DatasetLike,
        *,
        deterministic: bool = True,
        gradient_steps: int = 6_000,
        seed: int = 0,
        progress: bool | None = None,
    ) -> Metrics:
        """Estimate how good the policy is before it runs, from data that it was not trained on.

        Args and results are those of ``policy.estimates.evaluate_offline``, and
        ``weight/effective_sample_size``: the share of the data that the algorithm's weights use, if they are of the
        data's actions.

        Raises:
            DatasetError: data that cannot be used, or are not of the policy's spaces.
            ConfigError: ``gradient_steps`` below 1.
            DivergedError: a value of the fitted Q functions is not finite.
        """
        from rlox.policy.estimates import data_for, evaluate_offline

        check_positive(gradient_steps=gradient_steps)
        check_seed(seed)
        learner = self._ours("evaluate_offline", "its probabilities are not told, nor weights of data")
        policy = learner.policy
        data = data_for(policy, make_dataset(dataset, self._spec.reading, spaces_known=True))
        with Progress(gradient_steps, progress) as bar:
            found = evaluate_offline(
                policy,
                data,
                gamma=self.config.gamma,
                deterministic=deterministic,
                gradient_steps=gradient_steps,
                seed=seed,
                report=lambda steps: bar.update(steps, {}),
            )
        share = learner.share_in_use(data.transitions(), seed)
        return Results(found if share is None else {**found, "weight/effective_sample_size": share})

    @habits.alone
    def predict(self, obs: Any, *, deterministic: bool = True) -> NDArray[Any]:
        """Return the policy's action for an observation, or a batch of them, as ``Policy.predict`` does."""
        return self.policy.predict(obs, deterministic=deterministic)

    def log_prob(self, obs: Any, action: Any) -> NDArray[np.float64]:
        """Return log-probabilities of actions, as ``Policy.log_prob`` does."""
        return self.policy.log_prob(obs, action)

    def export_onnx(self, path: str | Path) -> Path:
        """Write the policy to an ONNX file, as ``Policy.export_onnx`` does.

        Raises:
            DivergedError: a parameter is not finite.
        """
        self._learner.check_finite()
        return self.policy.export_onnx(path, about={"algorithm": self._spec.algorithm, "env": self._spec.env})

    def plot(self, metric: str | None = None, *, over: Literal["steps", "seconds"] = "steps") -> Figure:
        """Return a picture of the run so far, which Jupyter shows: returns over steps, or another of its metrics.

        Args:
            metric: its name; None for returns.
            over: steps, or seconds of training, evaluations included.

        Raises:
            ConfigError: there is no run folder, no such metric, no records yet, or the extra rlox[plots] is missing.
        """
        if self.run_dir is None:
            raise ConfigError(
                "plot draws what is in a run's folder: make the trainer by Trainer(..., run_dir='runs/1')."
            )
        if not (self.run_dir / CONFIG).exists():
            raise ConfigError(f"'{self.run_dir}' has no records yet: train first.")
        from rlox.runs.history import read_run
        from rlox.runs.plots import figure

        return figure([read_run(self.run_dir)], metric, over=over)

    def record(self, n_steps: int, *, deterministic: bool = False, seed: int = 0) -> Dataset:
        """Return whole episodes of the policy in its environment, as ``policy.recording.record`` does.

        Raises:
            ConfigError: there is no environment, or a ready-made one that steps several at once.
        """
        check_positive(n_steps=n_steps)
        check_seed(seed)
        if self._env is None or self._learner.envs is None:
            raise no_env(self._spec.env, "record")
        ready_made = isinstance(self._env, gym.Env | gym.vector.VectorEnv)
        envs = (
            self._learner.envs
            if ready_made
            else make_envs(self._env, 1, mode_of_one(self.config.vectorization_mode), seed)
        )
        if ready_made:
            self._learner.end_episodes()
        try:
            name = self._spec.env or "recorded"
            return record(self.policy, envs, n_steps, deterministic=deterministic, seed=seed, name=name)
        finally:
            if not ready_made:
                envs.close()

    def replay_dataset(self) -> Dataset:
        """Return all steps that were kept, in order of time, one environment after another.

        In each environment, the last episode is truncated if it was not over, and of a full replay the first is
        without its beginning; both count as episodes.

        Raises:
            ConfigError: there are none yet.
            SpaceError: observations are not of a Box, and kept encoded only.
        """
        learner = self._ours("replay_dataset", "its replay is that library's")
        replay = learner.stored()
        if replay is None:
            raise ConfigError("The replay holds no steps: nothing was learned from an environment yet.")
        return replay_dataset(replay, learner.encoder, learner.codec, f"replay of {self._spec.env or 'a run'}")

    def save(self, path: str | Path, *, replay: bool = True) -> Path:
        """Write a checkpoint of all that changes (networks, optimisers, replay, random keys, counters) to a folder.

        Nothing of the run is changed by it.

        Args:
            path: the folder; made if it is not there.
            replay: whether the replay is in it. Without it the file is small, and a loaded run continues with an empty
                replay.

        Returns:
            The file, moved into place whole; the two checkpoints that were there before are kept beside it.

        Raises:
            DivergedError: a parameter is not finite; nothing is written.
            RunInUseError: another trainer writes to that folder.
            RunExistsError: it is the folder of another run.
            ConfigError: it cannot be written.
        """
        folder = Path(path)
        with refusing(folder), may_write(folder, self.folder, self._at()) as own:
            return checkpoint.save(folder, *self.make_checkpoint(replay=replay, run=own))

    def keep(self) -> None:
        """Write a checkpoint to the run's folder, if anything has changed since the last one.

        What cannot be written is said by a warning.
        """
        now = self._learner.counters, self._spec, self.standing.untimed(), dict(self.loggers.ids)
        if self.folder is None or now == self._kept:
            return
        make = functools.partial(self.make_checkpoint, replay=self._spec.budget.checkpoint_replay)
        self.folder.save(make, self._at())
        self._kept = None if self.folder.failed else now

    def _at(self) -> str:
        return f"env step {self.env_steps:,} and gradient step {self.gradient_steps:,}"

    def make_checkpoint(self, *, replay: bool, run: bool = True) -> tuple[checkpoint.Arrays, dict[str, Any]]:
        """Return the arrays and the header of a checkpoint.

        Args:
            replay: whether it has the replay.
            run: whether it is one of the run's folder, in which a loaded run continues.

        Raises:
            DivergedError: a parameter is not finite.
        """
        about = {
            "standing": self.standing.to_dict(),
            "logged": self.folder.logged if self.folder else 0,
            "replay": replay,
            "run": run,
            "data": self._learner.data_digest,
            "loggers": self.loggers.ids,
        }
        return self._learner.snapshot(replay=replay), {**self.describe(), **about}

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        env: EnvLike | None = None,
        dataset: DatasetLike | None = None,
        config: Mapping[str, Any] | None = None,
        budget: Mapping[str, Any] | None = None,
        callbacks: Callback | Iterable[Callback] | None = None,
        logger: LoggersLike = None,
        run_dir: str | Path | None = None,
    ) -> Trainer:
        """Return the trainer that a checkpoint holds; ``train`` continues as if it had never stopped.

        A run's folder, or the latest checkpoint in it, continues in that folder as soon as it is trained; an older
        one needs a ``run_dir`` of its own. What ``save`` wrote elsewhere writes nothing by itself.

        The environments are brought back to where they were, by a reset with the same seed and the same actions. An
        episode that does not come back (see ``docs/reliability.md``) is cut there, with a warning.

        Args:
            path: folder that ``save`` or a run wrote, or the file in it.
            env: where to continue; None makes the environment of the same id, if it was given by id. A module is
                never imported because a file names it: ``module:Id`` has to be given again.
            dataset: what to learn from; None opens the same file, if it was given by one that is still there.
            config: settings to change, such as ``{"learning_rate": 1e-4}``; those that the run's state is made with
                (networks, replay, number of environments) cannot be.
            budget: fields of ``Budget`` to change, such as ``{"total_timesteps": 200_000}``: where ``train()`` ends,
                counted from the run's beginning.
            callbacks: as in ``Trainer``.
            logger: as in ``Trainer``.
            run_dir: a new folder to continue in.

        Raises:
            CheckpointError: no checkpoint there, a torn one, or one made for other spaces than ``env``'s.
            ConfigError: a setting that cannot be changed.
        """
        loggers = Loggers(logger)
        loaded = load_run(Path(path), env, dataset, config or {}, budget or {})
        own = loaded.run_dir if loaded.latest else None
        continues = run_dir is None or (own is not None and Path(run_dir).resolve() == own.resolve())
        folder = None
        if own is not None and continues:
            folder = RunFolder(own, logged=loaded.logged, stamp=loaded.stamp)
            loggers.ids = loaded.logger_ids
        trainer = cls.__new__(cls)
        new = None if continues else run_dir
        trainer._set_up(loaded.spec, loaded.env, loggers, loaded.learner, callbacks, new, folder)
        trainer.standing, trainer._no_data = loaded.standing, loaded.no_data
        if folder is not None:
            trainer._kept = loaded.learner.counters, loaded.saved_spec, loaded.standing.untimed(), dict(loggers.ids)
            folder.last_saved = last_saved(folder.path, trainer._at())
        trainer._latest = loaded.latest or loaded.run_dir is None
        return trainer

    from_checkpoint = load

    if not TYPE_CHECKING:
        __getattr__ = habits.missing_attribute

    def close(self) -> None:
        """Close the environments that this trainer made, and let others write to its folder; it cannot train again.

        Environments that it was given stay open.
        """
        self._closed = True
        self.loggers.close()
        if self.folder:
            self.folder.release()
        self._learner.close()
        if self._eval_envs:
            self._eval_envs.close()
            self._eval_envs = None

    def _about(self) -> dict[str, object]:
        spec, last, learner = self._spec, self.standing.metrics, self._learner
        found = {
            "algorithm": spec.algorithm,
            "env": spec.env or (learner.envs and "given"),
            "dataset": spec.dataset or (learner.can_learn_offline and "given") or None,
            "env_steps": self.env_steps,
            "gradient_steps": self.gradient_steps,
            "last return": last.get("eval/mean_reward", last.get("rollout/episode_return")),
            "run_dir": self.run_dir,
        }
        return {name: value for name, value in found.items() if value is not None}

    def __repr__(self) -> str:
        return as_line("Trainer", self._about())

    def _repr_html_(self) -> str:
        return as_html("Trainer", self._about())

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def describe(self) -> dict[str, Any]:
        """Return what makes this run, and its spaces, as plain JSON values."""
        spaces = {"observation_space": describe(self.observation_space), "action_space": describe(self.action_space)}
        return {"spec": self._spec.to_dict(), **spaces}

    def describe_run(self) -> dict[str, Any]:
        """Return what ``config.json`` says."""
        about = self.describe()
        return {**about.pop("spec"), **about}

    def _ours(self, what: str, why: str) -> RegressionLearner:
        """Return the learner for what only ours can do."""
        if not isinstance(self._learner, RegressionLearner):
            raise only_ours(what, self._spec.algorithm, why)
        return self._learner
