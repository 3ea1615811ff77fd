"""Between an environment's spaces and flat arrays: encoding observations, decoding actions, describing both."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.core.transition import AT_BOUND
from rlox.errors import DivergedError, InvalidStepError, SpaceError

_OBS_SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of these"
_NUMBERS = "fiub"
"""Kinds of the types of arrays that observations may have."""
_ACTION_SUPPORTED = "Discrete, MultiDiscrete, MultiBinary, and Box with finite bounds"


@dataclasses.dataclass(frozen=True)
class ObsEncoder:
    """Flattens observations of a space, Dict and Tuple in the space's order.

    A Box of floats stays as it is; one of whole numbers with finite bounds is scaled to [0, 1]; choices are one-hot.
    Where the whole space is bytes that take all values (images), the replay keeps bytes, and
    ``core.normalizer.as_float`` scales them to [0, 1].
    """

    space: spaces.Space[Any]
    dim: int
    """Width of an encoded observation."""
    dtype: np.dtype[Any]
    """What the replay stores: float32, uint8 for bytes that take all values, or bool for bits."""

    def __call__(self, obs: Any, n: int) -> NDArray[Any]:
        """Return ``(n, dim)`` from a batch of ``n`` observations.

        Raises:
            InvalidStepError: an entry with another shape than the space's, or not finite.
        """
        parts: list[NDArray[Any]] = []
        _encode(self.space, obs, n, "observation", parts)
        if self.dtype == np.uint8:
            low = int(self.space.low.min())  # pyright: ignore[reportAttributeAccessIssue]
            return parts[0].astype(np.uint8) if low == 0 else (parts[0].astype(np.int16) - low).astype(np.uint8)
        scaled = [_scale(leaf, part) for (_, leaf), part in zip(leaves(self.space), parts, strict=True)]
        flat = scaled[0] if len(scaled) == 1 else np.concatenate(scaled, axis=1)
        # Always a copy: simulators write their next observation into the same array.
        return np.array(flat, self.dtype, order="C")

    def decode(self, flat: NDArray[Any]) -> NDArray[Any]:
        """Return the observations ``(n, *shape)`` of a Box from ``(n, dim)``.

        Raises:
            SpaceError: the space is not a Box, whose observations are not known any more.
        """
        if not isinstance(self.space, spaces.Box):
            raise SpaceError(f"Observations of {self.space} are stored encoded only, and cannot be decoded.")
        low, span = whole_range(self.space)
        if self.dtype == np.uint8:
            flat = flat.astype(np.int64) + int(self.space.low.min())
        elif span is not None:
            flat = np.rint(flat * span + low)
        return flat.reshape(len(flat), *self.space.shape).astype(self.space.dtype)

    def batch_size(self, obs: Any) -> int | None:
        """Return the number of observations in ``obs``, or None for a single one."""
        space, leaf = self.space, obs
        while isinstance(space, spaces.Dict | spaces.Tuple):
            key: Any = next(iter(space.spaces)) if isinstance(space, spaces.Dict) else 0
            space, leaf = space[key], _entry(leaf, key, "observation")
        shape = _array(leaf, "observation").shape
        return shape[0] if len(shape) == len(space.shape or ()) + 1 else None


def obs_encoder(space: spaces.Space[Any]) -> ObsEncoder:
    """Return the encoder of an observation space.

    Raises:
        SpaceError: the space, or one inside it, is not supported.
    """
    dtype = np.dtype(np.float32)
    if isinstance(space, spaces.MultiBinary):
        dtype = np.dtype(bool)
    elif isinstance(space, spaces.Box) and _takes_all_bytes(space):
        dtype = np.dtype(np.uint8)
    return ObsEncoder(space, _width(space), dtype)


def batch_of_one(space: spaces.Space[Any], obs: Any) -> Any:
    """Return a batch that holds a copy of one observation: simulators write the next one into the same array.

    Raises:
        InvalidStepError: it has lists of different lengths where the space has an array.
    """
    if isinstance(space, spaces.Dict) and isinstance(obs, Mapping):
        return {key: batch_of_one(part, obs[key]) for key, part in space.spaces.items() if key in obs}
    if isinstance(space, spaces.Tuple) and isinstance(obs, list | tuple):
        return tuple(batch_of_one(part, entry) for part, entry in zip(space.spaces, obs, strict=False))
    return np.array(_array(obs, "observation"))[None]


def as_declared(space: spaces.Space[Any], obs: Any, name: str = "observation") -> Any:
    """Return an observation in the types of its space, such as bytes.

    Raises:
        InvalidStepError: it does not fit the space.
    """
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        given = obs if isinstance(obs, np.ndarray) else _array(obs, name)
        if given.shape == space.shape and given.dtype.kind in _NUMBERS:
            return given
    if isinstance(space, spaces.Dict):
        return {
            key: as_declared(part, _entry(obs, key, name), f"{name}[{key!r}]") for key, part in space.spaces.items()
        }
    if isinstance(space, spaces.Tuple):
        return tuple(as_declared(part, _entry(obs, i, name), f"{name}[{i}]") for i, part in enumerate(space.spaces))
    given = _numbers(obs, name)
    _encode(space, given[None], 1, name, [])
    declared = given.astype(space.dtype, copy=False)
    if not np.array_equal(declared, given):
        raise InvalidStepError(
            f"{name} has entries such as {given[declared != given].ravel()[0]}, which {space} cannot hold: give "
            f"observations of its type, {space.dtype}, or declare a Box of floats."
        )
    return declared


def interchangeable(one: spaces.Space[Any], other: spaces.Space[Any]) -> bool:
    """Return whether observations of the two are encoded alike: bounds and precision of a Box of floats do not matter.

    Nor do they inside a Dict or a Tuple.
    """
    ours, theirs = list(leaves(one)), list(leaves(other))
    return [path for path, _ in ours] == [path for path, _ in theirs] and all(
        a.shape == b.shape if _are_floats(a, b) else a == b for (_, a), (_, b) in zip(ours, theirs, strict=True)
    )


def same_actions(one: Any, other: Any) -> bool:
    """Return whether actions of the two spaces mean the same: the precision of a Box of floats does not matter."""
    if _are_floats(one, other):
        ours, theirs = ((space.low.astype(np.float32), space.high.astype(np.float32)) for space in (one, other))
        return all(map(np.array_equal, ours, theirs))
    return one == other


def _are_floats(*found: Any) -> bool:
    return all(isinstance(space, spaces.Box) and space.dtype.kind == "f" for space in found)


def _takes_all_bytes(space: spaces.Box) -> bool:
    if space.dtype not in (np.uint8, np.int8):
        return False
    limits = np.iinfo(space.dtype)
    return bool((space.low == limits.min).all() and (space.high == limits.max).all())


def whole_range(space: spaces.Space[Any]) -> tuple[Any, Any]:
    """Return what is subtracted from a Box of whole numbers and what that is divided by; both None for other spaces.

    Bounds that are those of a type wider than a byte say nothing.
    """
    if not isinstance(space, spaces.Box) or space.dtype.kind not in "iub":
        return None, None
    low, high = (bound.ravel().astype(np.float64) for bound in (space.low, space.high))
    if space.dtype.kind in "iu" and space.dtype.itemsize > 1:
        limits = np.iinfo(space.dtype)
        if ((low <= limits.min).any() and space.dtype.kind == "i") or (high >= limits.max).any():
            return None, None
    return low, np.where(high > low, high - low, 1.0)


def _scale(space: spaces.Space[Any], flat: NDArray[Any]) -> NDArray[Any]:
    """Return whole numbers with finite bounds in [0, 1], anything else as it is."""
    low, span = whole_range(space)
    return flat if span is None else (flat - low) / span


def leaves(space: spaces.Space[Any], keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the spaces that hold no others, in the order in which they are encoded, with the keys that lead there."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, part in parts:
            yield from leaves(part, (*keys, key))
    else:
        yield keys, space


def _width(space: spaces.Space[Any]) -> int:
    match space:
        case spaces.Box() | spaces.MultiBinary():
            return math.prod(space.shape)
        case spaces.Discrete():
            return int(space.n)
        case spaces.MultiDiscrete():
            return int(space.nvec.sum())
        case spaces.Dict() if space.spaces:
            return sum(_width(part) for part in space.spaces.values())
        case spaces.Tuple() if space.spaces:
            return sum(_width(part) for part in space.spaces)
    raise SpaceError(f"Observation space {space} is not supported: rlox takes {_OBS_SUPPORTED}.")


def _encode(space: spaces.Space[Any], obs: Any, n: int, name: str, parts: list[NDArray[Any]]) -> None:
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            _encode(part, _entry(obs, key, name), n, f"{name}[{key!r}]", parts)
        return
    if isinstance(space, spaces.Tuple):
        for i, part in enumerate(space.spaces):
            _encode(part, _entry(obs, i, name), n, f"{name}[{i}]", parts)
        return
    array = _numbers(obs, name)
    shape = space.shape or ()
    if array.shape != (n, *shape):
        got = array.shape[1:] if array.shape[:1] == (n,) else array.shape
        raise InvalidStepError(f"{name} has shape {got}, but the space says {shape}.")
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        if array.dtype.kind == "f" and (array != np.rint(array)).any():
            raise InvalidStepError(f"{name} is {array.ravel()[:5].tolist()}, but {space} takes whole numbers.")
        choices = (array.reshape(n, math.prod(shape)) - np.ravel(space.start)).astype(np.int64)
        nvec = np.ravel(space.n if isinstance(space, spaces.Discrete) else space.nvec)
        outside = ((choices < 0) | (choices >= nvec)).any(axis=1)
        if outside.any():
            row = int(outside.argmax())
            raise _of_row(row, f"{name} is {array[row].tolist()}, which is outside {space}.")
        one_hot = np.zeros((n, int(nvec.sum())), np.float32)
        one_hot[np.arange(n)[:, None], choices + np.cumsum(nvec) - nvec] = 1
        parts.append(one_hot)
        return
    flat = array.reshape(n, math.prod(shape))
    if flat.dtype.kind == "f" and space.dtype is not None and space.dtype.kind in "iub":
        _warn_of_floats(str(space), str(space.dtype), name)
    if flat.dtype.kind == "f":
        with np.errstate(over="ignore"):
            flat = flat.astype(np.float32)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        row, entry = np.argwhere(~np.isfinite(flat))[0]
        where = np.unravel_index(entry, shape) if shape else ()
        raise _of_row(int(row), f"{name}{list(map(int, where))} is {flat[row, entry]}: it must be finite.")
    if isinstance(space, spaces.Box) and flat.dtype != space.dtype and _takes_all_bytes(space):
        outside = (flat < space.low.min()) | (flat > space.high.max())
        if outside.any():
            raise InvalidStepError(f"{name} has an entry {flat[outside][0]}, which is outside {space}.")
    parts.append(flat)


def _of_row(row: int, message: str) -> InvalidStepError:
    error = InvalidStepError(message)
    error.row = row
    return error


def _array(obs: Any, name: str) -> NDArray[Any]:
    try:
        return np.asarray(obs)
    except ValueError:
        raise InvalidStepError(f"{name} has entries of different lengths, and is no array: {obs!r:.80}") from None


def _numbers(obs: Any, name: str) -> NDArray[Any]:
    """Return an array of numbers; None, as in a row of a frame without a value, is nan."""
    array = _array(obs, name)
    if array.dtype.kind == "O":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError):
            raise InvalidStepError(f"{name} is {obs!r:.80}: it must hold numbers.") from None
    if array.dtype.kind not in _NUMBERS:
        raise InvalidStepError(f"{name} has type {array.dtype}: it must hold numbers that are real.")
    return array


@functools.lru_cache(maxsize=64)
def _warn_of_floats(space: str, dtype: str, name: str) -> None:
    """Warn once of floats where a space says whole numbers; the cache remembers for which it was said."""
    warnings.warn(
        f"{name} is an array of floats, but the space {space} says {dtype}: values scaled to [0, 1] would be "
        "taken for 0 or 1 of its range. Give observations of that type, or declare a Box of floats.",
        stacklevel=2,
    )


def _entry(obs: Any, key: Any, name: str) -> Any:
    try:
        return obs[key]
    except (KeyError, IndexError, TypeError) as error:
        raise InvalidStepError(f"{name} has no entry {key!r}, but the space has one.") from error


@dataclasses.dataclass(frozen=True)
class ActionCodec:
    """Between an environment's actions and the policy's: choices counted from 0, or units of half the range."""

    space: spaces.Space[Any]
    nvec: tuple[int, ...]
    """Number of choices of each component; empty for continuous actions."""
    dim: int
    """Number of components."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """int32 for choices, float32 for continuous actions."""
        return np.dtype(np.int32 if self.nvec else np.float32)

    def decode(self, action: NDArray[Any]) -> NDArray[Any]:
        """Return ``(n, *space.shape)`` actions that the environment accepts from the policy's ``(n, dim)``.

        Continuous actions are clipped to the bounds here, and nowhere else.

        Raises:
            DivergedError: one is not a number.
        """
        shape = (len(action), *(self.space.shape or ()))
        if isinstance(self.space, spaces.Box):
            low, high = self.space.low.astype(np.float64), self.space.high.astype(np.float64)
            scaled = (low + high) / 2 + action.reshape(shape) * (high - low) / 2
            if np.isnan(scaled).any():
                raise DivergedError(
                    "Training diverged: an action of the policy is not a number. Lower learning_rate, set "
                    "max_grad_norm=1.0 or scale the rewards."
                )
            if np.issubdtype(self.space.dtype, np.integer):
                scaled = np.rint(scaled)
            return np.clip(scaled, low, high).astype(self.space.dtype)
        start = getattr(self.space, "start", 0)
        return (action.reshape(shape) + start).astype(self.space.dtype)

    def encode(self, action: NDArray[Any]) -> NDArray[Any]:
        """Return the policy's ``(n, dim)`` from a batch of the environment's actions; the inverse of ``decode``.

        They may have the shape of the space, or be flat.
        """
        action = action.reshape(len(action), *(self.space.shape or ()))
        if isinstance(self.space, spaces.Box):
            low, high = self.space.low.astype(np.float64), self.space.high.astype(np.float64)
            # A component whose bounds coincide has one value, and no range to measure it in.
            half = np.where(high > low, (high - low) / 2, 1.0)
            encoded = (action - (low + high) / 2) / half
        else:
            encoded = action - getattr(self.space, "start", 0)
        return encoded.reshape(len(action), self.dim).astype(self.dtype)

    def random(self, rng: np.random.Generator, n: int) -> NDArray[Any]:
        """Return ``n`` uniformly random actions in the policy's coding, ``(n, dim)``."""
        if not isinstance(self.space, spaces.Box):
            return rng.integers(self.nvec, size=(n, self.dim)).astype(self.dtype)
        low, high = self.space.low, self.space.high
        if np.issubdtype(self.space.dtype, np.integer):
            drawn = rng.integers(low, high, size=(n, *self.space.shape), endpoint=True)
        else:
            drawn = rng.uniform(low, high, size=(n, *self.space.shape)).astype(self.space.dtype)
        return self.encode(drawn)

    def log_scale(self, action: NDArray[Any]) -> NDArray[np.float64]:
        """Return the log-Jacobian to environment units of ``(n, dim)`` actions in the policy's coding.

        A component at a bound has a probability and not a density, so that units do not matter to it.
        """
        if not isinstance(self.space, spaces.Box):
            return np.zeros(len(action))
        span = (self.space.high.astype(np.float64) - self.space.low).ravel()
        half = np.where(span > 0, span / 2, 1.0)
        return np.where(np.abs(action) < 1 - AT_BOUND, np.log(half), 0.0).sum(axis=1)


def action_codec(space: spaces.Space[Any]) -> ActionCodec:
    """Return the codec of an action space.

    Raises:
        SpaceError: the space is not supported, or is a Box without finite bounds.
    """
    match space:
        case spaces.Discrete():
            return ActionCodec(space, (int(space.n),), 1)
        case spaces.MultiDiscrete():
            nvec = tuple(int(k) for k in space.nvec.ravel())
            return ActionCodec(space, nvec, len(nvec))
        case spaces.MultiBinary():
            dim = math.prod(space.shape)
            return ActionCodec(space, (2,) * dim, dim)
        case spaces.Box():
            if not space.is_bounded():
                raise SpaceError(
                    f"Action space {space} has no finite bounds: rlox explores in units of half the range. "
                    "Wrap the environment in gymnasium.wrappers.RescaleAction or give its Box finite bounds."
                )
            return ActionCodec(space, (), math.prod(space.shape))
    raise SpaceError(f"Action space {space} is not supported: rlox takes {_ACTION_SUPPORTED}.")
