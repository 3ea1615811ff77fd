"""The HDF5 files of d3rlpy's ``ReplayBuffer.dump``, which have a dataset for each column of each episode."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlox.data.columns import Column, Source, check_memory
from rlox.data.files import reading
from rlox.errors import DatasetError
from rlox.runs.progress import track


def is_d3rlpy(file: Any) -> bool:
    """Return whether an open HDF5 file has this layout: ``num_episodes``, ``rewards_0``, ``terminated_0``, ..."""
    return all(name in file for name in ("num_episodes", "actions_0", "rewards_0", "terminated_0"))


def d3rlpy_source(file: Any, path: Path, check_stored: Callable[[Any, Path], int]) -> Source:
    """Return the columns of an open file, episode after episode; one that did not terminate counts as truncated."""
    count = file["num_episodes"]
    if count.shape != () or count.dtype.kind not in "iu" or not 1 <= count[()] <= len(file):
        raise ValueError("'num_episodes' is not the number of its episodes")
    n = int(count[()])
    lengths = np.array([file[f"rewards_{i}"].shape[0] for i in range(n)])
    entries = itertools.takewhile(lambda j: f"observations_0_{j}" in file, itertools.count())
    several = {f"observations/{j}": f"observations_{{}}_{j}" for j in entries}
    columns = {**(several or {"observations": "observations_{}"}), "actions": "actions_{}", "rewards": "rewards_{}"}

    def read(wanted: list[str], rows: slice) -> dict[str, Column]:
        with reading(path):
            return {name: (_flags(name) if name in _FLAGS else _values(columns[name]))[rows] for name in wanted}

    def _flags(name: str) -> NDArray[Any]:
        terminated = np.array([bool(file[f"terminated_{i}"][()]) for i in range(n)])
        flags = np.zeros(lengths.sum(), bool)
        flags[np.cumsum(lengths) - 1] = terminated if name == "terminals" else ~terminated
        return flags

    def _values(called: str) -> NDArray[Any]:
        stored = [file[called.format(i)] for i in range(n)]
        shape, dtype = stored[0].shape[1:], np.result_type(*{part.dtype for part in stored})
        for i, part in enumerate(stored):
            check_stored(part, path)
            wanted = (int(lengths[i]), *shape)
            if part.shape != wanted:
                raise DatasetError(f"'{path}': '{called.format(i)}' has shape {part.shape}, not {wanted}.")
        check_memory(int(lengths.sum()) * math.prod(shape) * dtype.itemsize, str(path))
        made = np.empty((lengths.sum(), *shape), dtype)
        ends = np.cumsum(lengths)
        for i, part in enumerate(track(f"Reading {path.name}", stored, n)):
            made[ends[i] - lengths[i] : ends[i]] = part[()]
        # Rewards and choices have an axis of one there.
        return made[:, 0] if shape == (1,) and (called == "rewards_{}" or _is_choice(called, dtype)) else made

    return Source([*columns, *_FLAGS], read)


_FLAGS = ("terminals", "timeouts")


def _is_choice(called: str, dtype: np.dtype[Any]) -> bool:
    return called == "actions_{}" and dtype.kind in "iu"
