"""Logged data: steps of episodes from arrays, frames or files, checked once, as columns that a replay can hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from rlox.core.state import Transition
from rlox.data import checks, formats
from rlox.data.columns import Column, ColumnNames, Frame, Source, check_memory, group, pieces, take
from rlox.envs.spaces import action_codec, interchangeable, obs_encoder
from rlox.errors import DatasetError

ALL = slice(None)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Logged steps in order of time, episode after episode; every column has been checked.

    ``Dataset.from_arrays`` makes one from columns, ``Dataset.from_frame`` from a pandas or Polars frame,
    ``Dataset.load`` from a file.
    """

    columns: dict[str, Column]
    """``observations``, ``actions``, ``rewards``, ``terminals``, ``timeouts``; ``next_observations`` and
    ``action_log_probs`` where known. Columns of an HDF5 file that hold more than a number a step stay there; the
    entries of a Dict are columns such as ``observations/goal``."""
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    name: str
    partial: tuple[bool, bool] = (False, False)
    """Whether the first episode began before the first row, and whether the last one goes on after the last row."""

    def __len__(self) -> int:
        return len(self.columns["rewards"])

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        columns: ColumnNames | None = None,
        rows: slice = ALL,
    ) -> Dataset:
        """Return the dataset of a file with the columns of ``from_arrays``.

        Args:
            path: an ``.npz``, ``.hdf5``, ``.h5`` or ``.parquet`` file, or the folder or id of a Minari dataset.
                HDF5 columns stay in the file and are read piece by piece.
            observation_space: as in ``from_arrays``; by default that of the file where it has one.
            action_space: as in ``from_arrays``; by default that of the file where it has one.
            columns: what ours are called in the file, where that is not the same: one name, or several whose values
                are put side by side, such as ``{"observations": ["x", "v"], "rewards": "r"}``.
            rows: the steps to take, without a stride; by default all.

        Raises:
            DatasetError: no such file, one that is torn, or columns that ``from_arrays`` refuses.
        """
        source = formats.open_source(path)
        return cls._from_source(source, columns, rows, observation_space, action_space, Path(path).stem)

    @classmethod
    def from_frame(
        cls,
        frame: Frame,
        columns: ColumnNames | None = None,
        *,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        name: str = "frame",
    ) -> Dataset:
        """Return the dataset of a pandas or Polars frame, a row a step.

        Args:
            frame: has the columns of ``from_arrays``; those of several numbers a step as lists, or as columns
                ``observations.0``, ``observations.1`` and so on (or ``observations_0``).
            columns: as in ``load``.
            observation_space: as in ``from_arrays``.
            action_space: as in ``from_arrays``.
            name: as in ``from_arrays``.

        Raises:
            DatasetError: columns that ``from_arrays`` refuses.
        """
        source = formats.frame_source(frame)
        return cls._from_source(source, columns, ALL, observation_space, action_space, name)

    @classmethod
    def from_arrays(
        cls,
        columns: Mapping[str, Any],
        *,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        name: str = "arrays",
    ) -> Dataset:
        """Return a dataset of columns of equal length.

        Args:
            columns: ``observations`` ``(N, ...)``, or a mapping of such; ``actions`` ``(N, ...)``, whole numbers or
                floats; ``rewards`` ``(N,)``; ``terminals`` ``(N,)``, where an episode ended in a terminal state;
                ``timeouts`` ``(N,)``, where it was cut, optional; ``next_observations`` ``(N, ...)``, optional:
                without them those of the following step serve, and a step that is cut is left out, since nobody knows
                where it led; ``action_log_probs`` ``(N,)``, optional: log-probability of the action, or log-density
                in the environment's units, under the policy that took it. ``terminations`` and ``truncations`` are
                other names for ``terminals`` and ``timeouts``. Columns that are read by slices, such as
                ``h5py.Dataset``, stay where they are.
            observation_space: of the observations; by default a Box without bounds of their shape, or a Dict of such.
            action_space: of the actions; by default ``Discrete`` up to the largest whole number, or a Box of -1 to 1,
                or wider where the data are.
            name: what errors and summaries call it.

        Raises:
            DatasetError: a column that is missing, of another length, not of numbers or not finite; no end of an
                episode; an action outside its space.
        """
        source = formats.array_source(columns)
        return cls._from_source(source, None, ALL, observation_space, action_space, name)

    @classmethod
    def _from_source(
        cls,
        source: Source,
        chosen: ColumnNames | None,
        rows: slice,
        observation_space: spaces.Space[Any] | None,
        action_space: spaces.Space[Any] | None,
        name: str,
    ) -> Dataset:
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise DatasetError(f"rows={rows!r} must be a slice of steps without a stride, such as slice(0, 1_000_000).")
        table = checks.check_columns(take(source, chosen, rows, name), name)
        terminated: Any = table["terminals"]
        truncated: Any = table.get("timeouts", np.zeros(len(terminated), bool))
        table["timeouts"] = truncated = truncated & ~terminated
        if not (terminated.any() or truncated.any()):
            raise DatasetError(
                f"{name}: no episode ends anywhere in {len(terminated):,} steps: mark the ends in 'terminals' (the "
                "state is terminal) or 'timeouts' (the episode was cut)."
            )
        partial = bool(rows.start), not (terminated[-1] or truncated[-1])
        truncated[-1] |= not terminated[-1]
        if not group(table, "next_observations") and not (~truncated).any():
            raise DatasetError(f"{name}: every step is cut, and without 'next_observations' none can be used.")
        limits = checks.action_range(table["actions"], name)
        obs_space = observation_space or source.observation_space or checks.infer_observation_space(table)
        act_space = action_space or source.action_space or checks.infer_action_space(table["actions"], limits)
        checks.check_actions(table["actions"], limits, act_space, name)
        checks.check_log_probs(table, act_space, name)
        dataset = cls(table, obs_space, act_space, name, partial)
        dataset._check_observations()
        return dataset

    def within(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> Dataset:
        """Return the same steps as those of an environment with these spaces.

        Raises:
            DatasetError: they cannot be from it.
        """
        dataset = dataclasses.replace(self, observation_space=observation_space, action_space=action_space)
        try:
            if self.action_space != action_space:
                actions = self.columns["actions"]
                checks.check_actions(actions, checks.action_range(actions, self.name), action_space, self.name)
            if not interchangeable(self.observation_space, observation_space):
                dataset._check_observations()
        except DatasetError as error:
            raise DatasetError(f"{error} The environment must be the one that the data are from.") from None
        return dataset

    def _check_observations(self) -> None:
        for column in ("observations", "next_observations"):
            if group(self.columns, column):
                checks.check_observations(self.columns, column, self.observation_space, self.name)

    def transitions(self) -> Transition:
        """Return the steps in the coding of the replay, each ``(N, ...)``.

        Without ``next_observations``, those that are cut are left out, and the step before each of them is cut there.

        Raises:
            DatasetError: they do not fit in memory.
        """
        n, table, encoder, codec = len(self), self.columns, obs_encoder(self.observation_space), self._codec
        terminated, truncated, rewards = table["terminals"][:], table["timeouts"][:], table["rewards"][:]
        follows = not group(table, "next_observations")
        known = ~truncated if follows else np.ones(n, bool)
        if follows:
            truncated = truncated.copy()
            truncated[:-1] |= ~known[1:] & ~terminated[:-1]
        kept = int(known.sum())
        a_step = 2 * encoder.dim * encoder.dtype.itemsize + codec.dim * codec.dtype.itemsize + 6
        check_memory(kept * a_step, self.name)
        obs, next_obs = (np.empty((kept, encoder.dim), encoder.dtype) for _ in range(2))
        action = np.empty((kept, codec.dim), codec.dtype)
        at = 0
        for rows in pieces(table.values(), "Encoding steps"):
            # One row more, since what follows the last row of a piece is in the next one.
            one_more = slice(rows.start, min(rows.stop + follows, n))
            read = self._encode("observations", one_more)
            here = read[: rows.stop - rows.start]
            if follows:
                there = np.concatenate([read[1:], read[-1:]])[: len(here)]
                there[terminated[rows]] = here[terminated[rows]]
            else:
                there = self._encode("next_observations", rows)
            keep = known[rows]
            to = slice(at, at := at + int(keep.sum()))
            obs[to], next_obs[to] = here[keep], there[keep]
            action[to] = codec.encode(table["actions"][rows])[keep]
        return Transition(obs, action, rewards[known].astype(np.float32), next_obs, terminated[known], truncated[known])

    @property
    def _codec(self) -> Any:
        return action_codec(self.action_space)

    def _encode(self, column: str, rows: slice) -> NDArray[Any]:
        piece = {key: part[rows] for key, part in group(self.columns, column).items()}
        return checks.encode(piece, column, self.observation_space, rows.stop - rows.start, self.name)

    def encoded(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Yield observations and actions in the coding of the replay, in pieces of rows."""
        for rows in pieces(self.columns.values(), "Encoding steps"):
            yield self._encode("observations", rows), self._codec.encode(self.columns["actions"][rows])

    def episodes(self) -> NDArray[np.int64]:
        """Return the first row of each whole episode and the row after its last, ``(n_episodes, 2)``."""
        stops = np.flatnonzero(self.columns["terminals"][:] | self.columns["timeouts"][:]) + 1
        starts = np.concatenate([[0], stops[:-1]])
        first, last = self.partial
        return np.stack([starts, stops], axis=1)[int(first) : len(stops) - int(last)]

    @property
    def n_episodes(self) -> int:
        """Number of whole episodes."""
        return len(self.episodes())

    @property
    def episode_returns(self) -> NDArray[np.float64]:
        """Sum of the rewards of each whole episode, ``(n_episodes,)``."""
        bounds = self.episodes()
        if not len(bounds):
            return np.zeros(0)
        rewards = self.columns["rewards"][bounds[0, 0] : bounds[-1, 1]].astype(np.float64)
        return np.add.reduceat(rewards, bounds[:, 0] - bounds[0, 0])

    @property
    def episode_lengths(self) -> NDArray[np.int64]:
        """Steps of each whole episode, ``(n_episodes,)``."""
        bounds = self.episodes()
        return bounds[:, 1] - bounds[:, 0]

    def summary(self) -> dict[str, Any]:
        """Return what the data hold, and what is suspicious in them, as plain JSON values (see ``summarize``)."""
        from rlox.data.summary import summarize

        return summarize(self)

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` or ``.hdf5`` file, or without a suffix the folder of a Minari dataset.

        A file holds the same columns and spaces. Minari keeps one more observation than steps of each episode:
        without ``next_observations`` the step that was cut is left out of it, as in ``transitions``.

        Raises:
            DatasetError: something is there already, it cannot be written, or its steps do not follow one another.
        """
        table = dict(self.columns)
        if self.partial[1]:
            cut = table["timeouts"][:].copy()
            cut[-1] = False
            table["timeouts"] = cut
        formats.save(Path(path), table, self.observation_space, self.action_space)


DatasetLike = str | Path | Dataset | Mapping[str, ArrayLike] | Frame


def make_dataset(dataset: DatasetLike) -> Dataset:
    """Return a dataset from a name (of a file, bundled data or Minari's), columns, a frame, or one that is ready.

    Raises:
        DatasetError: it cannot be learned from.
    """
    match dataset:
        case Dataset():
            return dataset
        case str() | Path():
            from rlox.data.bundled import is_bundled, load_bundled

            return load_bundled(str(dataset)) if is_bundled(dataset) else Dataset.load(dataset)
        case Mapping():
            return Dataset.from_arrays(dataset)
    if formats.is_frame(dataset):
        return Dataset.from_frame(dataset)
    raise DatasetError(
        f"dataset is a {type(dataset).__name__}: it must be the name of a file, the id of a Minari dataset, a "
        "Dataset, a mapping of columns, or a frame."
    )
