"""CSV files, plain or gzipped: the first line names the columns, and types follow from the values."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlox.data.columns import Column, Source, check_memory
from rlox.data.files import reading
from rlox.errors import DatasetError

_BATCH = 65_536
"""Rows that are read at once."""
_FLAGS = {"true": True, "false": False}


def open_csv(path: Path) -> Source:
    """Return the columns of a CSV file: whole numbers, numbers, flags (true and false), or else text."""
    with reading(path), _rows_of(path) as (names, _):
        pass

    def read(wanted: list[str], rows: slice) -> dict[str, Column]:
        with reading(path), _rows_of(path) as (names, lines):
            return _read(lines, [(name, names.index(name)) for name in wanted], rows, len(names), path, _parse)

    def read_ids(name: str, rows: slice) -> Column:
        with reading(path), _rows_of(path) as (names, lines):
            return _read(lines, [(name, names.index(name))], rows, len(names), path, _stripped)[name]

    return Source(names, read, read_ids=read_ids)


@contextlib.contextmanager
def _rows_of(path: Path) -> Iterator[tuple[list[str], Iterator[list[str]]]]:
    """Give the names of the columns, and the rows below them."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with (
        _saying_what_encoding(path),
        opener(path, "rb") as raw,
        io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file,
    ):
        # Some programs write semicolons or tabs.
        first = file.readline(2**20)
        delimiter = max(",;\t", key=first.count)
        names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
        if not names or all(is_number(name) for name in names):
            raise DatasetError(f"'{path}' has no header: its first line must name the columns.")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DatasetError(f"'{path}' has two columns '{twice}': rename one of them.")
        yield names, (row for row in csv.reader(file, delimiter=delimiter) if row)


@contextlib.contextmanager
def _saying_what_encoding(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise DatasetError(
            f"'{path}' is not UTF-8 text, since it has the byte 0x{byte:02x}: save it as CSV in UTF-8."
        ) from None


def is_number(text: str) -> bool:
    """Return whether text is a number as people write them: Python also reads 1_000."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _read(
    lines: Iterator[list[str]],
    wanted: Sequence[tuple[str, int]],
    rows: slice,
    width: int,
    path: Path,
    parse: Callable[[list[str]], NDArray[Any]],
) -> dict[str, Column]:
    """Return rows of columns, parsed batch by batch."""
    start, stop = rows.start or 0, rows.stop
    # Rows that are counted from the end are known when all have been read.
    from_end = start < 0 or (stop is not None and stop < 0)
    if not from_end:
        lines, rows = itertools.islice(lines, start, stop), slice(None)
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name, _ in wanted}
    at, size = 0 if from_end else start, 0
    while batch := list(itertools.islice(lines, _BATCH)):
        for i, row in enumerate(batch):
            if len(row) != width:
                told = f"'{path}': row {at + i:,} has {len(row)} values, but there are {width} columns"
                raise DatasetError(f"{told}: complete or drop it.")
        for name, place in wanted:
            parts[name].append(parse([row[place] for row in batch]))
            size += parts[name][-1].nbytes
        # Both the batches and the columns made of them.
        check_memory(size, str(path))
        at += len(batch)
    return {name: _join(parts[name])[rows] for name, _ in wanted}


def _parse(texts: list[str]) -> NDArray[Any]:
    """Return the values of a batch as the simplest type that all have; text as it is."""
    for kind, parse in () if any("_" in text for text in texts) else ((np.int64, int), (np.float64, float)):
        with contextlib.suppress(ValueError, OverflowError):
            return np.array(list(map(parse, texts)), kind)
    found = [_FLAGS.get(text.strip().lower()) for text in texts]
    if None not in found:
        return np.array(found, bool)
    return _as_text(texts)


def _stripped(texts: list[str]) -> NDArray[Any]:
    return _as_text([text.strip() for text in texts])


def _as_text(texts: list[str]) -> NDArray[Any]:
    # NumPy gives each the room of the longest, four bytes a letter.
    check_memory(4 * len(texts) * max(map(len, texts)), "A column of text")
    return np.array(texts)


def _join(parts: list[NDArray[Any]]) -> NDArray[Any]:
    if not parts:
        return np.empty(0)
    kinds = {part.dtype.kind for part in parts}
    # Flags and text beside numbers are text.
    return np.concatenate([part.astype(str) for part in parts] if len(kinds) > 1 and kinds & set("Ub") else parts)
