"""Between an environment's spaces and flat arrays: encoding observations, decoding actions, describing both."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.core.distributions import AT_BOUND
from rlox.errors import InvalidStepError, SpaceError

_OBS_SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of these"
_ACTION_SUPPORTED = "Discrete, MultiDiscrete, MultiBinary, and Box with finite bounds"


@dataclasses.dataclass(frozen=True)
class ObsEncoder:
    """Flattens observations of a space: Box as it is, whole numbers one-hot, Dict and Tuple in the space's order."""

    space: spaces.Space[Any]
    dim: int
    """Width of an encoded observation."""
    dtype: np.dtype[Any]
    """float32, or a one-byte type where the whole space has it."""

    def __call__(self, obs: Any, n: int) -> NDArray[Any]:
        """Return ``(n, dim)`` from a batch of ``n`` observations.

        Raises:
            InvalidStepError: an entry with another shape than the space's, or not finite.
        """
        parts: list[NDArray[Any]] = []
        _encode(self.space, obs, n, "observation", parts)
        flat = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        # Always a copy: simulators write their next observation into the same array.
        return np.array(flat, self.dtype, order="C")

    def batch_size(self, obs: Any) -> int | None:
        """Return the number of observations in ``obs``, or None for a single one."""
        space, leaf = self.space, obs
        while isinstance(space, spaces.Dict | spaces.Tuple):
            key: Any = next(iter(space.spaces)) if isinstance(space, spaces.Dict) else 0
            space, leaf = space[key], _entry(leaf, key, "observation")
        shape = np.shape(leaf)
        return shape[0] if len(shape) == len(space.shape or ()) + 1 else None


def obs_encoder(space: spaces.Space[Any]) -> ObsEncoder:
    """Return the encoder of an observation space.

    Raises:
        SpaceError: the space, or one inside it, is not supported.
    """
    dtype = np.dtype(np.float32)
    if isinstance(space, spaces.Box | spaces.MultiBinary) and np.dtype(space.dtype or np.float32).itemsize == 1:
        dtype = np.dtype(np.int8 if space.dtype == np.int8 else np.uint8)
    return ObsEncoder(space, _width(space), dtype)


def interchangeable(one: spaces.Space[Any], other: spaces.Space[Any]) -> bool:
    """Return whether observations of the two are encoded alike: a Box's bounds do not matter."""
    if isinstance(one, spaces.Box) and isinstance(other, spaces.Box):
        return one.shape == other.shape and obs_encoder(one).dtype == obs_encoder(other).dtype
    return one == other


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
    array = np.asarray(obs)
    shape = space.shape or ()
    if array.shape != (n, *shape):
        got = array.shape[1:] if array.shape[:1] == (n,) else array.shape
        raise InvalidStepError(f"{name} has shape {got}, but the space says {shape}.")
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        choices = (array.reshape(n, -1) - np.ravel(space.start)).astype(np.int64)
        nvec = np.ravel(space.n if isinstance(space, spaces.Discrete) else space.nvec)
        outside = ((choices < 0) | (choices >= nvec)).any(axis=1)
        if outside.any():
            raise InvalidStepError(f"{name} is {array[outside][0].tolist()}, which is outside {space}.")
        parts.append(np.concatenate([np.eye(k, dtype=np.float32)[choices[:, i]] for i, k in enumerate(nvec)], axis=1))
        return
    flat = array.reshape(n, -1)
    if flat.dtype.kind == "f":
        with np.errstate(over="ignore"):
            flat = flat.astype(np.float32)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        row, entry = np.argwhere(~np.isfinite(flat))[0]
        where = np.unravel_index(entry, shape) if shape else ()
        raise InvalidStepError(f"{name}{list(map(int, where))} is {flat[row, entry]}: it must be finite.")
    parts.append(flat)


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
        """
        shape = (len(action), *(self.space.shape or ()))
        if isinstance(self.space, spaces.Box):
            low, high = self.space.low.astype(np.float64), self.space.high.astype(np.float64)
            scaled = (low + high) / 2 + action.reshape(shape) * (high - low) / 2
            if np.issubdtype(self.space.dtype, np.integer):
                scaled = np.rint(scaled)
            return np.clip(scaled, low, high).astype(self.space.dtype)
        start = getattr(self.space, "start", 0)
        return (action.reshape(shape) + start).astype(self.space.dtype)

    def encode(self, action: NDArray[Any]) -> NDArray[Any]:
        """Return the policy's ``(n, dim)`` from a batch of the environment's actions; the inverse of ``decode``."""
        if isinstance(self.space, spaces.Box):
            low, high = self.space.low.astype(np.float64), self.space.high.astype(np.float64)
            # A component whose bounds coincide has one value, and no range to measure it in.
            half = np.where(high > low, (high - low) / 2, 1.0)
            encoded = (action - (low + high) / 2) / half
        else:
            encoded = action - getattr(self.space, "start", 0)
        return encoded.reshape(len(action), self.dim).astype(self.dtype)

    def log_scale(self, action: NDArray[Any]) -> NDArray[np.float64]:
        """Return, of ``(n, dim)`` actions in the policy's coding, the logarithm of the unit that a density is per.

        A component at a bound has a probability and no density there, so that units do not matter to it.
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


def describe(space: spaces.Space[Any]) -> dict[str, Any]:
    """Return a space as plain JSON values; ``restore`` is the way back."""
    match space:
        case spaces.Box():
            bounds = {"low": space.low.ravel().tolist(), "high": space.high.ravel().tolist()}
            for name, values in bounds.items():
                if len(set(values)) == 1:
                    bounds[name] = values[:1]
            named = {k: [_NAMES.get(x, x) for x in v] for k, v in bounds.items()}
            return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **named}
        case spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
        case spaces.MultiDiscrete():
            numbers = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
            return {"type": "MultiDiscrete", **numbers, "dtype": str(space.dtype)}
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.n)}
        case spaces.Dict():
            return {"type": "Dict", "spaces": [[k, describe(v)] for k, v in space.spaces.items()]}
        case spaces.Tuple():
            return {"type": "Tuple", "spaces": [describe(v) for v in space.spaces]}
    raise SpaceError(f"Space {space} is not supported: rlox takes {_OBS_SUPPORTED}.")


# Infinite bounds by name: JSON has no infinity.
_NAMES = {math.inf: "inf", -math.inf: "-inf"}


def restore(description: dict[str, Any]) -> spaces.Space[Any]:
    """Return the space that ``describe`` described."""
    match description["type"]:
        case "Box":
            shape, dtype = tuple(description["shape"]), np.dtype(description["dtype"])
            kind = np.dtype(np.float64) if dtype.kind == "f" else dtype
            low, high = (
                np.broadcast_to(values[0], shape) if len(values) == 1 else values.reshape(shape)
                for values in (_numbers(description[k], kind).astype(dtype) for k in ("low", "high"))
            )
            return spaces.Box(low, high, shape, dtype.type)
        case "Discrete":
            made = spaces.Discrete(description["n"], start=description["start"])
            if description["dtype"] == str(made.dtype):
                return made
            # Gymnasium before 1.2 knows int64 only, and takes no dtype.
            return spaces.Discrete(
                description["n"], start=description["start"], dtype=np.dtype(description["dtype"]).type
            )
        case "MultiDiscrete":
            nvec, start = np.array(description["nvec"]), np.array(description["start"])
            return spaces.MultiDiscrete(nvec, dtype=np.dtype(description["dtype"]).type, start=start)
        case "MultiBinary":
            return spaces.MultiBinary(description["n"])
        case "Dict":
            return spaces.Dict([(k, restore(v)) for k, v in description["spaces"]])
        case "Tuple":
            return spaces.Tuple([restore(v) for v in description["spaces"]])
    raise SpaceError(f"Space type '{description['type']}' is not known to this version of rlox.")


def _numbers(described: list[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.array([float(x) if isinstance(x, str) else x for x in described], dtype)
