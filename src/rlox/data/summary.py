"""What logged data hold, and what in them is suspicious, found in one pass over their rows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.data.columns import group, pieces
from rlox.envs.spaces import action_codec

if TYPE_CHECKING:
    from rlox.data.dataset import Dataset

BINS = 10
"""Into so many bins the range of each component of a continuous action is divided."""
WIDE = 256
"""Observations with more entries than this, such as images, are described as if they had one."""
LARGE = 1e4
"""Observations beyond this are hard to learn from as they are."""


class Moments:
    """Range, mean and standard deviation of each entry of a column, and which entries are the same."""

    def __init__(self, n_entries: int):
        self.count = 0
        self.low, self.high = np.full(n_entries, np.inf), np.full(n_entries, -np.inf)
        self.mean, self._square = np.zeros(n_entries), np.zeros(n_entries)
        self._digests = [hashlib.blake2b(digest_size=16) for _ in range(n_entries)]

    def add(self, piece: NDArray[Any]) -> None:
        """Add ``(n, n_entries)`` rows.

        Pieces are joined as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm" (1979).
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
        """Return the statistics, a list with a value an entry each."""
        std = np.sqrt(self._square / self.count)
        named = {"min": self.low, "max": self.high, "mean": self.mean, "std": std}
        return {key: values.tolist() for key, values in named.items()}

    def constant(self) -> list[int]:
        """Return the entries that never change."""
        return np.flatnonzero(self.low == self.high).tolist()

    def twins(self) -> list[tuple[int, int]]:
        """Return pairs of entries that change, and are the same in every row."""
        first: dict[bytes, int] = {}
        constant = set(self.constant())
        found = []
        for i, digest in enumerate(self._digests):
            if i not in constant and (seen := first.setdefault(digest.digest(), i)) != i:
                found.append((seen, i))
        return found


class Coverage:
    """How much of its space the actions of a column take up."""

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
        """Return the frequency of each choice, or the share of bins that hold data and of actions at the bounds."""
        if self.nvec:
            starts = np.broadcast_to(np.ravel(getattr(self.space, "start", 0)), len(self.nvec))
            never = [
                (np.flatnonzero(count == 0) + start).tolist() for count, start in zip(self._counts, starts, strict=True)
            ]
            return {"frequency": [(count / self._total).tolist() for count in self._counts], "never_taken": never}
        covered = [float((count > 0).mean()) for count in self._counts]
        return {"bins_covered": covered, "at_bounds": (self._at_bounds / self._total).tolist()}


def summarize(dataset: Dataset) -> dict[str, Any]:
    """Return what a dataset holds as plain JSON values.

    Returns:
        ``name``, ``steps``, ``columns``; ``episodes`` (whole ones), ``terminated`` and ``truncated`` (their shares),
        ``returns`` and ``lengths`` (``mean``, ``std``, ``min``, ``q25``, ``median``, ``q75``, ``max``; None without
        a whole episode), ``rewards`` (``min``, ``max``, ``mean``); ``observations``, a description a column:
        ``shape``, ``dtype``, and ``min``, ``max``, ``mean``, ``std`` entry by entry (an entry for all where there are
        more than 256); ``actions``, the same, and for each component of a choice ``frequency`` and ``never_taken``, or
        for each of a continuous action ``bins_covered`` (share of ten bins of the range that hold data) and
        ``at_bounds`` (share of the actions); ``suspicious``, a list of sentences.
    """
    table, bounds = dataset.columns, dataset.episodes()
    observed = group(table, "observations")
    moments = {
        key: Moments(_entries(column.shape)) for key, column in {**observed, "actions": table["actions"]}.items()
    }
    coverage = Coverage(dataset.action_space)
    hashes = np.zeros(len(dataset), np.uint64)
    rewards: NDArray[Any] = table["rewards"][:]
    for rows in pieces([*observed.values(), table["actions"]], f"Summarising {dataset.name}"):
        parts = [np.asarray(rewards[rows])[:, None]]
        for key, moment in moments.items():
            piece = table[key][rows].reshape(rows.stop - rows.start, -1)
            moment.add(piece if piece.shape[1] == len(moment.low) else piece.reshape(-1, 1))
            parts.append(piece)
        coverage.add(parts[-1])
        hashes[rows] = _hash_rows(parts)
    lasts = bounds[:, 1] - 1
    terminated = float(np.mean(table["terminals"][:][lasts])) if len(lasts) else 0.0
    described = {
        key: {"shape": list(table[key].shape[1:]), "dtype": str(table[key].dtype), **moment.describe()}
        for key, moment in moments.items()
    }
    summary: dict[str, Any] = {
        "name": dataset.name,
        "steps": len(dataset),
        "columns": list(table),
        "episodes": len(bounds),
        "terminated": terminated,
        "truncated": 1.0 - terminated if len(lasts) else 0.0,
        "returns": _distribution(dataset.episode_returns),
        "lengths": _distribution(dataset.episode_lengths),
        "rewards": {"min": float(rewards.min()), "max": float(rewards.max()), "mean": float(rewards.mean())},
        "observations": {key: described[key] for key in observed},
        "actions": {**described["actions"], **coverage.describe()},
    }
    entries = [sentence for key, moment in moments.items() for sentence in _about_entries(key, moment)]
    summary["suspicious"] = [
        *entries, *_about_actions(summary), *_about_episodes(summary, dataset), *_about_repeats(hashes, bounds)
    ]  # fmt: skip
    return summary


def _entries(shape: Sequence[int]) -> int:
    entries = math.prod(shape[1:])
    return entries if entries <= WIDE else 1


def _distribution(values: NDArray[Any]) -> dict[str, float] | None:
    if not len(values):
        return None
    names = ("min", "q25", "median", "q75", "max")
    quartiles = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
    return {"mean": float(values.mean()), "std": float(values.std()), **dict(zip(names, quartiles, strict=True))}


def _hash_rows(parts: Iterable[NDArray[Any]]) -> NDArray[np.uint64]:
    """Return a number a row that rows have in common only if they are the same, but for a chance of about 1e-19."""
    rng = np.random.default_rng(0)
    total: Any = np.uint64(0)
    for part in parts:
        part = np.ascontiguousarray(part if part.itemsize <= 8 else part.astype(np.float64))
        bits = part.view(f"u{part.itemsize}")
        for entry in bits.T:
            # Odd, so that no bit of the entry is lost.
            total = total + entry.astype(np.uint64) * (rng.integers(2**64, dtype=np.uint64) | np.uint64(1))
    return total


def _about_entries(key: str, moment: Moments) -> list[str]:
    alone = len(moment.low) == 1
    what = [key if alone else f"{key}[{i}]" for i in range(len(moment.low))]
    found = [f"{what[i]} is {moment.low[i]:g} in every row." for i in moment.constant()]
    found += [f"{what[j]} is the same as {what[i]} in every row." for i, j in moment.twins()]
    largest = np.maximum(np.abs(moment.low), np.abs(moment.high))
    large = np.flatnonzero(largest > LARGE) if key != "actions" else []
    if len(large):
        names = ", ".join(what[i] for i in large[:5]) + (f" and {len(large) - 5} more" if len(large) > 5 else "")
        found.append(f"{names}: values up to {largest.max():.3g}; learn with normalize_obs=True.")
    return found


def _about_actions(summary: dict[str, Any]) -> list[str]:
    never = summary["actions"].get("never_taken", [])
    found = []
    for i, missing in enumerate(never):
        if missing:
            what = "The action" if len(never) == 1 else f"Component {i} of the action"
            named = [*map(str, missing[:5]), *([f"{len(missing) - 5} more"] if len(missing) > 5 else [])]
            choices = " or ".join([", ".join(named[:-1])] * (len(named) > 1) + named[-1:])
            found.append(
                f"{what} is never {choices}: nothing can be learned about {'it' if len(missing) == 1 else 'them'}."
            )
    return found


def _about_episodes(summary: dict[str, Any], dataset: Dataset) -> list[str]:
    found = []
    lengths, rewards = summary["lengths"], summary["rewards"]
    if rewards["min"] == rewards["max"]:
        same = not lengths or lengths["min"] == lengths["max"]
        tells = (
            "nothing tells good actions from bad ones"
            if same
            else "only the length of an episode tells how good it was"
        )
        found.append(f"Every reward is {rewards['min']:g}: {tells}.")
    if not dataset.columns["terminals"][:].any():
        found.append(
            "No episode ends in a terminal state, all are cut: right where only a time limit ends them, wrong where "
            "failing does."
        )
    short = int((dataset.episode_lengths == 1).sum())
    if short and short >= 0.01 * summary["episodes"]:
        found.append(f"{short:,} of {summary['episodes']:,} episodes have one step only.")
    return found


def _about_repeats(hashes: NDArray[np.uint64], bounds: NDArray[np.int64]) -> list[str]:
    found = []
    inside = np.ones(len(hashes), bool)
    inside[bounds[:, 0]] = inside[0] = False
    stuck = int(((hashes[1:] == hashes[:-1]) & inside[1:]).sum())
    if stuck > 0.1 * len(hashes):
        found.append(f"{stuck:,} of {len(hashes):,} steps repeat the step before them: observation, action and reward.")
    if len(bounds):
        begin, end = bounds[0, 0], bounds[-1, 1]
        place = np.arange(begin, end) - np.repeat(bounds[:, 0], bounds[:, 1] - bounds[:, 0])
        # Mixed before they are added up, so that the order of an episode's steps counts.
        mixed = (hashes[begin:end] ^ (hashes[begin:end] >> np.uint64(29))) * (
            2 * place.astype(np.uint64) + np.uint64(1)
        )
        episodes = np.add.reduceat(mixed, bounds[:, 0] - begin)[bounds[:, 1] - bounds[:, 0] >= 5]
        again = len(episodes) - len(np.unique(episodes))
        if again:
            found.append(f"{again:,} of {len(bounds):,} episodes are copies of others, step for step.")
    return found


def format_summary(summary: dict[str, Any]) -> str:
    """Return a summary as lines for a terminal."""
    s = summary
    lines = [
        f"{s['name']}: {s['steps']:,} steps, {s['episodes']:,} whole episodes "
        f"({s['terminated']:.0%} terminated, {s['truncated']:.0%} truncated)",
        f"rewards from {s['rewards']['min']:.4g} to {s['rewards']['max']:.4g}, mean {s['rewards']['mean']:.4g}",
    ]
    names = ("mean", "std", "min", "q25", "median", "q75", "max")
    spread = [[key, *(f"{s[key][name]:.4g}" for name in names)] for key in ("returns", "lengths") if s[key]]
    lines += ["", *_table(["", *names], spread)] if spread else []
    for key, column in {**s["observations"], "actions": s["actions"]}.items():
        lines += ["", f"{key}, {column['dtype']} {tuple(column['shape'])}", *_entry_table(column)]
    lines += ["", "Suspicious:", *(f"- {sentence}" for sentence in s["suspicious"])] if s["suspicious"] else []
    return "\n".join(lines)


def _entry_table(column: dict[str, Any]) -> list[str]:
    """Return the lines of the first entries of a column."""
    if "frequency" in column:
        return [
            "  " + ", ".join(f"{share:.1%}" for share in shares[:16]) + (", ..." if len(shares) > 16 else "")
            for shares in column["frequency"][:16]
        ]
    names = [name for name in ("min", "max", "mean", "std", "bins_covered", "at_bounds") if name in column]
    shown = range(min(len(column["min"]), 16))
    forms = {"bins_covered": ".0%", "at_bounds": ".1%"}
    rows = [[str(i), *(format(column[name][i], forms.get(name, ".4g")) for name in names)] for i in shown]
    more = len(column["min"]) - len(shown)
    return _table(["", *(name.replace("_", " ") for name in names)], rows) + ([f"  and {more} more"] if more else [])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]
    ]
