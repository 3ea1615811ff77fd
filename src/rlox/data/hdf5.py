"""HDF5 files: their columns stay in them, and nothing is read from another file that they name."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from rlox.data.columns import SPACES, Column, FileColumn, Source, check_memory, pieces
from rlox.data.d3rlpy import d3rlpy_source, is_d3rlpy
from rlox.data.files import check_text, reading, require
from rlox.envs.space_json import describe, parse
from rlox.errors import DatasetError

_CHUNK_CACHE = 2**26
"""Bytes of unpacked chunks that are kept, so that a chunk longer than a piece is unpacked once."""


def open_hdf5(path: Path) -> Source:
    """Return the columns of an HDF5 file, which stay in it."""
    h5py = require("h5py", f"To read '{path}'")
    with reading(path):
        file = h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE)
        try:
            check_links(file, h5py, path)
            if is_d3rlpy(file):
                return d3rlpy_source(file, path, check_stored)
            found = [_space(file[name], path) if name in file else None for name in SPACES]
            # A file of many thousand groups holds other data: some names are enough to say what is missing.
            names = [name for name in itertools.islice(_names(file, h5py), 10_000) if name not in SPACES]
        except BaseException:
            file.close()
            raise

    def read(wanted: list[str], rows: slice) -> dict[str, Column]:
        with reading(path):
            return {name: column(file[name], rows) for name in wanted}

    def column(stored: Any, rows: slice) -> Column:
        check_memory(check_stored(stored, path), f"A chunk of '{stored.name}' of '{path}'")
        start, stop, _ = rows.indices(stored.shape[0] if stored.shape else 0)
        return FileColumn(stored, start, max(start, stop), stored.dtype, path)

    return Source(names, read, found[0], found[1])


def check_links(file: Any, h5py: Any, path: Path) -> None:
    """Refuse a file with a link that leads to another file."""
    inside = (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT)
    outside = file.id.links.visit(lambda name, link: None if link.type in inside else name, info=True)
    if outside is not None:
        raise DatasetError(
            f"'{path}': '{outside.decode(errors='replace')}' is a link to another file, which rlox does not follow: "
            "copy into this one what it leads to."
        )


def check_stored(stored: Any, path: Path) -> int:
    """Refuse values that are not in the file itself; return the bytes of one of their chunks."""
    if stored.is_virtual or stored.external:
        raise DatasetError(
            f"'{path}': the values of '{stored.name}' are in other places or files, where rlox does not read them: "
            "copy them into this one."
        )
    return stored.dtype.itemsize * math.prod(stored.chunks or ())


def check_inside(path: Path) -> None:
    """Refuse a file that another library reads, if values are not in it or do not fit in memory."""
    h5py = require("h5py", f"To read '{path}'")
    sizes = {"": 0}

    def look(name: str, stored: Any) -> None:
        if isinstance(stored, h5py.Dataset):
            sizes[name] = max(check_stored(stored, path), stored.nbytes)

    with h5py.File(path, "r") as file:
        check_links(file, h5py, path)
        file.visititems(look)
    largest = max(sizes, key=lambda name: sizes[name])
    check_memory(sizes[largest], f"'{largest}' of '{path}'")


def _space(stored: Any, path: Path) -> spaces.Space[Any]:
    check_stored(stored, path)
    if stored.shape != () or stored.dtype.kind != "S":
        raise ValueError(f"'{stored.name}' is no text of fixed length")
    check_text(stored.dtype.itemsize, f"'{stored.name}'")
    return parse(stored[()].decode())


def _names(file: Any, h5py: Any) -> Iterator[str]:
    """Yield the names of the columns of an HDF5 file, those at the top first."""
    groups, seen = [("", file)], set()
    while groups:
        above, parent = groups.pop(0)
        # Links can lead back to a group above.
        address = h5py.h5o.get_info(parent.id)
        if (address.fileno, address.addr) in seen:
            continue
        seen.add((address.fileno, address.addr))
        for key, value in parent.items():
            if isinstance(value, h5py.Group):
                groups.append((f"{above}{key}/", value))
            elif isinstance(value, h5py.Dataset):
                yield f"{above}{key}"


def write_hdf5(path: Path, name: str, table: Mapping[str, Column], *known: spaces.Space[Any]) -> None:
    """Write columns, and the spaces of observations and actions, to a new file."""
    h5py = require("h5py", f"To write '{name}'")
    with h5py.File(path, "w") as file:
        for key, space in zip(SPACES, known, strict=True):
            # Of fixed length: in a damaged file, HDF5 can read a string of variable length forever.
            file[key] = np.bytes_(json.dumps(describe(space)))
        for key, column in table.items():
            stored = file.create_dataset(key, column.shape, column.dtype)
            for rows in pieces([column], f"Writing {key} of {name}"):
                stored[rows] = column[rows]
