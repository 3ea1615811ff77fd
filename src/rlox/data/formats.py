"""Files of logged columns: NumPy archives, HDF5 and Parquet, each opened as a ``Source``; what writes them."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import math
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.data.columns import Column, Source, Stored, as_column, check_memory, flatten, pieces, track
from rlox.envs.space_json import describe, restore
from rlox.errors import DatasetError, did_you_mean, one_line

_CHUNK_CACHE = 2**26
"""Bytes of the chunks of a compressed column that are kept, so that one longer than a piece is unpacked once."""
_SPACES = ("observation_space", "action_space")


def open_source(path: str | Path) -> Source:
    """Return the columns of a file, or of the folder or id of a Minari dataset.

    Raises:
        DatasetError: there is none, it is torn, or what reads it is not installed.
    """
    path = Path(path)
    opener = _OPENERS.get(path.suffix.lower())
    if opener:
        with reading(path):
            return opener(path)
    if path.is_dir() or re.search(r"-v\d+$", path.name):
        from rlox.data.minari import open_minari

        return open_minari(path)
    from rlox.data.bundled import bundled_names

    raise DatasetError(
        f"'{path}' is not a file that rlox reads data from: it must end in .npz, .hdf5, .h5 or .parquet, or be the "
        "folder or the id of a Minari dataset, or the name of bundled data."
        + ("" if path.suffix else did_you_mean(path.name, bundled_names()))
    )


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one line, and keep its reader's warnings to itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DatasetError:
        raise
    except FileNotFoundError:
        raise DatasetError(f"There is no file '{path}'.") from None
    except MemoryError:
        raise DatasetError(f"'{path}' does not fit in memory: load a part of it (rows=), or make it .hdf5.") from None
    except Exception as error:  # A torn file can break its readers in any way.
        if isinstance(error, ValueError) and "pickle" in str(error).lower():
            raise DatasetError(
                f"'{path}' holds Python objects, which rlox does not unpickle, since that runs code: save plain "
                "arrays of numbers."
            ) from None
        raise DatasetError(
            f"'{path}' is torn or no {path.suffix or 'Minari'} file ({type(error).__name__}: {one_line(error)}): "
            "make it again."
        ) from None


def require(module: str, what: str) -> Any:
    """Return a module of the extra for data.

    Raises:
        DatasetError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError:
        raise DatasetError(f"{what} needs the extra rlox[data]: pip install 'rlox[data]'.") from None


def array_source(columns: Mapping[str, Any]) -> Source:
    """Return columns in memory, or such as are read by slices, as a source."""
    flat = flatten(columns)
    return Source(list(flat), lambda names, rows: {name: as_column(flat[name], name) for name in names})


def is_frame(values: Any) -> bool:
    """Return whether this is a pandas or Polars frame, or like one."""
    return hasattr(values, "columns") and hasattr(values, "__getitem__") and hasattr(values, "to_numpy")


def frame_source(frame: Any) -> Source:
    """Return the columns of a pandas or Polars frame."""
    if not is_frame(frame):
        raise DatasetError(f"frame is a {type(frame).__name__}: it must be a pandas or Polars DataFrame.")
    names = {str(column): column for column in frame.columns}
    return Source(list(names), lambda wanted, _: {name: _dense(frame[names[name]].to_numpy(), name) for name in wanted})


def _dense(values: Any, name: str) -> NDArray[Any]:
    """Return an array of arrays or of lists as one array of numbers."""
    if np.asarray(values).dtype.kind != "O" or not len(values):
        return np.asarray(values)
    try:
        return np.stack(
            [_dense(value, name) if isinstance(value, np.ndarray) else np.asarray(value) for value in values]
        )
    except ValueError as error:
        raise DatasetError(f"Column '{name}' is no array ({one_line(error)}): its rows must be alike.") from None


def _open_npz(path: Path) -> Source:
    # Opened here, since NumPy leaves a file open that it cannot read.
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        names = [name for name in file.files if name not in _SPACES]
        found = [_space(file[name]) if name in file.files else None for name in _SPACES]

    def read(wanted: list[str], rows: slice) -> dict[str, Column]:
        with reading(path), path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name][rows] for name in wanted}

    return Source(names, read, *found)


def _space(described: Any) -> spaces.Space[Any]:
    return restore(json.loads(str(described)))


def _open_hdf5(path: Path) -> Source:
    h5py = require("h5py", f"To read '{path}'")
    file = h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE)
    found = [_space(file[name][()].decode()) if name in file else None for name in _SPACES]

    def read(wanted: list[str], rows: slice) -> dict[str, Column]:
        with reading(path):
            return {name: stored(file[name], rows) for name in wanted}

    def stored(column: Any, rows: slice) -> Column:
        start, stop, _ = rows.indices(column.shape[0] if column.shape else 0)
        return Stored(column, start, max(start, stop), path)

    # Files of many thousand groups are not of our kind: some names are enough to say what is missing.
    names = [name for name in itertools.islice(_names(file, h5py), 10_000) if name not in _SPACES]
    return Source(names, read, *found)


def _names(file: Any, h5py: Any) -> Iterator[str]:
    """Yield the names of the columns of an HDF5 file, those at the top first."""
    groups = [("", file)]
    while groups:
        lead, parent = groups.pop(0)
        for key, value in parent.items():
            if isinstance(value, h5py.Group):
                groups.append((f"{lead}{key}/", value))
            elif isinstance(value, h5py.Dataset):
                yield f"{lead}{key}"


def _open_parquet(path: Path) -> Source:
    parquet = require("pyarrow.parquet", f"To read '{path}'")
    with path.open("rb") as raw:
        names = parquet.read_schema(raw).names

    def read(wanted: list[str], rows: slice) -> dict[str, Column]:
        with reading(path), parquet.ParquetFile(path) as file:
            return _read_parquet(file, wanted, rows, path.stem)

    return Source(names, read)


def _read_parquet(file: Any, wanted: list[str], rows: slice, name: str) -> dict[str, Column]:
    """Return the rows of some columns, read a batch at a time into arrays of their final size."""
    start, stop, _ = rows.indices(file.metadata.num_rows)
    total = max(stop - start, 0)
    arrays: dict[str, NDArray[Any]] = {}
    # Groups of rows before the first one and after the last one that are wanted are not read.
    firsts = np.cumsum([0, *(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))])
    groups = [i for i in range(file.num_row_groups) if firsts[i] < stop and firsts[i + 1] > start]
    at = int(firsts[groups[0]]) if groups else 0
    batches = file.iter_batches(65_536, row_groups=groups, columns=wanted)
    starts = track(f"Reading {name}", (slice(x, x) for x in itertools.count(at, 65_536)), stop)
    for batch, _ in zip(batches, starts, strict=False):
        low, high = max(start - at, 0), min(stop - at, len(batch))
        for key in wanted:
            values = _arrow_values(batch.column(key), key)[low:high]
            if key not in arrays:
                check_memory(total * values.dtype.itemsize * math.prod(values.shape[1:]), name)
                arrays[key] = np.empty((total, *values.shape[1:]), values.dtype)
            arrays[key][at + low - start : at + high - start] = values
        at += len(batch)
    return {key: arrays.get(key, np.empty(0)) for key in wanted}


def _arrow_values(values: Any, name: str) -> NDArray[Any]:
    """Return a batch of numbers, or of lists of them of one length, as an array."""
    shape, n = [], len(values)
    while True:
        if values.null_count:
            raise DatasetError(f"Column '{name}' has missing values: mend or drop the episodes that hold them.")
        if not hasattr(values, "flatten") or not hasattr(values.type, "value_type"):
            return values.to_numpy(zero_copy_only=False).reshape(n, *shape)
        inner = values.flatten()
        length, rest = divmod(len(inner), max(len(values), 1))
        offsets = getattr(values, "offsets", None)
        if rest or (offsets is not None and (np.diff(offsets.to_numpy()) != length).any()):
            raise DatasetError(f"Column '{name}' holds lists of several lengths: its rows must be alike.")
        shape.append(length)
        values = inner


_OPENERS: dict[str, Callable[[Path], Source]] = {
    ".npz": _open_npz,
    ".hdf5": _open_hdf5,
    ".h5": _open_hdf5,
    ".parquet": _open_parquet,
}


def check_target(path: Path) -> None:
    """Refuse to write to what is there already, in a format that is not known, or whose extra is missing.

    Raises:
        DatasetError: with the way out.
    """
    if path.suffix not in _WRITERS:
        raise DatasetError(
            f"'{path}' is not a file that rlox writes data to: it must end in .npz, .hdf5 or .h5, or have no suffix "
            "(the folder of a Minari dataset)."
        )
    if path.exists():
        raise DatasetError(f"'{path}' is there already: name a new file, or remove it first.")
    if path.suffix != ".npz":
        require("h5py" if path.suffix else "minari", f"To write '{path}'")


def save(path: Path, table: Mapping[str, Column], *known: spaces.Space[Any]) -> None:
    """Write columns, and the spaces of observations and actions, to a new file or folder, whole or not at all.

    Raises:
        DatasetError: something is there already, or it cannot be written.
    """
    check_target(path)
    # Minari resolves relative paths against its own folder.
    partial = path.absolute().with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _WRITERS[path.suffix](partial, path.name, table, *known)
        partial.rename(path)
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"'{path}' cannot be written: {one_line(error)}.") from None
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        elif partial.exists():
            partial.unlink()


def _write_npz(path: Path, name: str, table: Mapping[str, Column], *known: spaces.Space[Any]) -> None:
    described = {key: np.array(json.dumps(describe(space))) for key, space in zip(_SPACES, known, strict=True)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, column in {**table, **described}.items():
            header = {
                "descr": np.lib.format.dtype_to_descr(column.dtype),
                "fortran_order": False,
                "shape": column.shape,
            }
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                if key in described:
                    member.write(described[key].tobytes())
                    continue
                for rows in pieces([column], f"Writing {key} of {name}"):
                    member.write(np.ascontiguousarray(column[rows]).tobytes())


def _write_hdf5(path: Path, name: str, table: Mapping[str, Column], *known: spaces.Space[Any]) -> None:
    h5py = require("h5py", f"To write '{name}'")
    with h5py.File(path, "w") as file:
        for key, space in zip(_SPACES, known, strict=True):
            # Of fixed length: HDF5 can read for ever in a damaged heap of strings of any length.
            file[key] = np.bytes_(json.dumps(describe(space)))
        for key, column in table.items():
            stored = file.create_dataset(key, column.shape, column.dtype)
            for rows in pieces([column], f"Writing {key} of {name}"):
                stored[rows] = column[rows]


def _write_minari(path: Path, name: str, table: Mapping[str, Column], *known: spaces.Space[Any]) -> None:
    from rlox.data.minari import write_minari

    write_minari(path, name, table, *known)


_WRITERS = {".npz": _write_npz, ".hdf5": _write_hdf5, ".h5": _write_hdf5, "": _write_minari}
