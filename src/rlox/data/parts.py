"""Parts of a dataset: some of its rows, or some of its episodes. Columns of a file stay there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlox.data.checks import check_usable
from rlox.data.columns import Column, FileColumn, JoinedColumns
from rlox.errors import DatasetError

if TYPE_CHECKING:
    from rlox.data.dataset import Dataset

Ranges = NDArray[np.int64]
"""First row and the row after the last of each range, ``(M, 2)``, in order."""


@dataclasses.dataclass(frozen=True, eq=False)
class ChosenRows:
    """Ranges of the rows of a column that stays where it is, one after another."""

    source: Column
    ranges: Ranges

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.source.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    def __len__(self) -> int:
        return int((self.ranges[:, 1] - self.ranges[:, 0]).sum())

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(len(self))
        ends = np.cumsum(self.ranges[:, 1] - self.ranges[:, 0])
        read = []
        for i in range(int(np.searchsorted(ends, start, side="right")), len(ends)):
            first, last = self.ranges[i].tolist()
            begin = int(ends[i]) - (last - first)
            if begin >= stop:
                break
            read.append(self.source[first + max(start - begin, 0) : min(last, first + stop - begin)])
        return np.concatenate(read) if read else self.source[:0]


class Episode(Mapping[str, NDArray[Any]]):
    """One episode: its columns by name, each ``(T, ...)``, read when they are asked for."""

    def __init__(self, columns: Mapping[str, Column], rows: slice):
        self._columns, self._rows = columns, rows

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._columns[name][self._rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def choose(column: Column, ranges: Ranges) -> Column:
    """Return ranges of the rows of a column."""
    if isinstance(column, JoinedColumns):
        return JoinedColumns([choose(part, ranges) for part in column.parts])
    if isinstance(column, np.ndarray):
        parts = [column[first:last] for first, last in ranges.tolist()]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
    if isinstance(column, FileColumn) and len(ranges) == 1:
        first, last = ranges[0].tolist()
        return dataclasses.replace(column, start=column.start + first, stop=column.start + last)
    return ChosenRows(column, ranges)


def rows_of(dataset: Dataset, rows: slice) -> Dataset:
    """Return steps of a dataset, given without a stride; an episode that they cut is not whole there."""
    start, stop, _ = rows.indices(len(dataset))
    name = f"{dataset.name}[{start}:{stop}]"
    if stop <= start:
        raise DatasetError(f"{name} has no steps: {dataset.name} has {len(dataset):,}.")
    table = {key: choose(column, np.array([[start, stop]])) for key, column in dataset.columns.items()}
    terminals, timeouts = table["terminals"][:], table["timeouts"][:].copy()
    if dataset.partial[1] and stop == len(dataset):
        timeouts[-1] = False
    cut = not (terminals[-1] or timeouts[-1])
    timeouts[-1] |= cut
    table["timeouts"] = timeouts
    check_usable(table, name)
    before = slice(start - 1, start)
    ended = start > 0 and bool((dataset.columns["terminals"][before] | dataset.columns["timeouts"][before]).any())
    inside = dataset.partial[0] if start == 0 else not ended
    return dataclasses.replace(dataset, columns=table, name=name, partial=(inside, bool(cut)))


def split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Return two datasets of whole episodes, drawn at random; see ``Dataset.split``."""
    whole = dataset.episodes()
    n = len(whole)
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise DatasetError(f"fraction={fraction!r} must be between 0 and 1, such as 0.9.")
    if n < 2:
        raise DatasetError(f"{dataset.name} has {n} whole episode{'s' * (n != 1)}: a split needs at least two.")
    n_first = min(max(round(fraction * n), 1), n - 1)
    drawn = np.random.default_rng(seed).permutation(n)
    first, second = (whole[np.sort(chosen)] for chosen in (drawn[:n_first], drawn[n_first:]))
    # What is not whole can be learned from, but has no return.
    head, tail = [[0, whole[0, 0]]], [[whole[-1, 1], len(dataset)]]
    return (
        _of_ranges(dataset, np.concatenate([head, first, tail]), f"{n_first} of {n} episodes", dataset.partial),
        _of_ranges(dataset, second, f"{n - n_first} of {n} episodes", (False, False)),
    )


def keep(dataset: Dataset, wanted: Callable[[Episode], Any]) -> Dataset:
    """Return the whole episodes that a function says yes to; see ``Dataset.filter``."""
    whole = dataset.episodes()
    kept = [bool(wanted(Episode(dataset.columns, slice(*bounds)))) for bounds in whole.tolist()]
    if not any(kept):
        raise DatasetError(f"None of the {len(whole):,} whole episodes of {dataset.name} is kept by that filter.")
    about = f"{sum(kept)} of {len(whole)} episodes"
    return _of_ranges(dataset, whole[np.array(kept)], about, (False, False))


def _of_ranges(dataset: Dataset, ranges: Ranges, about: str, partial: tuple[bool, bool]) -> Dataset:
    ranges = ranges[ranges[:, 1] > ranges[:, 0]]
    # Ranges that touch are one.
    apart = np.append(True, ranges[1:, 0] != ranges[:-1, 1])
    joined = np.stack([ranges[apart, 0], ranges[np.append(apart[1:], True), 1]], axis=1)
    columns = {key: choose(column, joined) for key, column in dataset.columns.items()}
    name = f"{dataset.name}, {about}"
    check_usable(columns, name)
    return dataclasses.replace(dataset, columns=columns, name=name, partial=partial)
