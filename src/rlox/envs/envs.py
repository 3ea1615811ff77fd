"""Environments of every make behind one face: ``n`` streams, reset when they end, true last observations kept."""

from __future__ import annotations

import contextlib
import copy
import functools
import multiprocessing
import os
import pickle
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from rlox.envs.spaces import batch_of_one
from rlox.envs.streams import Place, Stream, Trace, five
from rlox.errors import ConfigError, InvalidStepError, WorkerDiedError, did_you_mean, one_line
from rlox.modules import import_named
from rlox.runs import interrupts

EnvLike = str | gym.Env[Any, Any] | VectorEnv[Any, Any, Any] | Callable[[], Any]


class Step(NamedTuple):
    """What one step of ``n`` environments gave. Observations are batches as Gymnasium has them, ``(n, ...)``."""

    reward: NDArray[np.float32]
    next_obs: Any
    """Where the actions led, also at the end of an episode."""
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    """False if an environment only reset itself, so that there is no transition."""
    obs: Any
    """Where the next actions are taken, after any reset; the same object as ``next_obs`` if nothing was reset."""

    @property
    def ended(self) -> NDArray[np.bool_]:
        """In which environments an episode ended with this step."""
        return (self.terminated | self.truncated) & self.valid


_STEPPED: weakref.WeakValueDictionary[int, Envs] = weakref.WeakValueDictionary()
"""By the ``id`` of an environment, who made it and steps it."""


class Envs:
    """``n`` environments that reset themselves in the step in which an episode ends.

    Args:
        env: one environment, or several.
        numbered: whether each of several is a ``Stream``; a single environment is made one.
        takes_seeds: False if seeds were given when they were made.
        owned: whether ``close`` closes them.
        timeout: seconds that a step or a reset may take, if they are in processes of their own.

    Raises:
        InvalidStepError: an environment returned something else than Gymnasium says, or a reward that is not finite.
        WorkerDiedError: a process that steps environments is gone.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any],
        *,
        numbered: bool = False,
        takes_seeds: bool = True,
        owned: bool = True,
        timeout: float | None = None,
    ):
        self.env = env if isinstance(env, VectorEnv) else Stream(env)
        self.numbered = numbered or not isinstance(env, VectorEnv)
        """Whether its episodes are numbered, so that the place of each environment can be found again."""
        self.takes_seeds, self.owned, self._timeout = takes_seeds, owned, timeout
        self._claimed = self._claim() if owned else []
        self.is_vector = isinstance(env, VectorEnv)
        self.n: int = env.num_envs if isinstance(env, VectorEnv) else 1
        self.observation_space: gym.Space[Any] = (
            env.single_observation_space if isinstance(env, VectorEnv) else env.observation_space
        )
        self.action_space: gym.Space[Any] = env.single_action_space if isinstance(env, VectorEnv) else env.action_space
        self.autoreset = (env.metadata or {}).get("autoreset_mode", AutoresetMode.NEXT_STEP)
        if self.is_vector and takes_seeds and "autoreset_mode" not in (env.metadata or {}):
            warnings.warn(
                f"The {type(env).__name__} does not say when it resets: it is taken for one that does so in the step "
                "after the end of an episode. If not, set metadata['autoreset_mode'] (gymnasium.vector.AutoresetMode).",
                stacklevel=2,
            )
        self.steps = 0
        self._resetting = np.zeros(self.n, bool)
        self._dead = ""

    def _claim(self) -> list[int]:
        """Refuse an environment that is stepped already, by this or another; return the ids of those that it steps.

        Raises:
            ConfigError: a callable returned it twice.
        """
        made = self.env.envs if isinstance(self.env, SyncVectorEnv) and self.numbered else [self.env]
        ours = [getattr(env, "unwrapped", env) for env in made]
        found = [id(env) for env in ours]
        if len({*found}) < len(ours) or any(each in _STEPPED for each in found):
            raise ConfigError(
                f"The callable given as env returned the same {type(ours[0]).__name__} twice: it must make a new one "
                "each time. If there is only one, pass it itself, and close the trainer that had it."
            )
        _STEPPED.update(dict.fromkeys(found, self))
        return found

    def check(self) -> None:
        """Refuse to go on after a process that steps environments has failed.

        Raises:
            WorkerDiedError: one has.
        """
        if self._dead:
            raise WorkerDiedError(self._dead)

    @property
    def is_lost(self) -> bool:
        """Whether a process that steps environments has failed, so that nobody knows where their episodes are."""
        return bool(self._dead)

    def reset(self, seed: int | None, *, n_steps: int = 1) -> Any:
        """Start new episodes everywhere; returns their first observations.

        It may take as long as ``n_steps`` steps.
        """
        seed = seed if self.takes_seeds else None
        try:
            with self._alive():
                if isinstance(self.env, AsyncVectorEnv):
                    self.env.reset_async(seed=seed)
                    limit = None if self._timeout is None else self._timeout * n_steps
                    obs, _ = self.env.reset_wait(timeout=limit)
                else:
                    obs, _ = self.env.reset(seed=seed)
        except InvalidStepError as error:
            raise self._named(error) from error.__cause__
        self._resetting[:] = False
        return obs if self.is_vector else self._batch_of_one(obs)

    def go_to(self, places: Sequence[Place]) -> Any:
        """Bring each environment to its place; returns the observations there.

        From there on, episodes are numbered. Environments whose episodes cannot be start new ones, with a seed that
        follows from the first place.
        """
        if not self.numbered:
            return self.reset(places[0].reset_seed)
        with self._alive():
            if isinstance(self.env, Stream):
                self.env.place = places[0]
            else:
                _several(self.env).set_attr("place", list(places))
        longest = max(len(place.actions) for place in places)
        return self.reset(None, n_steps=1 + longest)

    def traces(self) -> list[Trace]:
        """Return what each environment has been through since its last reset, if its episodes are numbered.

        Nothing is known any more once a process that steps environments has failed.
        """
        if isinstance(self.env, Stream):
            return [self.env.trace]
        if self.is_lost:
            return []
        with self._alive():
            return list(_several(self.env).get_attr("trace"))

    def step(self, action: NDArray[Any]) -> Step:
        """Step every environment with ``(n, *shape)`` actions of the single action space."""
        self.steps += 1
        try:
            return self._step_vector(action) if self.is_vector else self._step_single(action)
        except InvalidStepError as error:
            raise self._named(error) from error.__cause__

    def _step_single(self, action: NDArray[Any]) -> Step:
        raw, reward, terminated, truncated, _ = self.env.step(action[0])
        next_obs = self._batch_of_one(raw)
        obs = self._batch_of_one(self.env.reset()[0]) if terminated or truncated else next_obs
        flags = np.array([terminated], bool), np.array([truncated], bool)
        return Step(self._reward(reward), next_obs, *flags, np.ones(1, bool), obs)

    def _batch_of_one(self, obs: Any) -> Any:
        with self.checked():
            return batch_of_one(self.observation_space, obs)

    def _step_vector(self, action: NDArray[Any]) -> Step:
        with self._alive():
            obs, reward, terminated, truncated, info = five(self._ask(action))
        next_obs = obs
        terminated, truncated = np.asarray(terminated, bool), np.asarray(truncated, bool)
        ended = terminated | truncated
        valid = ~self._resetting
        if self.autoreset == AutoresetMode.NEXT_STEP:
            # The step after an end only resets: its action is ignored and its reward belongs to nothing.
            self._resetting = ended
        elif ended.any() and self.autoreset == AutoresetMode.SAME_STEP:
            next_obs = copy.deepcopy(obs)
            for i in np.flatnonzero(ended):
                _set_row(next_obs, i, _final_obs(info)[i])
        elif ended.any():
            next_obs = copy.deepcopy(obs)
            with self._alive():
                obs = self.env.reset(options={"reset_mask": ended})[0]
        return Step(self._reward(reward), next_obs, terminated, truncated, valid, obs)

    def _ask(self, action: NDArray[Any]) -> Any:
        if not isinstance(self.env, AsyncVectorEnv):
            return self.env.step(action)
        self.env.step_async(action)
        return self.env.step_wait(timeout=self._timeout)

    def _reward(self, reward: Any) -> NDArray[np.float32]:
        try:
            with np.errstate(over="ignore"):
                array = np.asarray(reward, np.float32).reshape(-1)
        except (TypeError, ValueError):
            array = np.empty(0, np.float32)
        if array.shape != (self.n,) or not np.isfinite(array).all():
            raise InvalidStepError(
                f"returned reward {reward!r}: "
                f"it must be {'a finite number' if self.n == 1 else f'{self.n} finite numbers'}."
            )
        return array

    @contextlib.contextmanager
    def checked(self) -> Iterator[None]:
        """Say which step returned an observation that cannot be used."""
        try:
            yield
        except InvalidStepError as error:
            which = "" if error.row is None or self.n == 1 else f" (number {error.row} of 0 to {self.n - 1})"
            raise InvalidStepError(f"{self._now}{which} returned a bad observation: {error}") from None

    def _named(self, error: InvalidStepError) -> InvalidStepError:
        """Return an error that begins with what an environment "returned", after which step that was."""
        told = str(error)
        return InvalidStepError(f"{self._now} {told}" if told.startswith("returned ") else told)

    @property
    def _now(self) -> str:
        return f"Step {self.steps:,} of the environment" if self.steps else "The reset of the environment"

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        """Say so if a worker process is gone, or does not answer; it is not asked again."""
        self.check()
        try:
            yield
        except multiprocessing.TimeoutError:
            self._dead = (
                f"An environment did not answer within env_timeout={self._timeout:g} s at step {self.steps:,}: it "
                "hangs, or is slower than that."
            )
            raise WorkerDiedError(self._dead) from None
        except (EOFError, ConnectionResetError, BrokenPipeError) as error:
            if not isinstance(self.env, AsyncVectorEnv):  # It is the environment's own.
                raise
            self._dead = (
                f"A process that steps environments died at step {self.steps:,} ({type(error).__name__}): it was "
                "killed, ran out of memory, or crashed below Python. Load the last checkpoint to continue."
            )
            raise WorkerDiedError(self._dead) from None
        except Exception as error:
            if isinstance(self.env, AsyncVectorEnv) and None in self.env.parent_pipes:
                self._dead = (
                    f"An environment raised an error at step {self.steps:,} ({one_line(error)}), and its process has "
                    "ended. Load the last checkpoint to continue."
                )
            raise

    def close(self) -> None:
        """Close the environments and end their processes, unless they belong to someone else."""
        if not self.owned:
            return
        for each in self._claimed:
            _STEPPED.pop(each, None)
        if isinstance(self.env, AsyncVectorEnv):
            # They ignore the signal that Gymnasium would end them with.
            for process in self.env.processes:
                process.kill()
            # Gymnasium still waits for the answer of one that has died.
            with contextlib.suppress(EOFError, ConnectionError), warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*while waiting for a pending call.*")
                self.env.close(terminate=True)
            self.env.closed = True
        else:
            self.env.close()


def _final_obs(info: Any) -> Any:
    try:
        return info["final_obs"]
    except (KeyError, TypeError):
        raise InvalidStepError(
            "The vector environment resets itself in the step in which an episode ends, and its info has no "
            "'final_obs', the observations before that: add it, or use another autoreset_mode."
        ) from None


def _several(env: VectorEnv[Any, Any, Any]) -> SyncVectorEnv | AsyncVectorEnv:
    assert isinstance(env, SyncVectorEnv | AsyncVectorEnv)
    return env


def _set_row(batch: Any, i: int | np.integer[Any], obs: Any) -> None:
    """Write one observation into row ``i`` of a batch."""
    if isinstance(batch, dict):
        for key, part in batch.items():
            _set_row(part, i, obs[key])
    elif isinstance(batch, tuple):
        for part, entry in zip(batch, obs, strict=True):
            _set_row(part, i, entry)
    else:
        batch[i] = obs


def make_envs(
    env: EnvLike, n_envs: int = 1, mode: str = "sync", seed: int = 0, *, timeout: float | None = None
) -> Envs:
    """Return environments from an id, an environment, a vector environment, or a callable that makes one.

    Args:
        env: what to step; the id may be ``module:Id``, whose module is imported and registers it.
        n_envs: how many to make of an id or a callable.
        mode: ``sync`` steps them one after another, ``async`` in processes of their own, ``envpool`` in EnvPool.
        seed: for EnvPool, which takes seeds only when it makes environments.
        timeout: seconds that a step or a reset may take in processes of their own; None for as long as it takes.

    Raises:
        ConfigError: an unknown id (Gymnasium's suggestion is kept), something that is no environment, or ``n_envs``
            that does not fit a ready-made environment.
    """
    if isinstance(env, gym.Env | VectorEnv):
        n = env.num_envs if isinstance(env, VectorEnv) else 1
        if n_envs not in (1, n):
            raise ConfigError(
                f"n_envs={n_envs}, but the environment given is ready-made and steps {n}: leave n_envs out, "
                "or pass an id or a callable, of which rlox makes several."
            )
        if timeout is not None and not isinstance(env, AsyncVectorEnv):
            warnings.warn(
                f"env_timeout={timeout:g} has no effect on a {type(env).__name__}, which is stepped in this process: "
                "pass an id or a callable with vectorization_mode='async', or a gymnasium.vector.AsyncVectorEnv.",
                stacklevel=2,
            )
        return Envs(env, owned=False, timeout=timeout)
    if mode == "envpool":
        return _make_envpool(env, n_envs, seed)
    make = _maker(env)
    if mode == "async":
        # Not forked: JAX runs threads, whose locks a copy of this process would never be released.
        worker = functools.partial(_make_in_worker, make, os.getpid())
        try:
            made = AsyncVectorEnv([worker] * n_envs, autoreset_mode=AutoresetMode.SAME_STEP, context="forkserver")
        except (EOFError, ConnectionResetError, BrokenPipeError):
            raise ConfigError(
                "An environment could not be created in a process of its own, which says above why; "
                "vectorization_mode='sync' makes it in this one."
            ) from None
        return Envs(made, numbered=True, timeout=timeout)
    if n_envs == 1:
        return Envs(make())
    streams = [functools.partial(_make_stream, make)] * n_envs
    return Envs(SyncVectorEnv(streams, autoreset_mode=AutoresetMode.SAME_STEP), numbered=True)


def mode_of_one(mode: str) -> str:
    """Return how a single environment is made: EnvPool has ids that Gymnasium does not know."""
    return "envpool" if mode == "envpool" else "sync"


def _make_envpool(env: EnvLike, n_envs: int, seed: int) -> Envs:
    try:
        import envpool
    except ImportError:
        raise ConfigError(
            "vectorization_mode='envpool' needs the extra rlox[envpool]: pip install '.[envpool]' in a clone of rlox."
        ) from None
    known = envpool.list_all_envs()
    if env not in known:
        raise ConfigError(
            f"EnvPool has no environment {env!r}.{did_you_mean(str(env), known)} vectorization_mode='async' steps "
            "Gymnasium's own in processes."
        )
    threads = min(n_envs, os.cpu_count() or 1)
    with _without_precision_warnings():
        made: Any = envpool.make_gymnasium(str(env), num_envs=n_envs, num_threads=threads, seed=seed % 2**31)
        return Envs(made, takes_seeds=False)


@contextlib.contextmanager
def _without_precision_warnings() -> Iterator[None]:
    """Keep Gymnasium quiet about bounds that float32 rounds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*precision lowered by casting.*")
        yield


def _maker(env: EnvLike) -> Callable[[], Any]:
    if isinstance(env, str):
        return functools.partial(_make_from_spec, find_spec(env))
    if callable(env):
        return functools.partial(_make_from_callable, env)
    raise ConfigError(
        f"env={env!r} is a {type(env).__name__}: it must be an id, a gymnasium.Env, a VectorEnv, or a callable that "
        "makes one."
    )


def names_module(env_id: str | None) -> bool:
    """Return whether an id is ``module:Id``, whose module registers the environment."""
    return env_id is not None and ":" in env_id


def unnamed_module(env_id: str) -> ConfigError:
    """Return the error that an environment is needed whose module only a saved run names."""
    return ConfigError(
        f"The run's environment is '{env_id}', and a saved run never imports a module by itself: pass "
        f'env="{env_id}" again (on the command line: --env {env_id}).'
    )


def find_spec(env_id: str) -> EnvSpec:
    """Return what Gymnasium knows of an id; the module of ``module:Id`` is imported.

    Raises:
        ConfigError: no such id (Gymnasium's suggestion is kept), or no such module.
    """
    module, _, name = env_id.rpartition(":")
    if names_module(env_id):
        import_named(module, f"Environment '{env_id}' could not be created")
    try:
        return gym.spec(name)
    except (gym.error.Error, ModuleNotFoundError) as error:
        told = one_line(error)
        near = "" if "Did you mean" in told or "available" in told else did_you_mean(name, gym.registry)
        raise ConfigError(f"Environment '{env_id}' could not be created: {told}{near}") from None


def _make_from_spec(spec: EnvSpec) -> gym.Env[Any, Any]:
    try:
        with _without_precision_warnings():
            return gym.make(spec)
    except (gym.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise ConfigError(f"Environment '{spec.id}' needs a package that is missing: {one_line(error)}") from None
    except gym.error.Error as error:
        raise ConfigError(f"Environment '{spec.id}' could not be created: {one_line(error)}") from None


def _make_in_worker(make: Callable[[], Any], parent: int) -> Any:
    # Gymnasium also calls this in the parent, to look at the spaces.
    if os.getpid() != parent:
        interrupts.ignore()
    return _make_stream(make, _InWorker)


class _InWorker(Stream):
    """A stream in a process of its own, whose errors can be sent to the one that waits for it."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        with _sendable():
            return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        with _sendable():
            return super().step(action)


@contextlib.contextmanager
def _sendable() -> Iterator[None]:
    """Turn an error of a class that pickle may not know, or not make again, into a RuntimeError.

    Gymnasium's worker sends it from a thread that drops what cannot be pickled, and the other side waits for ever.
    """
    try:
        yield
    except Exception as error:
        try:
            type(error)(pickle.loads(pickle.dumps(error)))
        except Exception:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        raise


def _make_stream(make: Callable[[], Any], kind: type[Stream] = Stream) -> Stream:
    made = make()
    if not isinstance(made, gym.Env):
        raise ConfigError("The callable given as env returned a VectorEnv, of which rlox makes one: leave n_envs at 1.")
    return kind(made, batched=True)


def _make_from_callable(make: Callable[[], Any]) -> Any:
    made = make()
    if not isinstance(made, gym.Env | VectorEnv):
        raise ConfigError(f"The callable given as env returned a {type(made).__name__}: it must make a gymnasium.Env.")
    return made
