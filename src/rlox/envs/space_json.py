"""Spaces as plain JSON values, and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.errors import SpaceError


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
    raise SpaceError(
        f"Space {space} is not supported: rlox knows Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple."
    )


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
