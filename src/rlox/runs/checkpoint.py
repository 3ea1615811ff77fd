"""Checkpoints: one safetensors file with its JSON in the header, moved into place whole. Loading runs no code."""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rlox.errors import CheckpointError, ConfigError, one_line
from rlox.runs import version_1

Arrays = dict[str, NDArray[Any]]

NAME = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"
FORMAT = 2


def save(folder: Path, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> Path:
    """Write a checkpoint to ``folder``; the one that was there stays as the previous one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    return write(path, arrays, header, keep=folder / PREVIOUS)


def write(
    path: Path, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any], *, keep: Path | None = None
) -> Path:
    """Write arrays and a JSON header to a file, whole or not at all; what was there is moved to ``keep``.

    The file is written to the side, flushed to the disk and then renamed, so that a kill at any moment leaves a
    whole one.
    """
    side = path.with_name(f".{path.name}.{os.getpid()}")
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    sums = {name: zlib.crc32(array.tobytes()) for name, array in contiguous.items()}
    text = json.dumps({**header, "format": FORMAT, "crc32": sums})
    try:
        save_file(contiguous, side, metadata={"rlox": text})
        with side.open("rb") as file:
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        side.replace(path)
    finally:
        side.unlink(missing_ok=True)
    return path


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


def load(path: Path, only: tuple[str, ...] = ("",)) -> tuple[Arrays, dict[str, Any]]:
    """Read the arrays and the header of a checkpoint, given its folder or its file.

    If the file is torn, a warning names it, and the previous checkpoint of its folder is read instead.

    Args:
        path: the folder or the file.
        only: how the names begin of the arrays that are read.

    Raises:
        CheckpointError: there is no checkpoint, or it is torn and so is the previous one, if any.
    """
    file = path if path.suffix == ".safetensors" else path / NAME
    previous = file.with_name(PREVIOUS)
    if not file.exists() and not (file.name == NAME and previous.exists()):
        raise CheckpointError(f"There is no checkpoint at '{path}': {_instead(path)}")
    try:
        return _read(file, only)
    except CheckpointError as error:
        if file.name != NAME or not previous.exists():
            raise
        result = _read(previous, only)
        warnings.warn(f"{error} The one before it, '{previous}', is used.", stacklevel=2)
        return result


def header(path: Path) -> dict[str, Any]:
    """Read the header of a checkpoint, and no array of it (see ``load``)."""
    return load(path, only=())[1]


def _read(file: Path, only: tuple[str, ...]) -> tuple[Arrays, dict[str, Any]]:
    try:
        with safe_open(file, framework="numpy") as reader:
            header = json.loads((reader.metadata() or {})["rlox"])
            first = header.get("format", 1) == 1
            wanted = [name for name in reader.keys() if first or name.startswith(only)]  # noqa: SIM118
            arrays = {name: reader.get_tensor(name) for name in wanted}
    except (SafetensorError, OSError, json.JSONDecodeError, KeyError, ValueError) as error:
        reason = "it is no checkpoint of rlox" if isinstance(error, KeyError) else one_line(error)
        raise CheckpointError(
            f"Checkpoint '{file}' cannot be read, it is torn or not a checkpoint ({reason})."
        ) from None
    if first:
        arrays, header = version_1.convert(file, arrays, header)
        return {name: array for name, array in arrays.items() if name.startswith(only)}, header
    if header["format"] > FORMAT:
        raise CheckpointError(f"Checkpoint '{file}' was written by a newer version of rlox: update rlox to read it.")
    for name, array in arrays.items():
        if zlib.crc32(array.tobytes()) != header["crc32"].get(name):
            raise CheckpointError(f"Checkpoint '{file}' is damaged: '{name}' does not match its checksum.")
    return arrays, header


def _instead(path: Path) -> str:
    found = sorted(p.parent.name for p in path.parent.glob(f"*/{NAME}")) if path.parent.is_dir() else []
    if found:
        return f"the runs in '{path.parent}' are {', '.join(found[:5])}."
    return "pass the folder of a run, or one that Trainer.save wrote."
