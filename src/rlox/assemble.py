"""From a specification and live objects to a learner, and from a checkpoint to both."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym

from rlox.algorithms import find_algorithm, find_saved
from rlox.core.config import silenced
from rlox.data.dataset import Dataset, DatasetLike, make_dataset
from rlox.envs.envs import EnvLike, make_envs, names_module
from rlox.envs.space_json import restore
from rlox.envs.spaces import action_codec, interchangeable
from rlox.errors import CheckpointError, ConfigError, DatasetError
from rlox.regression import RegressionLearner
from rlox.runs import checkpoint
from rlox.runs.logs import CONFIG
from rlox.spec import RunSpec

Spaces = tuple[gym.Space[Any], gym.Space[Any]]


def make_learner(
    spec: RunSpec, env: EnvLike | None, data: Dataset | None, spaces: Spaces | None = None
) -> RegressionLearner:
    """Return the learner of a specification.

    Args:
        spec: what it learns and how.
        env: where to act, if anywhere.
        data: what to learn from, if there are any.
        spaces: of observations and actions, if there is neither.

    Raises:
        ConfigError: nothing to learn from, or an environment that could not be created.
        DatasetError: data that are not the environment's.
    """
    envs = None if env is None else make_envs(env, spec.config.n_envs, spec.config.vectorization_mode, spec.seed)
    place = envs or data
    if place is not None:
        spaces = place.observation_space, place.action_space
    if spaces is None:
        raise ConfigError(
            f"{spec.algorithm} needs something to learn from: pass env=, such as env='CartPole-v1', or "
            "dataset=, such as dataset='logs.npz'."
        )
    kind = "discrete" if action_codec(spaces[1]).nvec else "continuous"
    if useless := silenced(spec.config, actions=kind, dataset=data is not None):
        warnings.warn(" ".join(useless), stacklevel=4)
    steps = None if data is None else data.within(*spaces).transitions()
    algorithm = find_algorithm(spec.algorithm)[1]
    return RegressionLearner(algorithm, spec.config, *spaces, envs=envs, seed=spec.seed, data=steps)


def is_discrete(env: EnvLike | None, data: Dataset | None) -> bool:
    """Return whether the actions of an environment, or of data without one, are discrete."""
    if env is None:
        return data is not None and bool(action_codec(data.action_space).nvec)
    envs = make_envs(env)
    discrete = bool(action_codec(envs.action_space).nvec)
    envs.close()
    return discrete


class Loaded(NamedTuple):
    """What a checkpoint holds."""

    spec: RunSpec
    env: EnvLike | None
    learner: RegressionLearner
    run_dir: Path | None
    """The folder of the run whose checkpoint it is."""
    latest: bool
    """Whether it is the latest one of that run."""


def load_run(path: Path, env: EnvLike | None, dataset: DatasetLike | None) -> Loaded:
    """Return what a checkpoint holds; ``env`` and ``dataset`` take the place of what it names.

    Raises:
        CheckpointError: no checkpoint there, a torn one, or one made for other spaces than ``env``'s.
    """
    arrays, header = checkpoint.load(path)
    find_saved(header["spec"]["algorithm"], path)
    spec = RunSpec.from_dict(header["spec"])
    saved = restore(header["observation_space"]), restore(header["action_space"])
    if env is None and not names_module(spec.env):
        env = spec.env
    data = None
    if dataset is not None:
        data = make_dataset(dataset)
    elif spec.dataset:
        # Without its data the run still acts, and `train` says that they are not available.
        with contextlib.suppress(DatasetError):
            data = make_dataset(spec.dataset)
    if isinstance(env, str):
        spec = dataclasses.replace(spec, env=env)
    if isinstance(dataset, str | Path):
        spec = dataclasses.replace(spec, dataset=str(dataset))
    learner = make_learner(spec, env, data, saved)
    found = learner.observation_space, learner.action_space
    alike = interchangeable(saved[0], found[0]), saved[1] == found[1]
    for fits, was, now in zip(alike, saved, found, strict=True):
        if not fits:
            raise CheckpointError(
                f"Checkpoint '{path}' was made for the space {was}, but the environment has {now}: "
                "load it with the environment that it was trained in."
            )
    learner.restore(arrays)
    folder = path.parent if path.suffix else path
    run_dir = folder if (folder / CONFIG).exists() else None
    return Loaded(spec, env, learner, run_dir, checkpoint.is_latest(path))
