"""A state as named arrays, and back."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from rlox.errors import CheckpointError

T = TypeVar("T")


def pack(tree: Any) -> dict[str, NDArray[Any]]:
    """Return copies of a tree's arrays by their path, such as ``train.actor.log_std``; random keys as numbers."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): np.array(_raw(leaf)) for path, leaf in leaves}


def unpack(template: T, arrays: Mapping[str, NDArray[Any]]) -> T:
    """Return a tree shaped like ``template`` with the arrays that ``pack`` named; NumPy's where the template has them.

    A leaf of the template whose first axis is empty may have any length in the arrays.

    Raises:
        CheckpointError: an array is missing, has another shape or type, or is left over.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    names = [_name(path) for path, _ in leaves]
    if extra := set(arrays) - set(names):
        raise CheckpointError(f"The checkpoint holds '{min(extra)}', which this configuration has no place for.")
    restored = []
    for name, (_, leaf) in zip(names, leaves, strict=True):
        if name not in arrays:
            raise CheckpointError(f"The checkpoint lacks '{name}': it was made with another configuration or version.")
        array, wanted = arrays[name], np.asarray(_raw(leaf))
        free = wanted.ndim > 0 and wanted.shape[0] == 0
        fits = array.shape[1:] == wanted.shape[1:] if free and array.ndim else array.shape == wanted.shape
        if not fits or array.dtype != wanted.dtype:
            raise CheckpointError(
                f"'{name}' is {array.dtype}{list(array.shape)} in the checkpoint, but {wanted.dtype}"
                f"{list(wanted.shape)} here: it was made with other spaces or network sizes."
            )
        restored.append(_like(leaf, array))
    return jax.tree_util.tree_unflatten(structure, restored)


def checksum(array: NDArray[Any], before: int = 0) -> int:
    """Return the CRC-32 of what came before and of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, before)


def _like(leaf: Any, array: NDArray[Any]) -> Any:
    if isinstance(leaf, jax.Array):
        value = jnp.array(array)
        return jax.random.wrap_key_data(value) if _is_key(leaf) else value
    return array if isinstance(leaf, np.ndarray) else type(leaf)(array)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path).lstrip(".")


def _raw(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
