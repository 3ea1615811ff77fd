"""Columns of logged steps, in memory or in a file: their names, and reading them in pieces."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.errors import DatasetError, one_line
from rlox.memory import available_memory
from rlox.runs.progress import track

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations", "action_log_probs", "episode")
PER_STEP = ("rewards", "terminals", "timeouts", "action_log_probs", "episode")
"""Columns of one value per step, which are always in memory."""

SPACES = ("observation_space", "action_space")
"""What files call the spaces that they keep."""

ColumnNames = Mapping[str, str | Sequence[str]]
"""From the name of a column here to its name in the source, or to several names, which are put side by side."""


class Column(Protocol):
    """What a NumPy array and an ``h5py.Dataset`` have in common: rows are read by slices."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


class MinariLike(Protocol):
    """A ``minari.MinariDataset``."""

    @property
    def id(self) -> str: ...

    def iterate_episodes(self, episode_indices: Any = None) -> Any: ...


@dataclasses.dataclass(frozen=True, eq=False)
class FileColumn:
    """The rows from ``start`` to ``stop`` of a column that stays in its file."""

    source: Column
    start: int
    stop: int
    dtype: np.dtype[Any]
    path: Path

    @property
    def shape(self) -> tuple[int, ...]:
        # The shape of an empty HDF5 dataset is None.
        return (len(self), *(self.source.shape or ())[1:])

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(len(self))
        try:
            return self.source[self.start + start : self.start + max(start, stop)]
        except Exception as error:  # h5py raises many types of errors on a damaged file.
            raise DatasetError(f"'{self.path}' is damaged ({type(error).__name__}: {one_line(error)}).") from None


@dataclasses.dataclass(frozen=True, eq=False)
class JoinedColumns:
    """Columns side by side, each ``(N,)`` or ``(N, k)``, as one of ``(N, sum of k)``."""

    parts: Sequence[Column]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), sum(math.prod(part.shape[1:]) for part in self.parts))

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.result_type(*(part.dtype for part in self.parts))

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        read = [part[rows] for part in self.parts]
        return np.concatenate(
            [part.reshape(len(part), math.prod(part.shape[1:])) for part in read], axis=1, dtype=self.dtype
        )


class Source(NamedTuple):
    """Where columns come from: their names, how to read rows of some of them, and the spaces if it has them."""

    names: list[str]
    read: Callable[[list[str], slice], Mapping[str, Column]]
    observation_space: spaces.Space[Any] | None = None
    action_space: spaces.Space[Any] | None = None
    read_ids: Callable[[str, slice], Column] | None = None
    """How to read a column of ids, where ``read`` takes text for numbers: 3.1 and 3.10 are two episodes."""


def flatten(columns: Mapping[Any, Any], above: str = "") -> dict[str, Any]:
    """Return nested mappings as one, whose names are paths such as ``observations/goal``.

    Raises:
        DatasetError: two columns have the same path.
    """
    flat: dict[str, Any] = {}
    for key, value in columns.items():
        name = f"{above}{key}"
        for path, column in (flatten(value, f"{name}/") if isinstance(value, Mapping) else {name: value}).items():
            if path in flat:
                raise DatasetError(f"There are two columns '{path}': rename one of them.")
            flat[path] = column
    return flat


def group(table: Mapping[str, Column], name: str) -> dict[str, Column]:
    """Return the column ``name``, or those below it (``name/...``)."""
    return {key: column for key, column in table.items() if key == name or key.startswith(f"{name}/")}


def row_bytes(columns: Iterable[Column]) -> int:
    """Return the size of one row of all the columns."""
    return sum(column.dtype.itemsize * math.prod(column.shape[1:]) for column in columns)


def pieces(columns: Iterable[Column], what: str, *, encoded: int = 0) -> Iterator[slice]:
    """Yield slices that cover the rows of columns, each at most 65,536 rows and about 16 MiB of all of them.

    ``encoded`` is the number of bytes that a row takes besides, once it is encoded.

    If that takes over two seconds, a line on a terminal shows ``what`` and the progress.

    Raises:
        DatasetError: a row does not fit in memory.
    """
    columns = list(columns)
    size, total = row_bytes(columns) + encoded, len(columns[0])
    step = max(min(65_536, 2**24 // max(size, 1), total), 1)
    check_memory(size * step, what)
    slices = (slice(at, min(at + step, total)) for at in range(0, total, step))
    return track(what, slices, total, at=lambda rows: rows.start)


def episode_returns(rewards: Column, bounds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the sum of the rewards of each episode, ``(n_episodes,)``, from its ``bounds``, ``(n_episodes, 2)``."""
    if not len(bounds):
        return np.zeros(0)
    first = bounds[0, 0]
    return np.add.reduceat(rewards[first : bounds[-1, 1]].astype(np.float64), bounds[:, 0] - first)


def check_memory(needed: int, name: str) -> None:
    """Refuse to make arrays that do not fit in memory.

    Raises:
        DatasetError: more bytes are needed than available.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise DatasetError(
            f"{name} needs {needed / 2**30:.1f} GiB of memory, but {available / 2**30:.1f} GiB are available: load a "
            "part of it, such as Dataset.load(path, rows=slice(0, 1_000_000))."
        )
