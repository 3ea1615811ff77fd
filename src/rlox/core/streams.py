"""Where environments are, as a value. This module never imports JAX."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Streams(NamedTuple):
    """Where ``n`` environments are; what it takes to bring others of their kind there."""

    episode: NDArray[np.int64]
    """``(n,)``: number of the episode that each is in, or will begin if its length is 0."""
    returns: NDArray[np.float64]
    """``(n,)``: sum of its rewards so far."""
    lengths: NDArray[np.int64]
    """``(n,)``: its steps so far."""
    actions: NDArray[Any]
    """``(k, *shape)``: the actions of all these episodes so far, one environment after another."""
    kept: NDArray[np.int64]
    """``(n,)``: how many of them are each environment's."""
    digest: NDArray[np.int64]
    """``(n,)``: checksum of what each has shown since its reset; -1 if that is not known."""
