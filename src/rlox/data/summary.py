"""What logged data hold, and what in them is suspicious, from one pass over the rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.core.transition import LARGE_OBS
from rlox.data.columns import Column, episode_returns, group, pieces
from rlox.data.moments import Coverage, Moments

WIDE = 256
"""Observations with more entries than this, such as images, are described as if they had one entry."""
LARGE_REWARD = 500.0
"""Larger rewards of a step make advantages that no default temperature is for."""


def summarize(
    table: Mapping[str, Column], bounds: NDArray[np.int64], action_space: spaces.Space[Any], name: str
) -> dict[str, Any]:
    """Return what a dataset holds as plain JSON values.

    Args:
        table: the columns of a ``Dataset``.
        bounds: first row of each whole episode and the row after its last, ``(n_episodes, 2)``.
        action_space: of the actions.
        name: of the dataset.

    Returns:
        ``name``, ``steps``, ``columns``; ``episodes`` (whole ones), ``terminated`` and ``truncated`` (shares of
        them), ``returns`` and ``lengths`` (``mean``, ``std``, ``min``, ``q25``, ``median``, ``q75``, ``max``; None
        without a whole episode), ``rewards`` (``min``, ``max``, ``mean``); ``observations``, for each column ``shape``,
        ``dtype``, and ``min``, ``max``, ``mean``, ``std`` of each entry (of all together if there are more than 256);
        ``actions``, the same, and for each component of a choice ``frequency`` and ``never_taken``, for each of a
        continuous action ``bins_covered`` (share of ten bins of the range that hold data) and ``at_bounds`` (share of
        the actions); ``suspicious``, a list of sentences.
    """
    moments, coverage, hashes = _scan(table, action_space, name)
    rewards, lengths = table["rewards"][:], bounds[:, 1] - bounds[:, 0]
    terminated = float(np.mean(table["terminals"][:][bounds[:, 1] - 1])) if len(bounds) else 0.0
    described = {
        key: {"shape": list(table[key].shape[1:]), "dtype": str(table[key].dtype), **moment.describe()}
        for key, moment in moments.items()
    }
    summary: dict[str, Any] = {
        "name": name,
        "steps": len(rewards),
        "columns": list(table),
        "episodes": len(bounds),
        "terminated": terminated,
        "truncated": 1.0 - terminated if len(bounds) else 0.0,
        "returns": _distribution(episode_returns(rewards, bounds)),
        "lengths": _distribution(lengths),
        "rewards": {
            "min": float(rewards.min()),
            "max": float(rewards.max()),
            "mean": float(rewards.mean(dtype=np.float64)),
        },
        "observations": {key: described[key] for key in group(table, "observations")},
        "actions": {**described["actions"], **coverage.describe()},
    }
    summary["suspicious"] = [
        *(sentence for key, moment in moments.items() for sentence in _about_entries(key, moment)),
        *_about_actions(summary),
        *_about_episodes(summary, lengths, bool(table["terminals"][:].any())),
        *_about_repeats(hashes, bounds),
    ]
    return summary


def _scan(
    table: Mapping[str, Column], action_space: spaces.Space[Any], name: str
) -> tuple[dict[str, Moments], Coverage, NDArray[np.uint64]]:
    """Return the statistics of observations and actions, the coverage of the actions, and a hash of each row."""
    scanned = {**group(table, "observations"), "actions": table["actions"]}
    moments = {key: Moments(_entries(column.shape)) for key, column in scanned.items()}
    coverage = Coverage(action_space)
    rewards: NDArray[Any] = table["rewards"][:]
    hashes = np.zeros(len(rewards), np.uint64)
    for rows in pieces(scanned.values(), f"Summarising {name}"):
        parts = [np.asarray(rewards[rows])[:, None]]
        for key, moment in moments.items():
            piece = scanned[key][rows].reshape(rows.stop - rows.start, -1)
            moment.add(piece if piece.shape[1] == len(moment.low) else piece.reshape(-1, 1))
            parts.append(piece)
        coverage.add(parts[-1])
        hashes[rows] = _hash_rows(parts)
    return moments, coverage, hashes


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
    """Return a number for each row; different rows have the same one with a probability of about 1e-19."""
    rng = np.random.default_rng(0)
    total: Any = np.uint64(0)
    for part in parts:
        part = np.ascontiguousarray(part if part.itemsize <= 8 else part.astype(np.float64))
        bits = part.view(f"u{part.itemsize}")
        for entry in bits.T:
            # An odd factor, so that no bit of the entry is lost.
            total = total + entry.astype(np.uint64) * (rng.integers(2**64, dtype=np.uint64) | np.uint64(1))
    return total


def _about_entries(key: str, moment: Moments) -> list[str]:
    alone = len(moment.low) == 1
    what = [key if alone else f"{key}[{i}]" for i in range(len(moment.low))]
    found = [f"{what[i]} is {moment.low[i]:g} in every row." for i in moment.constant()]
    found += [f"{what[j]} is the same as {what[i]} in every row." for i, j in moment.duplicates()]
    largest = np.maximum(np.abs(moment.low), np.abs(moment.high))
    large = np.flatnonzero(largest > LARGE_OBS) if key != "actions" else []
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


def _about_episodes(summary: dict[str, Any], all_lengths: NDArray[np.int64], any_terminal: bool) -> list[str]:
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
    largest = max(-rewards["min"], rewards["max"])
    if largest > LARGE_REWARD:
        found.append(
            f"Rewards of up to {largest:.3g}: weights are exp(advantage / beta), and nearly all may be clipped; divide "
            f"the rewards by about {float(f'{largest:.1g}'):,.0f}, or raise beta as much."
        )
    if not any_terminal:
        found.append(
            "No episode ends in a terminal state, all are truncated: that is right only if nothing but a time limit "
            "ends them."
        )
    short = int((all_lengths == 1).sum())
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
        # Multiplied by their place before they are added, so that the order of an episode's steps matters.
        mixed = (hashes[begin:end] ^ (hashes[begin:end] >> np.uint64(29))) * (
            2 * place.astype(np.uint64) + np.uint64(1)
        )
        episodes = np.add.reduceat(mixed, bounds[:, 0] - begin)[bounds[:, 1] - bounds[:, 0] >= 5]
        again = len(episodes) - len(np.unique(episodes))
        if again:
            found.append(f"{again:,} of {len(bounds):,} episodes are copies of others, step for step.")
    return found


def format_summary(summary: dict[str, Any]) -> str:
    """Return what ``Dataset.summary`` says as lines for a terminal."""
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
