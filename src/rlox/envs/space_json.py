"""Spaces as plain JSON values, and back."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.errors import SpaceError, one_line

MOST_ENTRIES = 10**7
"""Of an encoded observation, or of an action with its choices, that ``restore`` makes a space of."""
DEEPEST = 32
"""How often the Dict and Tuple spaces that ``restore`` makes are nested."""


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


def parse(text: str) -> spaces.Space[Any]:
    """Return the space whose description is a text of JSON (see ``restore``)."""
    try:
        return restore(json.loads(text))
    except (json.JSONDecodeError, RecursionError) as error:
        raise _damaged(error) from None


def restore(description: Any) -> spaces.Space[Any]:
    """Return the space that ``describe`` described.

    The description can come from any file: its size is checked before anything is allocated.

    Raises:
        SpaceError: it is damaged, of an unknown type, nested too deeply, or of too many entries.
    """
    try:
        _count(description)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return _restore(description)
    except SpaceError:
        raise
    except Exception as error:  # Gymnasium and NumPy raise many types of errors on wrong values.
        raise _damaged(error) from None


def _damaged(error: Exception) -> SpaceError:
    told = f"{type(error).__name__}: {one_line(error)}"
    return SpaceError(f"The description of a space is damaged, or not one that rlox wrote ({told}).")


def _count(description: Any, depth: int = 0) -> int:
    """Return the number of entries of a described space, with one for each choice, if it is small enough."""
    if depth > DEEPEST:
        raise SpaceError(f"The description of a space is nested more than {DEEPEST} levels deep: rlox reads no deeper.")
    match description:
        case {"type": "Box", "shape": [*sizes]}:
            return _product(sizes)
        case {"type": "Discrete", "n": n}:
            return _product([n])
        case {"type": "MultiDiscrete", "nvec": [*nvec]}:
            return _check_count(sum(_product([n]) for n in _whole(nvec).ravel().tolist()))
        case {"type": "MultiBinary", "n": n}:
            return _product(n if isinstance(n, list) else [n])
        case {"type": "Dict", "spaces": [*parts]}:
            return _check_count(sum(_count(part, depth + 1) for _, part in parts))
        case {"type": "Tuple", "spaces": [*parts]}:
            return _check_count(sum(_count(part, depth + 1) for part in parts))
        case {"type": str(kind)} if kind not in _KINDS:
            raise SpaceError(f"Space type '{kind}' is not known to this version of rlox.")
    raise ValueError(f"{description!r:.200} is no description")


_KINDS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple")


def _product(sizes: list[Any]) -> int:
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError(f"{sizes!r:.200} are no sizes")
    product = 1
    for size in sizes:
        product *= _check_count(size)
    return _check_count(product)


def _check_count(count: int) -> int:
    if count > MOST_ENTRIES:
        raise SpaceError(
            f"The description of a space claims {count:.3g} entries, but rlox reads at most {MOST_ENTRIES:,}: the file "
            "is damaged, or its observations must be made smaller."
        )
    return count


def _restore(description: dict[str, Any]) -> spaces.Space[Any]:
    if description["type"] == "Dict":
        return spaces.Dict([(k, _restore(v)) for k, v in description["spaces"]])
    if description["type"] == "Tuple":
        return spaces.Tuple([_restore(v) for v in description["spaces"]])
    if description["type"] == "MultiBinary":
        return spaces.MultiBinary(description["n"])
    dtype = np.dtype(str(description["dtype"]))
    if dtype.kind not in ("fiub" if description["type"] == "Box" else "iu"):
        raise ValueError(f"{dtype} is no type of numbers")
    match description["type"]:
        case "Box":
            shape = tuple(description["shape"])
            kind = np.dtype(np.float64) if dtype.kind == "f" else dtype
            low, high = (
                np.broadcast_to(values[0], shape) if len(values) == 1 else values.reshape(shape)
                for values in (_numbers(description[k], kind).astype(dtype) for k in ("low", "high"))
            )
            if not (low <= high).all():
                raise ValueError("a lower bound is not below the upper one")
            return spaces.Box(low, high, shape, dtype.type)
        case "Discrete":
            made = spaces.Discrete(description["n"], start=description["start"])
            if description["dtype"] == str(made.dtype):
                return made
            # Gymnasium before 1.2 knows int64 only, and takes no dtype.
            return spaces.Discrete(description["n"], start=description["start"], dtype=dtype.type)
        case _:
            nvec, start = _whole(description["nvec"]), _whole(description["start"])
            return spaces.MultiDiscrete(nvec, dtype=dtype.type, start=start)


def _whole(described: list[Any]) -> NDArray[Any]:
    numbers = np.array(described)
    if numbers.dtype.kind not in "iu":
        raise ValueError(f"{described!r:.200} are not whole numbers")
    return numbers


def _numbers(described: list[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.array([float(x) if isinstance(x, str) else x for x in described], dtype)
