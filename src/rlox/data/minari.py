"""Minari datasets, whose episodes have one more observation than steps: read into columns, and written."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlox.data.columns import SPACES, Column, MinariLike, Source, check_memory, flatten, group
from rlox.data.encoding import nested
from rlox.data.files import check_text, reading, require
from rlox.data.hdf5 import check_inside
from rlox.envs.space_json import restore
from rlox.envs.spaces import leaves
from rlox.errors import DatasetError
from rlox.runs.progress import track

_METADATA = "metadata.json"
_LOG_PROBS = "action_log_probs"


def open_minari(path: Path) -> Source:
    """Return the columns of a Minari dataset, given by its folder or by its id.

    Raises:
        DatasetError: there is none, or it is damaged.
    """
    minari = require("minari", f"To read the Minari dataset '{path}'")
    with reading(path):
        top = path if path.is_dir() else _local(path)
        folder = top / "data" if (top / "data").is_dir() else top
        if not (folder / _METADATA).is_file():
            raise ValueError(f"there is no '{_METADATA}' in it")
        _check_folder(folder, top, path)
        _check_metadata(folder, path)
        return minari_source(minari.MinariDataset(folder), path)


def minari_source(dataset: Any, path: Path) -> Source:
    """Return the columns of an open ``minari.MinariDataset``; errors call it ``path``."""
    with reading(path):
        lengths = [int(x["total_steps"]) for x in dataset.storage.get_episode_metadata(dataset.episode_indices)]
        if not lengths:
            raise DatasetError(f"The Minari dataset '{path}' has no episodes.")
        names = list(_columns_of(dataset[0]))

    def read(wanted: list[str], rows: slice) -> dict[str, Column]:
        with reading(path):
            return _read(dataset, np.array(lengths), wanted, rows, path.name)

    return Source(names, read, dataset.observation_space, dataset.action_space)


def is_minari(dataset: object) -> TypeGuard[MinariLike]:
    """Return whether this is a ``minari.MinariDataset``; the library is not imported for it."""
    minari = sys.modules.get("minari")
    return minari is not None and isinstance(dataset, minari.MinariDataset)


def _local(path: Path) -> Path:
    """Return the folder of a dataset that was downloaded, given its id."""
    if path.is_absolute() or ".." in path.parts:
        raise DatasetError(f"There is no folder '{path}', and the id of a Minari dataset is no such path.")
    folder = require("minari.storage.datasets_root_dir", f"To read '{path}'").get_dataset_path(path.as_posix())
    if not (folder / "data").is_dir():
        raise DatasetError(
            f"There is no file and no local Minari dataset '{path}': a published one is downloaded with "
            f"`minari download {path.as_posix()}`."
        )
    return folder


def _check_folder(folder: Path, top: Path, path: Path) -> None:
    """Refuse links that lead out of the dataset, pipes and devices."""
    for entry in itertools.chain([folder], folder.rglob("*")):
        if not (entry.is_file() or entry.is_dir()) or not entry.resolve().is_relative_to(top.resolve()):
            raise DatasetError(
                f"'{path}': '{entry.relative_to(top)}' is not a file of this folder, or a link that leads out of it: "
                "copy into the folder what it leads to."
            )


def _check_metadata(folder: Path, path: Path) -> None:
    """Refuse what Minari would believe: sizes that nothing backs, and an environment to be made for its spaces."""
    file = folder / _METADATA
    check_text(file.stat().st_size, f"'{_METADATA}'")
    metadata = json.loads(file.read_text(encoding="utf-8"))
    for key in SPACES:
        if not isinstance(metadata.get(key), str):
            raise DatasetError(
                f"'{path}' has no '{key}' in its {_METADATA}, and rlox does not make the environment that is named "
                "there, since that runs code: write the dataset again with Minari 0.5 or newer."
            )
        restore(_as_ours(json.loads(metadata[key])))
    main, count = folder / "main_data.hdf5", metadata["total_episodes"]
    if main.exists():
        check_inside(main)
    if not 0 <= count <= (main.stat().st_size if main.exists() else sum(1 for _ in folder.iterdir())):
        raise ValueError(f"{count:,} episodes are more than its files can hold")


def _as_ours(described: dict[str, Any]) -> dict[str, Any]:
    """Return Minari's description of a space as ``restore`` reads it."""
    match described:
        case {"type": "Box", "low": low, "high": high}:
            bounds = {"low": _flat(low), "high": _flat(high)}
            return {**described, **bounds}
        case {"type": "Dict", "subspaces": {**parts}}:
            return {"type": "Dict", "spaces": [[key, _as_ours(part)] for key, part in parts.items()]}
        case {"type": "Tuple", "subspaces": [*parts]}:
            return {"type": "Tuple", "spaces": [_as_ours(part) for part in parts]}
        case {"type": "Text"}:
            # It has no size; what is left out of the columns may be text.
            return {"type": "Tuple", "spaces": []}
    return described


def _flat(nested: Any) -> list[Any]:
    return np.ravel(nested).tolist()


def _columns_of(episode: Any) -> dict[str, NDArray[Any]]:
    """Return the columns of a Minari episode."""
    n = len(episode.rewards)
    columns = {"actions": episode.actions, "rewards": episode.rewards, "terminals": episode.terminations}
    columns["timeouts"] = np.asarray(episode.truncations, bool)
    # Minari allows an episode that ends with neither flag: it counts as truncated.
    columns["timeouts"][-1] |= not episode.terminations[-1]
    for key, values in flatten({"observations": _as_mapping(episode.observations)}).items():
        columns[key] = values[:-1]
        columns[f"next_{key}"] = values[1:]
    infos = episode.infos or {}
    if _LOG_PROBS in infos:
        # If the environment reported them, there is one more, of the reset.
        columns[_LOG_PROBS] = infos[_LOG_PROBS][-n:]
    return {key: np.asarray(values) for key, values in flatten(columns).items()}


def _as_mapping(values: Any) -> Any:
    if isinstance(values, tuple):
        values = dict(enumerate(values))
    return {key: _as_mapping(part) for key, part in values.items()} if isinstance(values, Mapping) else values


def _read(dataset: Any, lengths: NDArray[Any], wanted: list[str], rows: slice, name: str) -> dict[str, Column]:
    """Return rows of some columns, read episode by episode into arrays of their final size."""
    stops = np.cumsum(lengths)
    firsts = stops - lengths
    start, stop, _ = rows.indices(int(stops[-1]))
    total = max(stop - start, 0)
    chosen = np.flatnonzero((stops > start) & (firsts < stop))
    arrays: dict[str, NDArray[Any]] = {}
    episodes = dataset.iterate_episodes(dataset.episode_indices[chosen])
    for i, episode in zip(chosen, track(f"Reading {name}", episodes, len(chosen)), strict=True):
        first = int(firsts[i])
        low, high = max(start - first, 0), min(stop, int(stops[i])) - first
        columns = _columns_of(episode)
        for key in wanted:
            values = columns[key]
            if len(values) != lengths[i]:
                raise DatasetError(f"{name}: '{key}' of episode {episode.id} has {len(values)} rows.")
            if key not in arrays:
                check_memory(total * values.dtype.itemsize * math.prod(values.shape[1:]), name)
                arrays[key] = np.empty((total, *values.shape[1:]), values.dtype)
            same_kind = np.can_cast(values.dtype, arrays[key].dtype, "same_kind")
            if values.shape[1:] != arrays[key].shape[1:] or not same_kind:
                raise DatasetError(f"{name}: '{key}' of episode {episode.id} has another shape or type than before.")
            arrays[key][first + low - start : first + high - start] = values[low:high]
    return {key: arrays.get(key, np.empty(0)) for key in wanted}


def write_minari(
    path: Path,
    name: str,
    table: Mapping[str, Column],
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
) -> None:
    """Write columns as the folder of a Minari dataset, whose id is the folder's name (with ``-v0`` if it has none).

    Raises:
        DatasetError: the steps do not follow one another.
    """
    minari = require("minari", f"To write the Minari dataset '{name}'")
    storage = require("minari.dataset.minari_storage", f"To write the Minari dataset '{name}'")
    if any("/" in str(key) for keys, _ in leaves(observation_space) for key in keys):
        raise DatasetError(
            f"Minari cannot store {observation_space}: save it as .hdf5, or rename entries with a slash."
        )
    identity = re.sub(r"[^\w-]", "_", name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.mkdir()
        # As JPEG, Minari's default, images would not be read back as they were written.
        made = storage.MinariStorage.new(path / "data", observation_space, action_space, jpeg_encoding=False)
        identity = identity if re.search(r"-v\d+$", identity) else f"{identity}-v0"
        made.update_metadata({"dataset_id": identity, "minari_version": minari.__version__})
        made.update_episodes(_episodes(table, observation_space, name))


def _episodes(table: Mapping[str, Column], space: spaces.Space[Any], name: str) -> Iterator[Any]:
    """Yield each episode as Minari stores it."""
    buffer = require("minari.data_collector", f"To write the Minari dataset '{name}'").EpisodeBuffer
    terminals = table["terminals"][:]
    stops = np.flatnonzero(terminals | table["timeouts"][:]) + 1
    stops = stops if len(stops) and stops[-1] == len(terminals) else np.append(stops, len(terminals))
    starts = np.concatenate([[0], stops[:-1]])
    bounds = (slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True))
    follows = not group(table, "next_observations")
    for rows in track(f"Writing {name}", bounds, len(terminals), at=lambda rows: rows.start):
        failed = bool(terminals[rows.stop - 1])
        # The observation after a truncated step is not known: the step is left out, its own observation is the last.
        n = rows.stop - rows.start - (follows and not failed)
        if n == 0:
            continue
        observations = {
            key: _with_last(column[rows], table.get(f"next_{key}"), rows, failed, name)
            for key, column in group(table, "observations").items()
        }
        taken = slice(rows.start, rows.start + n)
        yield buffer(
            observations=nested(observations, "observations", space, name),
            actions=table["actions"][taken],
            rewards=table["rewards"][taken],
            terminations=terminals[taken],
            truncations=np.arange(n) == n - 1 if not failed else np.zeros(n, bool),
            infos={_LOG_PROBS: table[_LOG_PROBS][taken]} if _LOG_PROBS in table else None,
        )


def _with_last(obs: NDArray[Any], following: Column | None, rows: slice, failed: bool, name: str) -> NDArray[Any]:
    """Return the observations of an episode, ``(T, ...)``, and the one after its last step."""
    if following is None:
        return np.concatenate([obs, obs[-1:]]) if failed else obs
    following = following[rows]
    if not np.array_equal(following[:-1], obs[1:]):
        raise DatasetError(
            f"{name} cannot be a Minari dataset: in the episode from row {rows.start:,}, 'next_observations' are not "
            "the observations that follow. Save it as .hdf5."
        )
    return np.concatenate([obs, following[-1:]])
