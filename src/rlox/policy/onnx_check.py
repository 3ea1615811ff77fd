"""Whether an ONNX file does what the policy does that it was made from."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.envs.spaces import leaves, whole_range
from rlox.errors import ExportError

if TYPE_CHECKING:
    from rlox.policy.policy import Policy

N_CHECKED = 64
"""Observations on which the file is compared with the policy."""
TOLERANCE = 1e-5
"""Of the action range, or of the largest logit: how far the two may be from each other."""
_LARGE = 1e6  # bounds beyond it are no scale to draw observations at


def can_check() -> bool:
    """Return whether onnxruntime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


def input_name(keys: tuple[Any, ...]) -> str:
    """Return the name of the input for an entry of the observation."""
    return ".".join(("obs", *map(str, keys)))


def input_dtype(leaf: Any) -> np.dtype[Any]:
    """Return the type of the input for an entry of the observation."""
    if isinstance(leaf, spaces.Discrete | spaces.MultiDiscrete):
        return np.dtype(np.int64)
    return np.dtype(np.float32) if leaf.dtype.kind == "f" else leaf.dtype


def check(content: bytes, policy: Policy) -> None:
    """Compare a model with ``policy.predict`` on ``N_CHECKED`` observations.

    Raises:
        ExportError: an action differs by more than rounding explains.
    """
    import onnxruntime

    space, codec = policy.observation_space, policy.codec
    obs = _draw(space, np.random.default_rng(0))
    feed = {input_name(keys): functools.reduce(operator.getitem, keys, obs) for keys, _ in leaves(space)}
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    action, parameter, *_ = (np.asarray(output) for output in session.run(None, feed))
    expected = policy.predict(obs)
    # Rounding errors grow with what is summed up.
    slack = TOLERANCE * max(1.0, float(np.abs(parameter).max()))
    if action.shape != expected.shape or action.dtype != expected.dtype:
        agree = False
    elif codec.nvec:
        agree = all(_is_best(parameter, codec.nvec, codec.encode(taken), slack) for taken in (action, expected))
    else:
        low, high = (codec.decode(parameter + side * 2 * slack) for side in (-1, 1))
        agree = all(((low <= taken) & (taken <= high)).all() for taken in (action, expected))
    if not agree:
        raise ExportError(
            f"The ONNX file does not do what the policy does: of {N_CHECKED} observations, an action differs by more "
            f"than {TOLERANCE} of its range. Nothing was written; please report it."
        )


def _is_best(logits: NDArray[Any], nvec: tuple[int, ...], choices: NDArray[Any], slack: float) -> bool:
    """Return whether each component's choice exists, and none has a logit above its by more than ``slack``."""
    if ((choices < 0) | (choices >= nvec)).any():
        return False
    parts = np.split(logits, list(itertools.accumulate(nvec))[:-1], axis=1)
    chosen = [np.take_along_axis(part, choices[:, i : i + 1], axis=1)[:, 0] for i, part in enumerate(parts)]
    return all((taken >= part.max(axis=1) - slack).all() for taken, part in zip(chosen, parts, strict=True))


def _draw(space: spaces.Space[Any], rng: np.random.Generator) -> Any:
    """Return a batch of ``N_CHECKED`` observations: uniform between two bounds, else normal, or on one's side."""
    match space:
        case spaces.Dict():
            return {key: _draw(part, rng) for key, part in space.spaces.items()}
        case spaces.Tuple():
            return tuple(_draw(part, rng) for part in space.spaces)
        case spaces.Discrete():
            return space.start + rng.integers(space.n, size=N_CHECKED)
        case spaces.MultiDiscrete():
            return space.start + rng.integers(space.nvec, size=(N_CHECKED, *space.shape))
        case spaces.Box():
            low, high = space.low.astype(np.float64), space.high.astype(np.float64)
            if whole_range(space)[1] is not None:
                whole: Any = space
                return rng.integers(whole.low, whole.high, (N_CHECKED, *whole.shape), whole.dtype, endpoint=True)
            above, below = np.abs(low) <= _LARGE, np.abs(high) <= _LARGE
            shape = (N_CHECKED, *space.shape)
            drawn = rng.standard_normal(shape)
            drawn = np.where(above, low + np.abs(drawn), np.where(below, high - np.abs(drawn), drawn))
            both = above & below
            low, high = (np.where(both, bound, 0) for bound in (low, high))
            drawn = np.where(both, rng.uniform(low, high, shape), drawn)
            drawn = np.clip(np.rint(drawn) if space.dtype.kind in "iub" else drawn, space.low, space.high)
            return drawn.astype(input_dtype(space))
    return rng.integers(2, size=(N_CHECKED, *(space.shape or ())), dtype=np.int8)
