"""Checkpoints: one safetensors file with its JSON in the header, moved into place whole. Loading runs no code."""

from __future__ import annotations

import errno
import json
import os
import re
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rlox.core.pack import checksum
from rlox.errors import CheckpointError, ConfigError, did_you_mean, one_line
from rlox.files import whole
from rlox.runs import version_1

Arrays = dict[str, NDArray[Any]]

NAME = "checkpoint.safetensors"
OLDER = ("checkpoint.1.safetensors", "checkpoint.2.safetensors")
"""Those before it, the last one first."""
BEST = "best.safetensors"
"""The one with the best evaluation, without its replay."""
FORMAT = 3
LARGEST_HEADER = 100_000_000
"""Bytes; as safetensors has it."""
_SUM = re.compile(rb'"crc32":"([0-9a-f]{8})"')
_NO_SUM = b'"crc32":"00000000"'


def save(folder: Path, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> Path:
    """Write a checkpoint to ``folder``; the two before it are kept.

    Raises:
        OSError: it could not be written; those that are there stay as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return write(folder / NAME, arrays, header, older=tuple(folder / name for name in OLDER))


def write(
    path: Path, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any], *, older: tuple[Path, ...] = ()
) -> Path:
    """Write arrays and a JSON header to a file, whole or not at all; what was there is moved to ``older``.

    Each array has a checksum in the header, and the header one in itself, so that any changed byte is noticed.

    Raises:
        OSError: it could not be written.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    sums = {name: checksum(array) for name, array in contiguous.items()}
    text = json.dumps({**header, "format": FORMAT, "arrays": sums})
    with whole(path, older) as side:
        try:
            save_file(contiguous, side, metadata={"rlox": text, "crc32": "0" * 8})
        except SafetensorError as error:
            raise _os_error(error) from None
        with side.open("r+b") as file:
            start = file.read(8)
            place = start + file.read(int.from_bytes(start, "little"))
            if side.stat().st_size != len(place) + sum(array.nbytes for array in contiguous.values()):
                raise OSError(errno.EIO, "fewer bytes were written than there are")
            file.seek(place.index(_NO_SUM))
            file.write(b'"crc32":"%08x"' % zlib.crc32(place))
    return path


def _os_error(error: SafetensorError) -> OSError:
    """Return the error of the system that safetensors tells in words."""
    found = re.search(r"os error (\d+)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else OSError(one_line(error))


def check_target(path: Path) -> Path:
    """Return a path that a policy can be written to.

    Raises:
        ConfigError: another ending, or no such folder.
    """
    if path.suffix != ".safetensors":
        raise ConfigError(f"'{path}' must end in .safetensors.")
    if not path.parent.is_dir():
        raise ConfigError(f"'{path}' cannot be written: there is no folder '{path.parent}'.")
    return path


def is_latest(path: Path) -> bool:
    """Return whether a path names a run's folder, or the latest checkpoint in it."""
    return path.suffix != ".safetensors" or path.name == NAME


def exists(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint."""
    return any((folder / name).exists() for name in (NAME, *OLDER))


def stamp(folder: Path) -> tuple[int, ...] | None:
    """Return what changes whenever a folder's latest checkpoint is written; None if there is none."""
    try:
        found = (folder / NAME).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def load(path: Path, only: tuple[str, ...] = ("",)) -> tuple[Arrays, dict[str, Any]]:
    """Read the arrays and the header of a checkpoint, given its folder or its file.

    If the latest one of a folder is torn, a warning names it, and the one before it is read instead.

    Args:
        path: the folder or the file.
        only: how the names begin of the arrays that are read.

    Raises:
        CheckpointError: there is no checkpoint, or it is torn and so are those before it.
    """
    file = path if path.suffix == ".safetensors" else path / NAME
    names = (NAME, *OLDER) if file.name == NAME else (file.name,)
    files = [file.with_name(name) for name in names if file.with_name(name).exists()]
    if not files:
        raise CheckpointError(f"There is no checkpoint at '{path}': {_instead(path)}")
    torn: list[str] = []
    for candidate in files:
        try:
            found = _read(candidate, only)
        except CheckpointError as error:
            torn.append(str(error))
        else:
            for message in torn:
                warnings.warn(f"{message} The one before it, '{candidate}', is used.", stacklevel=2)
            return found
    others = f" {len(torn) - 1} before it cannot be read either." if len(torn) > 1 else ""
    raise CheckpointError(torn[0] + others)


def header(path: Path) -> dict[str, Any]:
    """Read the header of a checkpoint, and no array of it (see ``load``)."""
    return load(path, only=())[1]


def _read(file: Path, only: tuple[str, ...]) -> tuple[Arrays, dict[str, Any]]:
    try:
        if file.resolve().parent != file.parent.resolve():
            raise CheckpointError(f"Checkpoint '{file}' is a link out of its folder, to '{file.resolve()}': name that.")
        sum_fits = _check_header(file)
        with safe_open(file, framework="numpy") as reader:
            about = reader.metadata() or {}
            header = json.loads(about["rlox"])
            format_ = header.get("format", 1)
            if format_ > FORMAT:
                raise CheckpointError(
                    f"Checkpoint '{file}' was written by a newer version of rlox: update rlox to read it."
                )
            if not sum_fits and (format_ > 2 or "crc32" in about):
                raise CheckpointError(f"Checkpoint '{file}' is damaged: its header does not match its checksum.")
            wanted = [name for name in reader.keys() if format_ == 1 or name.startswith(only)]  # noqa: SIM118
            arrays = {name: reader.get_tensor(name) for name in wanted}
            sums = header["crc32"] if format_ < 3 else header["arrays"]
            if format_ > 1 and set(sums) != set(reader.keys()):
                raise CheckpointError(f"Checkpoint '{file}' is damaged: it does not hold the arrays that it names.")
    except CheckpointError:
        raise
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = one_line(error) if isinstance(error, SafetensorError | OSError) else "it is no checkpoint of rlox"
        raise CheckpointError(
            f"Checkpoint '{file}' cannot be read, it is torn or not a checkpoint ({reason})."
        ) from None
    if format_ == 1:
        arrays, header = version_1.convert(file, arrays, header)
        return {name: array for name, array in arrays.items() if name.startswith(only)}, header
    for name, array in arrays.items():
        if checksum(array) != sums[name]:
            raise CheckpointError(f"Checkpoint '{file}' is damaged: '{name}' does not match its checksum.")
    return arrays, header


def _check_header(file: Path) -> bool:
    """Return whether the checksum that a file's header has of itself fits.

    Raises:
        ValueError: it cannot be a header.
    """
    with file.open("rb") as opened:
        start = opened.read(8)
        length = int.from_bytes(start, "little")
        if not 0 < length <= min(LARGEST_HEADER, file.stat().st_size):
            raise ValueError(f"a header of {length:,} bytes")
        place = start + opened.read(length)
    found = _SUM.search(place)
    return found is not None and zlib.crc32(place.replace(found[0], _NO_SUM)) == int(found[1], 16)


def _instead(path: Path) -> str:
    found = sorted(p.parent.name for p in path.parent.glob(f"*/{NAME}")) if path.parent.is_dir() else []
    if found:
        near = did_you_mean(path.name, found)
        return f"the runs in '{path.parent}' are {', '.join(found[:5])}.{near if 'Did you mean' in near else ''}"
    return "pass the folder of a run, or one that Trainer.save wrote."
