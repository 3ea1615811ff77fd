"""NumPy archives and Parquet files, and which format reads and writes a file."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.data.columns import SPACES, Column, Source, check_memory, pieces
from rlox.data.csv_files import open_csv
from rlox.data.files import check_text, reading, require, writing
from rlox.data.hdf5 import open_hdf5, write_hdf5
from rlox.data.minari import write_minari
from rlox.envs.space_json import describe, parse
from rlox.errors import DatasetError
from rlox.runs.progress import track

_BATCH = 65_536
"""Rows of a Parquet file that are read at once."""


def open_npz(path: Path) -> Source:
    """Return the columns of a NumPy archive."""
    with reading(path), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        found = [_space(archive, name) if name in names else None for name in SPACES]

    def read(wanted: list[str], rows: slice) -> dict[str, Column]:
        with reading(path), zipfile.ZipFile(path) as archive:
            return {name: _read_npy(archive, name, rows) for name in wanted}

    return Source([name for name in names if name not in SPACES], read, found[0], found[1])


def _read_npy(archive: zipfile.ZipFile, name: str, rows: slice) -> NDArray[Any]:
    """Return rows of an array, without the others in memory."""
    member, what = _member(archive, name), f"'{name}' of '{archive.filename}'"
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = header(file)
        if dtype.hasobject:
            raise DatasetError(
                f"{what} holds Python objects, which rlox does not unpickle, since that runs code: save plain arrays "
                "of numbers."
            )
        start, stop, _ = rows.indices(shape[0] if shape else 0)
        n = max(stop - start, 0)
        row = dtype.itemsize * math.prod(shape[1:])
        in_part = bool(shape) and not by_columns
        claimed, stored = dtype.itemsize * math.prod(shape), member.file_size - file.tell()
        check_memory(n * row if in_part else claimed, what)
        if not dtype.itemsize or claimed > stored:
            raise EOFError(f"'{name}' of shape {shape} needs {claimed:,} bytes, but {stored:,} are stored")
        if in_part:
            array = np.empty((n, *shape[1:]), dtype)
            file.seek(start * row, 1)
            _read_into(file, array)
            return array
    with archive.open(member) as file:
        whole = np.lib.format.read_array(file, allow_pickle=False)
        return whole[rows] if shape else whole


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    return archive.NameToInfo.get(f"{name}.npy") or archive.getinfo(name)


def _read_into(file: Any, array: NDArray[Any]) -> None:
    if not array.size:
        return
    target = array.reshape(-1).view(np.uint8)
    at = 0
    while at < len(target):
        read = file.read(min(len(target) - at, 2**24))
        if not read:
            raise EOFError(f"{len(target) - at:,} bytes are missing")
        target[at : at + len(read)] = np.frombuffer(read, np.uint8)
        at += len(read)
    # At its end, the archive's checksum is compared.
    file.read(1)


def _space(archive: zipfile.ZipFile, name: str) -> spaces.Space[Any]:
    check_text(_member(archive, name).file_size, f"'{name}'")
    return parse(str(_read_npy(archive, name, slice(None))))


def open_parquet(path: Path) -> Source:
    """Return the columns of a Parquet file."""
    parquet = require("pyarrow.parquet", f"To read '{path}'")
    with reading(path), path.open("rb") as raw:
        names = parquet.read_schema(raw).names

    def read(wanted: list[str], rows: slice) -> dict[str, Column]:
        with reading(path), parquet.ParquetFile(path) as file:
            return _read_parquet(file, wanted, rows, path.stem)

    return Source(names, read)


def _read_parquet(file: Any, wanted: list[str], rows: slice, name: str) -> dict[str, Column]:
    """Return rows of some columns, read batch by batch into arrays of their final size."""
    start, stop, _ = rows.indices(file.metadata.num_rows)
    total = max(stop - start, 0)
    arrays: dict[str, NDArray[Any]] = {}
    # Groups of rows before the first wanted row and after the last one are not read.
    firsts = np.cumsum([0, *(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))])
    groups = [i for i in range(file.num_row_groups) if firsts[i] < stop and firsts[i + 1] > start]
    at = int(firsts[groups[0]]) if groups else 0
    batches = file.iter_batches(_BATCH, row_groups=groups, columns=wanted)
    for batch in track(f"Reading {name}", batches, math.ceil((stop - at) / _BATCH)):
        low, high = max(start - at, 0), min(stop - at, len(batch))
        for key in wanted if low < high else ():
            values = _arrow_values(batch.column(key).slice(low, high - low), key, at + low - start, name)
            if key not in arrays:
                check_memory(total * values.dtype.itemsize * math.prod(values.shape[1:]), name)
                arrays[key] = np.empty((total, *values.shape[1:]), values.dtype)
            if values.shape[1:] != arrays[key].shape[1:]:
                raise _differ(key, name)
            arrays[key][at + low - start : at + high - start] = values
        at += len(batch)
    return {key: arrays.get(key, np.empty(0)) for key in wanted}


def _arrow_values(values: Any, key: str, first: int, name: str) -> NDArray[Any]:
    """Return a batch of numbers, or of lists of equal length, that begins with row ``first``, as an array."""
    shape, n = [], len(values)
    while True:
        if values.null_count:
            missing = int(values.is_null().to_numpy(zero_copy_only=False).argmax())
            row, *entry = map(int, np.unravel_index(missing, (n, *shape)))
            raise DatasetError(
                f"{name}: column '{key}' has missing values, the first in row {first + row:,}"
                f"{f', entry {entry}' if entry else ''}: fill them in, or drop those episodes."
            )
        if not hasattr(values, "flatten") or not hasattr(values.type, "value_type"):
            return values.to_numpy(zero_copy_only=False).reshape(n, *shape)
        inner = values.flatten()
        length, rest = divmod(len(inner), max(len(values), 1))
        offsets = getattr(values, "offsets", None)
        if rest or (offsets is not None and (np.diff(offsets.to_numpy()) != length).any()):
            raise _differ(key, name)
        shape.append(length)
        values = inner


def _differ(key: str, name: str) -> DatasetError:
    return DatasetError(f"{name}: column '{key}' has lists of different lengths: all rows must have the same shape.")


OPENERS: dict[str, Callable[[Path], Source]] = {
    ".npz": open_npz,
    ".hdf5": open_hdf5,
    ".h5": open_hdf5,
    ".parquet": open_parquet,
    ".csv": open_csv,
    ".csv.gz": open_csv,
}


def check_target(path: Path) -> None:
    """Refuse a path that exists or has no folder, whose format is not known, or whose extra is missing.

    Raises:
        DatasetError: one of these.
    """
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        raise DatasetError(
            f"'{path}' has a suffix that rlox does not write: use .npz, .hdf5 or .h5, or no suffix for the folder of a "
            "Minari dataset."
        )
    if os.path.lexists(path):
        raise DatasetError(f"'{path}' exists: choose another name, or remove it first.")
    if not path.parent.is_dir():
        raise DatasetError(f"'{path}' cannot be written: there is no folder '{path.parent}'.")
    if suffix != ".npz":
        require("h5py" if suffix else "minari", f"To write '{path}'")


def save(path: Path, table: Mapping[str, Column], *known: spaces.Space[Any]) -> None:
    """Write columns, and the spaces of observations and actions, to a new file or folder, completely or not at all.

    Raises:
        DatasetError: the path exists, or cannot be written.
    """
    check_target(path)
    with writing(path) as partial:
        _WRITERS[path.suffix.lower()](partial, path.name, table, *known)


def _write_npz(path: Path, name: str, table: Mapping[str, Column], *known: spaces.Space[Any]) -> None:
    described = {key: np.array(json.dumps(describe(space))) for key, space in zip(SPACES, known, strict=True)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, text in described.items():
            with archive.open(f"{key}.npy", "w") as entry:
                np.lib.format.write_array(entry, text)
        for key, column in table.items():
            header = {
                "descr": np.lib.format.dtype_to_descr(column.dtype),
                "fortran_order": False,
                "shape": column.shape,
            }
            with archive.open(f"{key}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(entry, header)
                for rows in pieces([column], f"Writing {key} of {name}"):
                    entry.write(np.ascontiguousarray(column[rows]).tobytes())


_WRITERS = {".npz": _write_npz, ".hdf5": write_hdf5, ".h5": write_hdf5, "": write_minari}
