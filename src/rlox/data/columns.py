"""Columns of logged steps, in memory or left on disk: what they are called, and how they are walked."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.errors import DatasetError, did_you_mean, one_line

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations", "action_log_probs")
PER_STEP = ("rewards", "terminals", "timeouts", "action_log_probs")
"""Columns of one number a step, which are always in memory."""
ALIASES = {
    "terminals": ("terminations",),
    "timeouts": ("truncations",),
    "action_log_probs": ("infos/action_log_probs",),
}

ColumnNames = Mapping[str, str | Sequence[str]]
"""What a column of ours is called where it comes from; several are put side by side."""


class Column(Protocol):
    """What a NumPy array and an ``h5py.Dataset`` have in common: rows are read by slices."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


class Frame(Protocol):
    """What pandas and Polars frames have in common."""

    @property
    def columns(self) -> Any: ...

    def __getitem__(self, name: Any, /) -> Any: ...

    def to_numpy(self) -> NDArray[Any]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """The rows from ``start`` to ``stop`` of a column that stays in its file."""

    source: Column
    start: int
    stop: int
    path: Path

    @property
    def shape(self) -> tuple[int, ...]:
        # HDF5 has columns without a shape.
        return (len(self), *(self.source.shape or ())[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(len(self))
        try:
            return self.source[self.start + start : self.start + max(start, stop)]
        except Exception as error:  # A torn file can break its readers in any way.
            raise DatasetError(f"'{self.path}' is torn ({type(error).__name__}: {one_line(error)}).") from None


@dataclasses.dataclass(frozen=True, eq=False)
class Beside:
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
        return np.concatenate([part.reshape(len(part), -1) for part in read], axis=1, dtype=self.dtype)


class Source(NamedTuple):
    """Where columns come from: their names, how to read some rows of some of them, and the spaces if it knows them."""

    names: list[str]
    read: Callable[[list[str], slice], Mapping[str, Column]]
    observation_space: spaces.Space[Any] | None = None
    action_space: spaces.Space[Any] | None = None


def flatten(columns: Mapping[Any, Any], lead: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with a slash between the names."""
    flat: dict[str, Any] = {}
    for key, value in columns.items():
        flat |= flatten(value, f"{lead}{key}/") if isinstance(value, Mapping) else {f"{lead}{key}": value}
    return flat


def as_column(values: Any, name: str) -> Column:
    """Return what can be read by rows as it is, and anything else as an array."""
    if isinstance(values, np.ndarray):
        return values
    if hasattr(values, "dtype") and np.ndim(values) and isinstance(values[:0], np.ndarray):
        return values
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DatasetError(f"Column '{name}' is no array ({one_line(error)}): its rows must be alike.") from None


def take(source: Source, chosen: ColumnNames | None, rows: slice, name: str) -> dict[str, Column]:
    """Return the columns of a dataset that a source has, under their own names.

    Raises:
        DatasetError: one that is needed is missing, or those to be put side by side differ in length.
    """
    theirs = resolve(source.names, chosen or {}, name)
    wanted = dict.fromkeys(part for parts in theirs.values() for part in ([parts] if isinstance(parts, str) else parts))
    read = source.read(list(wanted), rows)
    table: dict[str, Column] = {}
    for ours, parts in theirs.items():
        if isinstance(parts, str):
            table[ours] = read[parts]
            continue
        lengths = {part: len(read[part]) for part in parts}
        if len(set(lengths.values())) > 1:
            raise DatasetError(f"{name}: the columns of '{ours}' differ in length: {lengths}.")
        beside = Beside([read[part] for part in parts])
        in_memory = all(isinstance(part, np.ndarray) for part in beside.parts)
        table[ours] = beside[:] if in_memory else beside
    return table


def resolve(names: Iterable[str], chosen: ColumnNames, name: str) -> dict[str, str | list[str]]:
    """Return what each column of a dataset is called among ``names``: one of them, or several in order.

    Raises:
        DatasetError: one that is needed, or that was chosen, is not there.
    """
    known = list(names)
    for ours, theirs in chosen.items():
        if ours.partition("/")[0] not in (*REQUIRED, *OPTIONAL):
            raise DatasetError(
                f"columns: a dataset has no column '{ours}'.{did_you_mean(ours, (*REQUIRED, *OPTIONAL))}"
            )
        for wanted in [theirs] if isinstance(theirs, str) else theirs:
            if wanted not in known:
                raise DatasetError(f"{name} has no column '{wanted}'.{did_you_mean(wanted, known)}")
    found: dict[str, str | list[str]] = {
        ours: theirs if isinstance(theirs, str) else list(theirs) for ours, theirs in chosen.items()
    }
    given = {ours.partition("/")[0] for ours in chosen}
    for wanted in (*REQUIRED, *OPTIONAL):
        if wanted not in given:
            found |= _find(wanted, known)
    for wanted in REQUIRED:
        if not any(ours.partition("/")[0] == wanted for ours in found):
            one_flag = next((flag for flag in ("dones", "done") if flag in known), None)
            if wanted == "terminals" and one_flag:
                raise DatasetError(
                    f"{name}: '{one_flag}' does not say whether an episode failed or was cut: give 'terminals' (the "
                    "state is terminal) and 'timeouts' (the episode was cut)."
                )
            raise DatasetError(f"{name} has no column '{wanted}'.{did_you_mean(wanted, known)}")
    return found


def _find(wanted: str, known: list[str]) -> dict[str, str | list[str]]:
    for candidate in (wanted, *ALIASES.get(wanted, ())):
        if candidate in known:
            return {wanted: candidate}
    if wanted in PER_STEP:
        return {}
    numbered = [(int(match[1]), x) for x in known if (match := re.fullmatch(rf"{wanted}[._](\d+)", x))]
    if numbered:
        return {wanted: [x for _, x in sorted(numbered)]}
    if wanted == "actions":
        return {}
    return {x: x for x in known if x.startswith(f"{wanted}/")}


def group(table: Mapping[str, Column], name: str) -> dict[str, Column]:
    """Return the column of a name, or those below it."""
    return {key: column for key, column in table.items() if key == name or key.startswith(f"{name}/")}


def pieces(columns: Iterable[Column], what: str) -> Iterator[slice]:
    """Yield slices that cover the rows of columns, each at most 65,536 rows and about 16 MiB of all of them.

    Where that lasts over two seconds, a line on a terminal says what is going on, and how far it is.

    Raises:
        DatasetError: a row does not fit in memory.
    """
    columns = list(columns)
    size = sum(column.dtype.itemsize * math.prod(column.shape[1:]) for column in columns)
    step = max(min(65_536, 2**24 // max(size, 1)), 1)
    check_memory(size * step, what)
    total = len(columns[0])
    return track(what, (slice(at, min(at + step, total)) for at in range(0, total, step)), total)


def track(what: str, slices: Iterable[slice], total: int) -> Generator[slice]:
    """Yield slices of rows; where that lasts over two seconds, show on a terminal how far they are."""
    began, line, task = time.monotonic(), None, None
    try:
        for rows in slices:
            if line is None and time.monotonic() - began > 2:
                from rich.console import Console
                from rich.progress import Progress

                console = Console(stderr=True)
                line = Progress(console=console, transient=True, disable=not console.is_terminal)
                line.start()
                task = line.add_task(what, total=total)
            if line is not None and task is not None:
                line.update(task, completed=rows.start)
            yield rows
    finally:
        if line is not None:
            line.stop()


def check_memory(needed: int, name: str) -> None:
    """Refuse to make arrays that do not fit in memory.

    Raises:
        DatasetError: they need more than there is.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise DatasetError(
            f"{name} needs {needed / 2**30:.1f} GiB of memory, but {available / 2**30:.1f} GiB are available: load a "
            "part of it, such as Dataset.load(path, rows=slice(0, 1_000_000))."
        )


def available_memory() -> int | None:
    """Return the bytes that can be used without swapping, where the system tells."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s*(\d+) kB", text, flags=re.MULTILINE)
    return int(found[1]) * 1024 if found else None
