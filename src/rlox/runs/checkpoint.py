"""Checkpoints: one safetensors file with its JSON in the header, moved into place whole. Loading runs no code."""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rlox.core import replay as replays
from rlox.core.replay import Replay
from rlox.core.state import TrainState
from rlox.envs.collector import Episode
from rlox.errors import CheckpointError, one_line

T = TypeVar("T")

NAME = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"


def save(folder: Path, arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any]) -> Path:
    """Write ``arrays`` and ``info`` to ``folder``; the checkpoint that was there stays as the previous one.

    The file is written to the side, flushed to the disk and then renamed, so that a kill at any moment leaves a
    whole checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, side = folder / NAME, folder / f".{NAME}.{os.getpid()}"
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    header = {"rlox": json.dumps({**info, "crc32": _checksum(contiguous)})}
    try:
        save_file(contiguous, side, metadata=header)
        with side.open("rb") as file:
            os.fsync(file.fileno())
        if path.exists():
            path.replace(folder / PREVIOUS)
        side.replace(path)
    finally:
        side.unlink(missing_ok=True)
    return path


def load(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read the arrays and the info of a checkpoint, given its folder or its file.

    A torn file is named in a warning and the previous checkpoint of its folder is read instead.

    Raises:
        CheckpointError: there is no checkpoint, or it is torn and so is the previous one, if any.
    """
    file = path if path.suffix == ".safetensors" else path / NAME
    previous = file.with_name(PREVIOUS)
    if not file.exists() and not (file.name == NAME and previous.exists()):
        raise CheckpointError(f"There is no checkpoint at '{path}': {_instead(path)}")
    try:
        return _read(file)
    except CheckpointError as error:
        if file.name != NAME or not previous.exists():
            raise
        result = _read(previous)
        warnings.warn(f"{error} The one before it, '{previous}', is used.", stacklevel=2)
        return result


def _read(file: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    try:
        with safe_open(file, framework="numpy") as reader:
            info = json.loads((reader.metadata() or {})["rlox"])
            arrays = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError, KeyError, ValueError) as error:
        reason = "it is no checkpoint of rlox" if isinstance(error, KeyError) else one_line(error)
        raise CheckpointError(
            f"Checkpoint '{file}' cannot be read, it is torn or not a checkpoint ({reason})."
        ) from None
    if _checksum(arrays) != info["crc32"]:
        raise CheckpointError(f"Checkpoint '{file}' is damaged: its numbers do not match their checksum.")
    return arrays, info


def _instead(path: Path) -> str:
    found = sorted(p.parent.name for p in path.parent.glob(f"*/{NAME}")) if path.parent.is_dir() else []
    if found:
        return f"the runs in '{path.parent}' are {', '.join(found[:5])}."
    return "pass the folder of a run, or one that Trainer.save wrote."


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> int:
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(arrays[name].tobytes(), zlib.crc32(name.encode(), crc))
    return crc


class Snapshot(NamedTuple):
    """All that a training has to go on from."""

    state: TrainState
    replay: Replay | None
    counters: dict[str, int]
    recent: list[Episode]
    """The last finished training episodes."""


def pack(snapshot: Snapshot) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return a snapshot as named arrays and JSON values; of the replay, the rows in use."""
    arrays = flatten(snapshot.state, "state")
    if snapshot.replay is not None:
        filled = int(snapshot.replay.size.max())
        columns = jax.tree.map(lambda column: np.asarray(column)[:filled], snapshot.replay.columns)
        arrays |= flatten(snapshot.replay._replace(columns=columns), "replay")
    return arrays, {"counters": snapshot.counters, "recent": snapshot.recent}


def unpack(
    arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any], state: TrainState, new_replay: Callable[[], Replay]
) -> Snapshot:
    """Return the snapshot that ``pack`` packed, shaped like ``state`` and ``new_replay()``.

    The replay's streams end where they stood, since the environments begin anew.

    Raises:
        CheckpointError: it was made with another configuration.
    """
    replay = None
    if "replay.size" in arrays:
        full, filled = new_replay(), int(arrays["replay.size"].max())
        head = full._replace(columns=jax.tree.map(lambda column: column[:filled], full.columns))
        head = unflatten(head, "replay", arrays)
        columns = jax.tree.map(lambda column, part: column.at[:filled].set(part), full.columns, head.columns)
        replay = replays.cut(head._replace(columns=columns))
    recent = [Episode(*episode) for episode in info["recent"]]
    return Snapshot(unflatten(state, "state", arrays), replay, info["counters"], recent)


def flatten(tree: Any, prefix: str) -> dict[str, NDArray[Any]]:
    """Return a tree's arrays by their path; random keys as their raw numbers."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {prefix + jax.tree_util.keystr(path): np.asarray(_raw(leaf)) for path, leaf in leaves}


def unflatten(template: T, prefix: str, arrays: Mapping[str, NDArray[Any]]) -> T:
    """Return a tree shaped like ``template`` with the arrays that ``flatten`` named.

    Raises:
        CheckpointError: an array is missing, has another shape or type, or is left over.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    names = [prefix + jax.tree_util.keystr(path) for path, _ in leaves]
    extra = {name for name in arrays if name.startswith(prefix)} - set(names)
    if extra:
        raise CheckpointError(f"The checkpoint holds '{min(extra)}', which this configuration has no place for.")
    restored = []
    for name, (_, leaf) in zip(names, leaves, strict=True):
        wanted = _raw(leaf)
        if name not in arrays:
            raise CheckpointError(f"The checkpoint lacks '{name}': it was made by another version of rlox.")
        array = arrays[name]
        if array.shape != wanted.shape or array.dtype != wanted.dtype:
            raise CheckpointError(
                f"'{name}' is {array.dtype}{list(array.shape)} in the checkpoint, but {wanted.dtype}"
                f"{list(wanted.shape)} here: it was made with other spaces or network sizes."
            )
        value = jnp.array(array)
        restored.append(jax.random.wrap_key_data(value) if wanted is not leaf else value)
    return jax.tree_util.tree_unflatten(structure, restored)


def _raw(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
