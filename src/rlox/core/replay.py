"""A ring of columns on the device, one stream an environment. Functions on a value: extend, sample, cut."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int, PRNGKeyArray
from numpy.typing import NDArray

from rlox.core.transition import Layout, Transition


class Replay(NamedTuple):
    """Transitions in the order in which they were seen, stream by stream."""

    columns: Transition
    """Each ``(rows, n, ...)``: a row a step, a column of it an environment."""
    position: Int[Array, " n"]
    """Row that each stream writes next."""
    size: Int[Array, " n"]
    """Rows of each stream that hold a transition."""


def create(capacity: int, n: int, layout: Layout) -> Replay:
    """Return an empty replay of ``capacity // n`` rows (at least one) for ``n`` streams."""
    columns = layout.zeros(max(capacity // n, 1), n, of=jnp)
    return Replay(columns, jnp.zeros(n, jnp.int32), jnp.zeros(n, jnp.int32))


def fill(transitions: Transition, capacity: int, n: int) -> Replay:
    """Return a replay of ``n`` streams that holds ``(N, ...)`` transitions, and has room for ``capacity``, or for all.

    Each stream takes an equal stretch of them in order; where a stretch ends, its episode is cut.
    """
    total = len(transitions.reward)
    rows = -(-max(capacity, total) // n)
    taken = -(-total // n)
    size = np.clip(total - taken * np.arange(n), 0, taken).astype(np.int32)

    def column(values: NDArray[Any]) -> Array:
        if n == 1 and rows == total:
            return jnp.asarray(values[:, None])
        full = np.zeros((rows, n, *values.shape[1:]), values.dtype)
        for i in range(n):
            stretch = values[i * taken : (i + 1) * taken]
            full[: len(stretch), i] = stretch
            full[len(stretch) : taken, i] = values[-1]
        return jnp.asarray(full)

    columns = Transition(*map(column, transitions))
    return cut(Replay(columns, jnp.asarray(size % rows), jnp.asarray(size)))


def trim(replay: Replay) -> Replay:
    """Return a copy, on the host, of the rows in use; with them a row may be added only after ``refill``."""
    filled = int(replay.size.max())
    columns = jax.tree.map(lambda column: np.array(column[:filled]), replay.columns)
    return jax.tree.map(np.array, replay._replace(columns=columns))


def refill(rows: int, trimmed: Replay) -> Replay:
    """Return the replay of ``rows`` rows whose rows in use are those that ``trim`` returned."""

    def column(kept: NDArray[Any]) -> Array:
        full = np.zeros((rows, *kept.shape[1:]), kept.dtype)
        full[: len(kept)] = kept
        return jnp.asarray(full)

    columns = Transition(*map(column, trimmed.columns))
    return Replay(columns, jnp.asarray(trimmed.position), jnp.asarray(trimmed.size))


def extend(replay: Replay, transitions: Transition, valid: Bool[Array, "k n"]) -> Replay:
    """Return the replay with ``k`` more transitions in each stream, in order, leaving out those not ``valid``.

    Of more than there are rows, the last ones are kept.
    """
    rows, n = replay.columns.reward.shape
    count = jnp.cumsum(valid, axis=0)
    if len(valid) > rows:
        # Which of two values for one place a scatter keeps is not defined.
        valid &= count > count[-1] - rows
    # A scatter, for the same reason as the flat index of `sample`.
    row = jnp.where(valid, (replay.position + count - 1) % rows, rows)
    columns = jax.tree.map(
        lambda column, new: column.at[row, jnp.arange(n)].set(new.astype(column.dtype), mode="drop"),
        replay.columns,
        transitions,
    )
    return Replay(columns, (replay.position + count[-1]) % rows, jnp.minimum(replay.size + count[-1], rows))


def in_order(replay: Replay) -> tuple[Int[Array, "rows n"], Bool[Array, " N"]]:
    """Return the places of each stream's steps in the flattened columns, newest last, and which places are taken."""
    rows, n = replay.columns.reward.shape
    row = jnp.arange(rows)[:, None]
    return (replay.position + row) % rows * n + jnp.arange(n), (row < replay.size).ravel()


def flatten(replay: Replay) -> Transition:
    """Return the columns with one leading axis: a place for every step."""
    return jax.tree.map(lambda column: column.reshape(-1, *column.shape[2:]), replay.columns)


def sample(replay: Replay, key: PRNGKeyArray, shape: tuple[int, ...]) -> Transition:
    """Return transitions drawn uniformly with replacement, of leading axes ``shape``."""
    # One flat index: into a gather by two, XLA would fuse the write before it, and copy the column.
    index = draw(replay, key, shape)
    return jax.tree.map(lambda column: column.at[index].get(mode="promise_in_bounds"), flatten(replay))


def sample_mixed(
    replay: Replay, data: Replay, share: ArrayLike, key: PRNGKeyArray, shape: tuple[int, ...]
) -> Transition:
    """Return transitions each of which is from ``data`` with probability ``share``, and otherwise from ``replay``."""
    pick, *keys = jax.random.split(key, 3)
    logged = jax.random.uniform(pick, shape) < share

    def mix(seen: Array, known: Array) -> Array:
        return jnp.where(logged.reshape(*shape, *[1] * (seen.ndim - len(shape))), known, seen)

    return jax.tree.map(mix, sample(replay, keys[0], shape), sample(data, keys[1], shape))


def draw(replay: Replay, key: PRNGKeyArray, shape: tuple[int, ...]) -> Int[Array, ...]:
    """Return places of stored steps in the flattened columns, uniform, with replacement.

    The draw is a 32-bit number modulo the size: no place is likelier than another by more than size / 2^32.
    """
    size, n = replay.size, replay.size.shape[0]
    ends = jnp.cumsum(size)
    index = (jax.random.bits(key, shape) % ends[-1].astype(jnp.uint32)).astype(jnp.int32)
    if n == 1:
        return index
    stream = jnp.searchsorted(ends, index, side="right")
    return (index - (ends - size)[stream]) * n + stream


def cut(replay: Replay, streams: ArrayLike = True) -> Replay:
    """Return the replay with the last transition of ``streams`` marked truncated, unless its episode ended there."""
    rows, n = replay.columns.reward.shape
    last, every = (replay.position - 1) % rows, jnp.arange(n)
    ended = replay.columns.terminated[last, every] | (replay.size == 0)
    truncated = replay.columns.truncated.at[last, every].max(~ended & streams)
    return replay._replace(columns=replay.columns._replace(truncated=truncated))
