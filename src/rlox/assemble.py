"""From a specification and live objects to a learner, and from a checkpoint to both."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from rlox import compilation
from rlox.algorithms import ALGORITHMS, find_algorithm, find_saved
from rlox.algorithms.others import Other, OtherConfig
from rlox.collecting import CollectingLearner
from rlox.core.algorithm import Algorithm
from rlox.core.config import ActionKind, Config, Settings, silenced
from rlox.core.transition import Transition
from rlox.data.bundled import is_bundled
from rlox.data.dataset import Dataset, DatasetLike, make_dataset
from rlox.envs.envs import EnvLike, Envs, make_envs, mode_of_one, names_module, unnamed_module
from rlox.envs.remote import Worksite
from rlox.envs.space_json import restore
from rlox.envs.spaces import action_codec, interchangeable, obs_encoder, same_actions
from rlox.errors import CheckpointError, ConfigError, DatasetError, one_line
from rlox.learner import Learner
from rlox.loggers import read_ids
from rlox.loop import Standing
from rlox.modules import IMPORTED
from rlox.policy.policy import Policy, TrainedPolicy, check_networks
from rlox.regression import RegressionLearner
from rlox.runs import checkpoint
from rlox.runs.logs import CONFIG
from rlox.spec import RunSpec

if TYPE_CHECKING:
    from rlox.sb3.learner import OtherLearner

Spaces = tuple[gym.Space[Any], gym.Space[Any]]


def make_learner(
    spec: RunSpec,
    env: EnvLike | None,
    data: Dataset | None,
    spaces: Spaces | None = None,
    n_streams: int | None = None,
    env_steps: int = 0,
) -> Learner:
    """Return the learner of a specification.

    Args:
        spec: what it learns and how.
        env: where to act, if anywhere.
        data: what to learn from, if there are any.
        spaces: of observations and actions of a run that goes on; an environment's come first.
        n_streams: of a replay whose environments are not here; None for as many as the settings ask for.
        env_steps: of the run so far.

    Raises:
        ConfigError: nothing to learn from, or an environment that could not be created.
        DatasetError: data that are not the environment's.
        SpaceError: spaces that the algorithm does not take.
    """
    compilation.prepare(spec.config)
    name, algorithm = find_algorithm(spec.algorithm)
    if data is not None and not isinstance(algorithm, Algorithm):
        raise ConfigError(
            f"{name} learns from an environment only: leave the dataset out, or use iql, awac, crr, mpo, awr, marwil "
            "or bc, which learn from data."
        )
    with contextlib.ExitStack() as opened:
        envs = None
        if env is not None:
            envs = _make_envs(spec, env, env_steps)
            opened.callback(envs.close)
        guesses = ""
        if envs is not None:
            spaces = envs.observation_space, envs.action_space
        elif data is not None and spaces is None:
            spaces, guesses = (data.observation_space, data.action_space), data.guesses
        if spaces is None:
            raise ConfigError(
                f"{spec.algorithm} needs something to learn from: pass env=, such as env='CartPole-v1', or "
                "dataset=, such as dataset='logs.npz'."
            )
        kind = _kind(spaces[1])
        if n_streams is None:  # a run that goes on did learn with them
            spec.config.check_actions(kind)
        doubts = silenced(spec.config, actions=kind, dataset=data is not None)
        if data is not None and isinstance(spec.config, Config):
            doubts += spec.config.doubts_on_data()
        if guesses:
            doubts.append(guesses)
        if doubts:
            warnings.warn(" ".join(doubts), stacklevel=4)
        steps = None if data is None else data.within(*spaces).transitions()
        if isinstance(algorithm, Algorithm):
            learner = _make_ours(algorithm, spec, env, *spaces, envs=envs, data=steps, n_streams=n_streams)
        else:
            learner = _make_other(spec, *spaces, envs=envs, n_streams=n_streams or 1)
        opened.pop_all()
    return learner


def _kind(action_space: gym.Space[Any]) -> ActionKind:
    return "discrete" if action_codec(action_space).nvec else "continuous"


def _make_ours(
    algorithm: Algorithm,
    spec: RunSpec,
    env: EnvLike | None,
    *spaces: gym.Space[Any],
    envs: Envs | None,
    data: Transition | None,
    n_streams: int | None,
) -> RegressionLearner:
    """Return the learner of an algorithm of ours, whose environments are here or at collectors.

    Raises:
        ConfigError: collectors for an environment that is ready-made, or for several at once.
    """
    config: Any = spec.config
    if envs is None or not config.n_workers:
        n = None if envs else n_streams or config.n_envs * max(config.n_workers, 1)
        return RegressionLearner(algorithm, config, *spaces, envs=envs, seed=spec.seed, data=data, n_streams=n)
    if not isinstance(env, str) and (isinstance(env, gym.Env | VectorEnv) or not callable(env)):
        raise ConfigError(
            f"n_workers={config.n_workers} collectors make environments of their own: pass an id or a callable that "
            "makes one, and not a ready-made environment."
        )
    if envs.n > 1:
        raise ConfigError(
            f"n_workers={config.n_workers} collectors make n_envs={config.n_envs} environments each, but the callable "
            f"given as env makes a VectorEnv that steps {envs.n}: pass a callable that makes one, and n_envs={envs.n}."
        )
    site = Worksite(env, config.n_envs, config.vectorization_mode, config.env_timeout, spec.seed, tuple(IMPORTED))
    return CollectingLearner(algorithm, config, envs, site, seed=spec.seed, data=data)


def _make_other(
    spec: RunSpec, *spaces: gym.Space[Any], envs: Envs | None, n_streams: int = 1, acts_only: bool = False
) -> OtherLearner:
    """Return the learner of an algorithm of another library.

    Raises:
        ConfigError: that is not installed.
    """
    try:
        from rlox.sb3.learner import OtherLearner
    except ImportError as error:
        raise ConfigError(
            f"{spec.algorithm} needs the extra rlox[compare]: pip install '.[compare]' in a clone of rlox "
            f"({one_line(error)})."
        ) from None
    assert isinstance(spec.config, OtherConfig)
    return OtherLearner(
        spec.algorithm, spec.config, *spaces, envs=envs, seed=spec.seed, n_streams=n_streams, acts_only=acts_only
    )


def _make_envs(spec: RunSpec, env: EnvLike, env_steps: int) -> Envs:
    config = spec.config
    if getattr(config, "n_workers", 0):
        mode = mode_of_one(config.vectorization_mode)
        return make_envs(env, 1, mode)  # For its spaces; those of the collectors are elsewhere.
    # EnvPool takes seeds only here: a run that goes on must not draw again what it has drawn.
    seed = int(np.random.SeedSequence([spec.seed, env_steps]).generate_state(1)[0]) if env_steps else spec.seed
    return make_envs(env, config.n_envs, config.vectorization_mode, seed, timeout=config.env_timeout)


def named(dataset: object) -> str | None:
    """Return how a run names its data: a file by its full path, so that it is found from any folder."""
    if not isinstance(dataset, str | Path):
        return None
    is_path = not is_bundled(str(dataset)) and Path(dataset).exists()
    return str(Path(dataset).resolve()) if is_path else str(dataset)


def is_discrete(env: EnvLike | None, data: Dataset | None) -> bool:
    """Return whether the actions of an environment, or of data without one, are discrete."""
    if env is None:
        return data is not None and bool(action_codec(data.action_space).nvec)
    envs = make_envs(env)
    try:
        return bool(action_codec(envs.action_space).nvec)
    finally:
        envs.close()


def no_env(env_id: str | None, what: str) -> ConfigError:
    """Return the error that something needs an environment."""
    if env_id is not None and names_module(env_id):
        return unnamed_module(env_id)
    return ConfigError(f"{what} needs an environment: pass env= to Trainer or to Trainer.load, or --env ID.")


class Loaded(NamedTuple):
    """What a checkpoint holds."""

    spec: RunSpec
    saved_spec: RunSpec
    """As the checkpoint has it."""
    env: EnvLike | None
    learner: Learner
    standing: Standing
    run_dir: Path | None
    """The folder of the run whose checkpoint it is."""
    latest: bool
    """Whether it is the latest one of that run."""
    logged: int
    """Bytes of the run's metrics at that moment."""
    stamp: tuple[int, ...] | None
    """Of the latest checkpoint of that folder."""
    logger_ids: dict[str, str]
    """By what its loggers find it again."""
    no_data: str
    """Why the data that it learned from are not there; nothing if they are, or it had none."""


def load_run(
    path: Path,
    env: EnvLike | None,
    dataset: DatasetLike | None,
    settings: Mapping[str, Any],
    budget: Mapping[str, Any],
) -> Loaded:
    """Return what a checkpoint holds; what is given takes the place of what it names.

    Raises:
        CheckpointError: no checkpoint there, a torn one, or one made for other spaces than ``env``'s.
        ConfigError: ``settings`` that a run that continues cannot change.
    """
    folder = path.parent if path.suffix == ".safetensors" else path
    # Before it is read: what is written meanwhile is noticed.
    stamp = checkpoint.stamp(folder)
    arrays, header = checkpoint.load(path)
    was, standing, logged, saved = _read_header(path, header)
    logger_ids = read_ids(path, header)
    n_streams = _check_sizes(path, arrays, was, saved)
    spec = was.continued(settings, budget)
    if env is None and not names_module(spec.env):
        env = spec.env
    data, no_data = _find_data(spec, dataset)
    if env is not None:
        spec = dataclasses.replace(spec, env=env if isinstance(env, str) else None)
    if dataset is not None:
        spec = dataclasses.replace(spec, dataset=named(dataset))
    learner = make_learner(spec, env, data, saved, n_streams, _steps_in(arrays))
    try:
        _check_spaces(path, saved, (learner.observation_space, learner.action_space))
        _check_streams(path, _streams_in(arrays), learner, spec.config)
        if spec.config != was.config:
            spec.config.check_actions(_kind(learner.action_space))
        learner.restore(arrays)
    except BaseException:
        learner.close()
        raise
    _warn_of_what_is_missing(path, header, learner)
    return Loaded(
        spec=spec,
        saved_spec=was,
        env=env,
        learner=learner,
        standing=standing,
        run_dir=folder if header.get("run", (folder / CONFIG).exists()) else None,
        latest=checkpoint.is_latest(path),
        logged=logged,
        stamp=stamp,
        logger_ids=logger_ids,
        no_data=no_data,
    )


def _read_header(path: Path, header: Mapping[str, Any]) -> tuple[RunSpec, Standing, int, Spaces]:
    try:
        find_saved(header["spec"]["algorithm"], path)
        saved = restore(header["observation_space"]), restore(header["action_space"])
        standing = Standing.from_dict(header["standing"]) if "standing" in header else Standing()
        logged = int(header.get("logged", 0))
        if logged < 0:
            raise ConfigError(f"logged={logged} is below 0.")
        return RunSpec.from_dict(header["spec"]), standing, logged, saved
    except CheckpointError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"Checkpoint '{path}' cannot be used: {one_line(error)}") from None


def _check_sizes(path: Path, arrays: checkpoint.Arrays, spec: RunSpec, spaces: Spaces) -> int:
    """Return the number of streams; refuse settings that ask for more than the arrays hold.

    Nothing was allocated yet.

    Raises:
        CheckpointError: they do.
    """
    held = sum(array.size for name, array in arrays.items() if name.startswith(("train.actor.", "train.policy.")))
    # Images of a Dict pass convolutions there, which have fewer weights.
    folded = isinstance(spec.config, OtherConfig) and isinstance(spaces[0], gym.spaces.Dict)
    n_inputs = 0 if folded else obs_encoder(spaces[0]).dim
    check_networks(path, held, spec.config, n_inputs, action_codec(spaces[1]))
    n, n_envs = _streams_in(arrays), spec.config.n_envs * max(getattr(spec.config, "n_workers", 0), 1)
    if (n is not None and n_envs not in (1, n)) or n_envs > 10_000:
        raise CheckpointError(f"Checkpoint '{path}' says n_envs={spec.config.n_envs}, but holds {n or 1}.")
    return n_envs if n is None else n


def _streams_in(arrays: checkpoint.Arrays) -> int | None:
    """Return the number of streams of a checkpoint; None if nothing in it is of each."""
    found = [len(arrays[name]) for name in ("streams.episode", "replay.size") if name in arrays and arrays[name].ndim]
    return found[0] if found else None


def _check_streams(path: Path, held: int | None, learner: Learner, config: Settings) -> None:
    """Refuse a ready-made environment that steps another number than the checkpoint has.

    Raises:
        CheckpointError: it does.
    """
    n = None if learner.envs is None or getattr(config, "n_workers", 0) else learner.envs.n
    if None not in (held, n) and held != n:
        raise CheckpointError(
            f"Checkpoint '{path}' is of {held} {'environment' if held == 1 else 'environments at once'}, but the one "
            f"given steps {n}: pass one that steps {held}."
        )


def _steps_in(arrays: checkpoint.Arrays) -> int:
    """Return the environment steps of a checkpoint, ours or another library's."""
    for name, ndim in (("env_steps", 0), ("counts", 1)):
        if name in arrays and arrays[name].ndim == ndim and arrays[name].size:
            return max(int(arrays[name].flat[0]), 0)
    return 0


def load_policy(path: Path) -> TrainedPolicy:
    """Return the policy of a run's folder or of a checkpoint; no replay, optimiser or environment is read.

    Raises:
        CheckpointError: there is none, or it is torn.
        ConfigError: it needs another library that is missing.
    """
    saved = checkpoint.header(path).get("spec")
    name = saved.get("algorithm") if isinstance(saved, dict) else None
    if not isinstance(ALGORITHMS.get(str(name)), Other):
        return Policy.load(path)
    arrays, header = checkpoint.load(path, only=("train.policy.",))
    spec, _, _, spaces = _read_header(path, header)
    _check_sizes(path, arrays, spec, spaces)
    learner = _make_other(spec, *spaces, envs=None, acts_only=True)
    learner.take_policy(arrays)
    return learner.policy


def _find_data(spec: RunSpec, dataset: DatasetLike | None) -> tuple[Dataset | None, str]:
    """Return a run's data, or why they are not there: without them it still acts."""
    if dataset is not None:
        return make_dataset(dataset, spec.reading, spaces_known=True), ""
    if spec.dataset is None:
        return None, ""
    why = "A saved run opens no path with '..' in it."
    if ".." not in Path(spec.dataset).parts:
        try:
            return make_dataset(spec.dataset, spec.reading, spaces_known=True), ""
        except DatasetError as error:
            why = one_line(error)
    return None, (
        f"The data that the run learned from, '{spec.dataset}', cannot be used. {why} Name them again: dataset= of "
        "Trainer.load, or --dataset."
    )


def _check_spaces(path: Path, saved: Spaces, found: Spaces) -> None:
    alike = interchangeable(saved[0], found[0]), same_actions(saved[1], found[1])
    for fits, was, now in zip(alike, saved, found, strict=True):
        if not fits:
            raise CheckpointError(
                f"Checkpoint '{path}' was made for the space {was}, but the environment has {now}: "
                "load it with the environment that it was trained in."
            )


def _warn_of_what_is_missing(path: Path, header: Mapping[str, Any], learner: Learner) -> None:
    if not header.get("replay", True) and learner.forgot:
        warnings.warn(
            f"Checkpoint '{path}' was made without its replay: training continues with an empty one, and not as it "
            "would have.",
            stacklevel=4,
        )
    if header.get("data") is not None and learner.data_digest not in (None, header["data"]):
        warnings.warn(
            f"The data are not those that the run of '{path}' has learned from: training continues with these (in "
            "rounds, with those in its replay), and not as it would have.",
            stacklevel=4,
        )
