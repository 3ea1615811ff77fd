"""Environments as streams of numbered episodes, whose place can be written down and found again without pickle."""

from __future__ import annotations

import copy
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rlox.envs.spaces import as_declared
from rlox.errors import InvalidStepError

T = TypeVar("T")

LONGEST = 100_000
"""Actions of an episode that are kept; a longer one is not found again."""


class Place(NamedTuple):
    """Where an environment is: in episode ``episode`` of stream ``stream``, after some actions."""

    seed: int
    stream: int
    episode: int
    actions: Sequence[Any] | NDArray[Any] = ()
    """As the environment's ``step`` takes them."""

    @property
    def reset_seed(self) -> int:
        """The seed that the episode is reset with: a function of the seed, the stream and the episode's number."""
        return int(np.random.SeedSequence([self.seed, self.stream, self.episode]).generate_state(1)[0]) % 2**31


class Trace(NamedTuple):
    """What an environment has been through since its last reset."""

    episode: int
    """Number of the episode; -1 outside numbered ones."""
    actions: NDArray[Any] | None
    """``(k, *action_space.shape)``; None if there were too many to keep."""
    digest: int
    """Running CRC-32 of all observations, rewards and ends."""
    digest_before: int
    """The same before the last step."""


class Stream(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that is put to a place, and from there resets itself to one numbered episode after another.

    ``place`` is set, and takes effect at the next ``reset()``, which returns the observation there. A reset with a seed
    of its own leaves the numbered episodes, so that without a place this is the environment as it is.

    What it returns is checked: Gymnasium puts the results of several together, and cuts what the type of their space
    does not hold. ``info`` is left out, since nobody reads it and that of several has to be alike.

    Args:
        env: the environment.
        batched: whether it is one of several.
    """

    def __init__(self, env: gym.Env[Any, Any], *, batched: bool = False):
        super().__init__(env)
        self._declared_as = env.observation_space if batched else None
        self.place: Place | None = None
        self._episode = -1
        self._actions: list[Any] | None = []
        self._digest = self._digest_before = 0

    @property
    def trace(self) -> Trace:
        """What has happened since the last reset."""
        actions = None if self._actions is None else np.array(self._actions)
        return Trace(self._episode, actions, self._digest, self._digest_before)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin the next numbered episode and go to its place, or an episode with the seed that is given."""
        place = self.place
        if seed is not None or place is None:
            self.place, self._episode = None, -1
            return self._declared(_reset(self.env, seed, options)), {}
        self.place = place._replace(episode=place.episode + 1, actions=())
        self._episode, self._actions = place.episode, []
        obs = _reset(self.env, place.reset_seed, options)
        self._digest = self._digest_before = digest(obs)
        obs = self._declared(obs)
        for action in place.actions:
            obs, _, terminated, truncated, _ = self.step(action)
            if terminated or truncated:
                break
        return obs, {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step the environment, and note what it showed."""
        # Copies: the environment may scale its action in place, and the caller write the next one into the same array.
        obs, *outcome = _step(self.env, action.copy() if isinstance(action, np.ndarray) else action)
        reward, terminated, truncated = _numbers(*outcome)
        if self._episode >= 0:
            self._digest_before = self._digest
            self._digest = digest_outcome(reward, terminated, truncated, digest(obs, self._digest))
            if self._actions is not None:
                self._actions.append(np.array(action))
                if len(self._actions) > LONGEST:
                    self._actions = None
        obs = self._declared(obs)
        if terminated or truncated:
            # A copy: of several environments, the reset that follows may write into the same array.
            obs = copy.deepcopy(obs)
        return obs, reward, terminated, truncated, {}

    def _declared(self, obs: Any) -> Any:
        if self._declared_as is None:
            return obs
        try:
            return as_declared(self._declared_as, obs)
        except InvalidStepError as error:
            raise InvalidStepError(f"returned a bad observation: {error}") from None


def five(result: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Return what ``step`` returned.

    Raises:
        InvalidStepError: it is not what Gymnasium's returns.
    """
    if not isinstance(result, tuple) or len(result) != 5:
        got = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
        raise _wrong_step(got)
    return result


def _wrong_step(got: str) -> InvalidStepError:
    return InvalidStepError(
        f"returned {got}: its step() must return obs, reward, terminated, truncated and info. "
        "Environments of the old gym have to be converted, for example by the package shimmy."
    )


def _step(env: gym.Env[Any, Any], action: Any) -> tuple[Any, Any, Any, Any]:
    """Step an environment of a user's.

    Raises:
        InvalidStepError: its ``step`` returns something else than Gymnasium's.
    """
    try:
        return five(env.step(action))[:4]
    except (TypeError, ValueError) as error:
        # Gymnasium's wrappers take apart what it returns.
        if "unpack" in str(error) and _raised_by(error).startswith("gymnasium."):
            raise _wrong_step("other values") from error
        raise


def _raised_by(error: BaseException) -> str:
    """Return the name of the module that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))


def _numbers(reward: Any, terminated: Any, truncated: Any) -> tuple[float, bool, bool]:
    """Return a reward and two flags, each of which may be in an array of one, as Python's own.

    Whether rewards are finite is asked of all environments at once.

    Raises:
        InvalidStepError: one is no number, or no flag.
    """
    try:
        return float(reward), bool(terminated), bool(truncated)
    except (TypeError, ValueError):  # an array, if it is anything
        return (
            _number("reward", reward, float, "a finite number"),
            _number("terminated", terminated, bool, "True or False"),
            _number("truncated", truncated, bool, "True or False"),
        )


def _number(name: str, value: Any, kind: Callable[[Any], T], wanted: str) -> T:
    try:
        return kind(value.item() if isinstance(value, np.ndarray) else value)
    except (TypeError, ValueError):
        raise InvalidStepError(f"returned {name} {value!r}: it must be {wanted}.") from None


def _reset(env: gym.Env[Any, Any], seed: int | None, options: dict[str, Any] | None) -> Any:
    """Reset an environment of a user's, and return what is observed.

    Raises:
        InvalidStepError: its ``reset`` takes or returns something else than Gymnasium's.
    """
    try:
        result: Any = env.reset(seed=seed, options=options)
    except TypeError as error:
        if "reset() got an unexpected keyword argument" not in str(error):
            raise
        raise InvalidStepError(f"{error}: declare it as reset(self, *, seed=None, options=None).") from None
    if not isinstance(result, tuple) or len(result) != 2:
        got = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
        raise InvalidStepError(f"reset() of the environment returned {got}: it must return obs and info.")
    return result[0]


def digest(obs: Any, before: int = 0) -> int:
    """Return the CRC-32 of what came before and of an observation's bytes, entry by entry."""
    try:
        return zlib.crc32(obs, before)
    except (TypeError, ValueError, BufferError):
        # No contiguous array.
        if isinstance(obs, dict | tuple | list):
            for part in obs.values() if isinstance(obs, dict) else obs:
                before = digest(part, before)
            return before
        return zlib.crc32(np.asarray(obs).tobytes(), before)


def digest_outcome(reward: float, terminated: bool, truncated: bool, before: int) -> int:
    """Return the CRC-32 of what came before, a reward and whether the episode ended."""
    return zlib.crc32(struct.pack("d??", reward, terminated, truncated), before)
