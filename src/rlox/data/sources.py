"""Opening what columns come from: files, bundled data, Minari datasets, frames and arrays."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlox.data.bundled import bundled_names, bundled_path, is_bundled, reference
from rlox.data.columns import Column, Source, flatten
from rlox.data.formats import OPENERS, open_npz
from rlox.data.minari import open_minari
from rlox.envs.space_json import restore
from rlox.errors import DatasetError, did_you_mean, one_line


class Frame(Protocol):
    """What pandas and Polars frames have in common."""

    @property
    def columns(self) -> Any: ...

    def __getitem__(self, name: Any, /) -> Any: ...

    def to_numpy(self) -> NDArray[Any]: ...


def open_source(path: str | Path) -> Source:
    """Return the columns of a file, of bundled data, or of the folder or id of a Minari dataset.

    Raises:
        DatasetError: there is none, it is damaged, or the package that reads it is not installed.
    """
    if is_bundled(path):
        env = reference(str(path))
        return open_npz(bundled_path(str(path)))._replace(
            observation_space=restore(env.observation_space), action_space=restore(env.action_space)
        )
    path = Path(path)
    opener = OPENERS.get(".csv.gz" if path.name.lower().endswith(".csv.gz") else path.suffix.lower())
    if opener and os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise DatasetError(f"'{path}' is a pipe or a device: data are read from files only.")
    if opener:
        if not os.path.exists(path):
            there = [other for other in _names_beside(path) if other != path.name]
            raise DatasetError(f"There is no file '{path}'.{did_you_mean(path.name, there)}")
        return opener(path)
    if os.path.isdir(path) or re.search(r"-v\d+$", path.name):
        return open_minari(path)
    raise DatasetError(
        f"'{path}' is not a data file (.npz, .hdf5, .h5, .parquet, .csv or .csv.gz), the folder or id of a Minari "
        f"dataset, or the name of bundled data.{'' if path.suffix else did_you_mean(path.name, bundled_names())}"
    )


def _names_beside(path: Path) -> list[str]:
    """Return the data files in the folder of a path."""
    try:
        with os.scandir(path.parent) as entries:
            return [entry.name for entry in entries if Path(entry.name).suffix.lower() in (*OPENERS, ".gz")]
    except OSError:
        return []


def array_source(columns: Mapping[str, Any]) -> Source:
    """Return the columns of a mapping: arrays, lists, or what is read by slices."""
    if not isinstance(columns, Mapping):
        raise DatasetError(f"columns is a {type(columns).__name__}: it must be a mapping from names to arrays.")
    flat = flatten(columns)
    return Source(list(flat), lambda names, rows: {name: _as_column(flat[name], name) for name in names})


def _as_column(values: Any, name: str) -> Column:
    """Return what is read by slices, such as an ``h5py.Dataset``, as it is, and anything else as an array."""
    if np.ma.is_masked(values):
        raise DatasetError(f"Column '{name}' has masked values: fill them in, or drop those episodes.")
    try:
        if hasattr(values, "dtype") and np.ndim(values) and isinstance(values[:0], np.ndarray):
            return np.asarray(values) if isinstance(values, np.ndarray) else values
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise _not_an_array(name, error) from None


def is_frame(values: Any) -> bool:
    """Return whether this is a pandas or Polars frame, or similar."""
    # A lazy frame of Polars has no to_numpy, and warns of a look at its columns.
    return hasattr(values, "to_numpy") and hasattr(values, "__getitem__") and hasattr(values, "columns")


def frame_source(frame: Any) -> Source:
    """Return the columns of a pandas or Polars frame."""
    if not is_frame(frame):
        raise DatasetError(f"frame is a {type(frame).__name__}: it must be a pandas or Polars DataFrame.")
    names = {str(column): column for column in frame.columns}
    if len(names) < len(frame.columns):
        raise DatasetError("frame has two columns of the same name: rename one of them.")
    return Source(list(names), lambda wanted, _: {name: _dense(frame[names[name]].to_numpy(), name) for name in wanted})


def _dense(values: Any, name: str) -> NDArray[Any]:
    """Return an array of arrays or of lists as one array of numbers."""
    values = np.asarray(values)
    if values.dtype.kind != "O" or not len(values):
        return values
    try:
        return np.stack(
            [_dense(value, name) if isinstance(value, np.ndarray) else np.asarray(value) for value in values]
        )
    except (ValueError, TypeError) as error:
        raise _not_an_array(name, error) from None


def _not_an_array(name: str, error: Exception) -> DatasetError:
    return DatasetError(
        f"Column '{name}' cannot be made an array ({one_line(error)}): all rows must have the same shape."
    )
