"""Statistics of columns that are read in pieces."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.envs.spaces import action_codec

BINS = 10
"""Number of bins that the range of each component of a continuous action is divided into."""


class Moments:
    """Range, mean and standard deviation of each entry of a column, and which entries are equal."""

    def __init__(self, n_entries: int):
        self.count = 0
        self.low, self.high = np.full(n_entries, np.inf), np.full(n_entries, -np.inf)
        self.mean, self._square = np.zeros(n_entries), np.zeros(n_entries)
        self._digests = [hashlib.blake2b(digest_size=16) for _ in range(n_entries)]

    def add(self, piece: NDArray[Any]) -> None:
        """Add ``(n, n_entries)`` rows.

        Pieces are combined as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm" (1979).
        """
        values, n = piece.astype(np.float64), len(piece)
        self.low, self.high = np.minimum(self.low, values.min(axis=0)), np.maximum(self.high, values.max(axis=0))
        mean = values.mean(axis=0)
        shift, total = mean - self.mean, self.count + n
        self._square += ((values - mean) ** 2).sum(axis=0) + shift**2 * self.count * n / total
        self.mean, self.count = self.mean + shift * n / total, total
        for digest, entry in zip(self._digests, piece.T, strict=True):
            digest.update(entry.tobytes())

    def describe(self) -> dict[str, Any]:
        """Return the statistics, each a list with one value per entry."""
        std = np.sqrt(self._square / self.count)
        named = {"min": self.low, "max": self.high, "mean": self.mean, "std": std}
        return {key: values.tolist() for key, values in named.items()}

    def constant(self) -> list[int]:
        """Return the entries that never change."""
        return np.flatnonzero(self.low == self.high).tolist()

    def duplicates(self) -> list[tuple[int, int]]:
        """Return pairs of entries that are equal in every row, without those that never change."""
        first: dict[bytes, int] = {}
        constant = set(self.constant())
        found = []
        for i, digest in enumerate(self._digests):
            if i not in constant and (seen := first.setdefault(digest.digest(), i)) != i:
                found.append((seen, i))
        return found


class Coverage:
    """How much of their space the actions of a column cover."""

    def __init__(self, space: spaces.Space[Any]):
        self.space = space
        codec = action_codec(space)
        self.nvec = codec.nvec
        self._counts = [np.zeros(k, np.int64) for k in codec.nvec or (BINS,) * codec.dim]
        self._at_bounds, self._total = np.zeros(codec.dim), 0

    def add(self, flat: NDArray[Any]) -> None:
        """Add ``(n, dim)`` actions."""
        self._total += len(flat)
        if isinstance(self.space, spaces.Box):
            low, high = (bound.ravel().astype(np.float64) for bound in (self.space.low, self.space.high))
            share = (flat - low) / np.where(high > low, high - low, 1.0)
            self._at_bounds += ((share <= 1e-6) | (share >= 1 - 1e-6)).sum(axis=0)
            places = np.clip((share * BINS).astype(np.int64), 0, BINS - 1)
        else:
            places = flat.astype(np.int64) - np.ravel(getattr(self.space, "start", 0))
        for count, place in zip(self._counts, places.T, strict=True):
            count += np.bincount(place, minlength=len(count))

    def describe(self) -> dict[str, Any]:
        """Return the frequency of each choice, or the shares of bins with data and of actions at the bounds."""
        if self.nvec:
            starts = np.broadcast_to(np.ravel(getattr(self.space, "start", 0)), len(self.nvec))
            never = [
                (np.flatnonzero(count == 0) + start).tolist() for count, start in zip(self._counts, starts, strict=True)
            ]
            return {"frequency": [(count / self._total).tolist() for count in self._counts], "never_taken": never}
        covered = [float((count > 0).mean()) for count in self._counts]
        return {"bins_covered": covered, "at_bounds": (self._at_bounds / self._total).tolist()}
