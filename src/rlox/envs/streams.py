"""Environments as streams of numbered episodes, whose place can be written down and found again without pickle."""

from __future__ import annotations

import copy
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rlox.errors import InvalidStepError

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
    """

    def __init__(self, env: gym.Env[Any, Any]):
        super().__init__(env)
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
            return _reset(self.env, seed, options)
        self.place = place._replace(episode=place.episode + 1, actions=())
        self._episode, self._actions = place.episode, []
        obs, info = _reset(self.env, place.reset_seed, options)
        self._digest = self._digest_before = digest(obs)
        for action in place.actions:
            obs, _, terminated, truncated, info = self.step(action)
            if terminated or truncated:
                break
        return obs, info

    def step(self, action: Any) -> Any:
        """Step the environment, and note what it showed."""
        result = self.env.step(action)
        if self._episode >= 0 and len(result) == 5:
            obs, reward, terminated, truncated, _ = result
            self._digest_before = self._digest
            self._digest = digest_outcome(reward, terminated, truncated, digest(obs, self._digest))
            if self._actions is not None:
                # A copy: the caller may write its next action into the same array.
                self._actions.append(np.array(action))
                if len(self._actions) > LONGEST:
                    self._actions = None
        if len(result) == 5 and (result[2] or result[3]):
            # A copy: of several environments, the reset that follows may write into the same array.
            return (copy.deepcopy(result[0]), *result[1:])
        return result


def _reset(env: gym.Env[Any, Any], seed: int | None, options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    """Reset an environment of a user's.

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
    return result


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


def digest_outcome(reward: Any, terminated: Any, truncated: Any, before: int) -> int:
    """Return the CRC-32 of what came before, a reward and whether the episode ended."""
    try:
        return zlib.crc32(struct.pack("d??", reward, terminated, truncated), before)
    except (struct.error, TypeError):  # Whoever reads the reward says what is wrong with it.
        return before
