"""Logged steps of episodes from arrays, frames or files: checked once, then encoded for the replay."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from rlox.core.transition import Transition
from rlox.data import checks, encoding, formats, parts, sources, steps
from rlox.data.columns import Column, ColumnNames, MinariLike, Source, episode_returns, group
from rlox.data.episodes import mark_by_ids
from rlox.data.minari import is_minari, minari_source
from rlox.data.reading import AS_IT_IS, Reading
from rlox.data.sources import Frame
from rlox.data.summary import summarize
from rlox.envs.spaces import interchangeable
from rlox.errors import DatasetError
from rlox.tables import as_html, as_line

ALL = slice(None)
ARRAYS, FRAME = "arrays", "frame"
"""What data are called that have no name."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Logged steps in order of time, episode after episode; every column has been checked.

    Made by ``Dataset.load`` from a file, ``Dataset.from_frame`` from a pandas or Polars frame, or
    ``Dataset.from_arrays`` from columns.
    """

    columns: dict[str, Column]
    """``observations``, ``actions``, ``rewards``, ``terminals``, ``timeouts``, and where known ``next_observations``
    and ``action_log_probs``. Columns of an HDF5 file with more than one number per step stay there; the entries of a
    Dict are columns such as ``observations/goal``."""
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    name: str
    partial: tuple[bool, bool] = (False, False)
    """Whether the first episode began before the first row, and whether the last one continues after the last row."""
    guesses: str = ""
    """What had to be guessed of the actions and may be wrong, in a sentence."""

    def __len__(self) -> int:
        return len(self.columns["rewards"])

    def __repr__(self) -> str:
        return as_line("Dataset", self._about())

    def _repr_html_(self) -> str:
        return as_html("Dataset", self._about())

    def _about(self) -> dict[str, object]:
        about: dict[str, object] = {"name": self.name, "steps": len(self), "episodes": self.n_episodes}
        if self.n_episodes:
            about["mean return"] = float(self.episode_returns.mean())
        return {**about, "observations": self.observation_space, "actions": self.action_space}

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        columns: ColumnNames | None = None,
        episode: str | None = None,
        rows: slice = ALL,
    ) -> Dataset:
        """Return the dataset of a file that has the columns of ``from_arrays``.

        Args:
            path: an ``.npz``, ``.hdf5``, ``.h5``, ``.parquet``, ``.csv`` or ``.csv.gz`` file, the folder or id of a
                Minari dataset, or the name of bundled data. HDF5 columns stay in the file and are read piece by piece.
            observation_space: as in ``from_arrays``; by default the file's, if it has one.
            action_space: as in ``from_arrays``; by default the file's, if it has one.
            columns: names of the columns in the file, where they differ: one name, or several whose values are put
                side by side, such as ``{"observations": ["x", "v"], "rewards": "r"}``.
            episode: column with an id of the episode, in place of flags: an episode ends where it changes (see
                ``from_arrays``).
            rows: the steps to take, without a stride; by default all.

        Raises:
            DatasetError: there is no such file, it is damaged, or ``from_arrays`` refuses its columns.
        """
        source = sources.open_source(path)
        return cls._from_source(
            source, _chosen(columns, episode), rows, observation_space, action_space, Path(path).stem
        )

    @classmethod
    def from_frame(
        cls,
        frame: Frame,
        columns: ColumnNames | None = None,
        *,
        episode: str | None = None,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        name: str = FRAME,
    ) -> Dataset:
        """Return the dataset of a pandas or Polars frame with one row per step.

        Args:
            frame: has the columns of ``from_arrays``; several numbers per step are lists, or columns
                ``observations.0``, ``observations.1`` and so on (or ``observations_0``).
            columns: as in ``load``.
            episode: as in ``load``.
            observation_space: as in ``from_arrays``.
            action_space: as in ``from_arrays``.
            name: as in ``from_arrays``.

        Raises:
            DatasetError: ``from_arrays`` refuses the columns.
        """
        source = sources.frame_source(frame)
        return cls._from_source(source, _chosen(columns, episode), ALL, observation_space, action_space, name)

    @classmethod
    def from_arrays(
        cls,
        columns: Mapping[str, Any],
        *,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        name: str = ARRAYS,
    ) -> Dataset:
        """Return a dataset of columns of equal length.

        Args:
            columns: ``observations`` ``(N, ...)``, or a mapping of such; ``actions`` ``(N, ...)``, whole numbers or
                floats; ``rewards`` ``(N,)``; ``terminals`` ``(N,)``, 1 where an episode ended in a terminal state;
                ``timeouts`` ``(N,)``, optional, 1 where it was truncated; ``next_observations`` ``(N, ...)``,
                optional: without them they are taken from the next row, and truncated steps are left out, since
                the observation after them is not known; ``action_log_probs`` ``(N,)``, optional: log-probability of
                the action, or its log-density in the environment's units, under the policy that took it;
                ``episode`` ``(N,)``, numbers or text: an id of the episode, in place of ``terminals``. The last step
                of an episode is then terminal, unless ``terminals`` is there too and does not say so, or ``timeouts``
                does.
                ``terminations`` and ``truncations`` are other names for ``terminals`` and ``timeouts``. Columns that
                are read by slices, such as ``h5py.Dataset``, are not copied to memory.
            observation_space: of the observations; by default a Box without bounds, or a Dict of such.
            action_space: of the actions; by default ``Discrete`` up to the largest whole number, or a Box from -1 to
                1 (wider if the data are).
            name: what errors and summaries call the data.

        Raises:
            DatasetError: a column is missing, has another length, or does not hold finite numbers; no episode ends;
                an action is outside its space.
        """
        source = sources.array_source(columns)
        return cls._from_source(source, {}, ALL, observation_space, action_space, name)

    @classmethod
    def _from_source(
        cls,
        source: Source,
        chosen: ColumnNames,
        rows: slice,
        observation_space: spaces.Space[Any] | None,
        action_space: spaces.Space[Any] | None,
        name: str,
        reading: Reading = AS_IT_IS,
        spaces_known: bool = False,
    ) -> Dataset:
        theirs = steps.resolve(source.names, chosen, name)
        table = checks.check_columns(steps.take(source, theirs, steps.check_rows(rows), name), name)
        if "episode" in table:
            mark_by_ids(table, name, goes_on=steps.goes_on(source, theirs, rows, name))
        partial = steps.starts_inside(source, theirs, rows, name), checks.mark_ends(table, name)
        limits = checks.action_range(table["actions"], name)
        # Not `or`: an empty space is false, and one of two axes warns when it is asked for its length.
        obs_space = source.observation_space if observation_space is None else observation_space
        told = reading.action_space(table["actions"].shape[1:], name) if action_space is None else action_space
        act_space = source.action_space if told is None else told
        if obs_space is None:
            obs_space = checks.infer_observation_space(table)
        guesses = ""
        if act_space is None:
            act_space = checks.infer_action_space(table["actions"], limits, name, any_number=spaces_known)
            guesses = checks.doubt(table["actions"], limits, act_space)
        checks.check_spaces(obs_space, act_space, name)
        checks.check_actions(table["actions"], limits, act_space, name)
        checks.check_log_probs(table, act_space, name)
        dataset = cls(table, obs_space, act_space, name, partial, guesses)
        dataset._check_observations()
        return dataset

    def __getitem__(self, rows: slice) -> Dataset:
        """Return some of the steps, such as ``dataset[:1000]``; episodes that are cut there are not whole.

        Raises:
            DatasetError: something else than a slice without a stride, or no steps.
        """
        return parts.rows_of(self, steps.check_rows(rows))

    def split(self, fraction: float, *, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Return two datasets: about a ``fraction`` of the whole episodes, drawn at random, and the others.

        Steps of episodes that are not whole are in the first.

        Raises:
            DatasetError: there are fewer than two whole episodes, or ``fraction`` is not between 0 and 1.
        """
        return parts.split(self, fraction, seed)

    def filter(self, wanted: Callable[[parts.Episode], Any]) -> Dataset:
        """Return the whole episodes that a function says yes to, such as ``lambda e: e["rewards"].sum() > 100``.

        Args:
            wanted: is called with each episode, a mapping from the names in ``columns`` to arrays ``(T, ...)``.

        Raises:
            DatasetError: it says yes to none.
        """
        return parts.keep(self, wanted)

    def within(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> Dataset:
        """Return the same steps with the spaces of an environment.

        Raises:
            DatasetError: the data do not fit the spaces.
        """
        dataset = dataclasses.replace(self, observation_space=observation_space, action_space=action_space, guesses="")
        try:
            if self.action_space != action_space:
                actions = self.columns["actions"]
                checks.check_actions(actions, checks.action_range(actions, self.name), action_space, self.name)
            if not interchangeable(self.observation_space, observation_space):
                dataset._check_observations()
        except DatasetError as error:
            raise DatasetError(f"{error} The data must come from an environment with these spaces.") from None
        return dataset

    def _check_observations(self) -> None:
        for column in ("observations", "next_observations"):
            if group(self.columns, column):
                checks.check_observations(self.columns, column, self.observation_space, self.name)

    def transitions(self) -> Transition:
        """Return the steps as the replay stores them, each column ``(N, ...)``.

        Without ``next_observations``, truncated steps are left out, and the step before each is truncated instead.

        Raises:
            DatasetError: they do not fit in memory, together with the replay that is made of them.
        """
        return encoding.transitions(self.columns, self.observation_space, self.action_space, self.name)

    def encoded(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Yield observations and actions as the replay stores them, in pieces of rows."""
        return encoding.encoded(self.columns, self.observation_space, self.action_space, self.name)

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
        return episode_returns(self.columns["rewards"], self.episodes())

    @property
    def episode_lengths(self) -> NDArray[np.int64]:
        """Number of steps of each whole episode, ``(n_episodes,)``."""
        bounds = self.episodes()
        return bounds[:, 1] - bounds[:, 0]

    def summary(self) -> dict[str, Any]:
        """Return what the data hold, and what in them is suspicious, as plain JSON values (see ``summarize``)."""
        found = summarize(self.columns, self.episodes(), self.action_space, self.name)
        return {**found, "suspicious": [self.guesses] * bool(self.guesses) + found["suspicious"]}

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` or ``.hdf5`` file, or without a suffix the folder of a Minari dataset.

        The file has the same columns and spaces; a first episode whose beginning was left out counts as whole there.
        Minari stores one more observation than steps of each episode: without ``next_observations``, truncated steps
        are left out of it, as in ``transitions``.

        Raises:
            DatasetError: the path exists, it cannot be written, no episode ends in the steps, or Minari cannot store
                them since they do not follow one another.
        """
        table = dict(self.columns)
        if self.partial[1]:
            cut = table["timeouts"][:].copy()
            cut[-1] = False
            table["timeouts"] = cut
            if not (cut.any() or table["terminals"][:].any()):
                raise DatasetError(
                    f"{self.name}: its {len(cut):,} steps are the inside of one episode, which no file can be loaded "
                    "from: take more of them."
                )
        formats.save(Path(path), table, self.observation_space, self.action_space)


def _chosen(columns: ColumnNames | None, episode: str | None) -> ColumnNames:
    """Return which columns are which, by names that are text: those of a frame may be numbers, or an index.

    Raises:
        DatasetError: ``columns`` is no mapping.
    """
    if not isinstance(columns, Mapping | None):
        raise DatasetError(
            f"columns={columns!r:.80} must say which column is which, such as "
            "{'observations': ['x', 'v'], 'rewards': 'r'}."
        )
    given = {**(columns or {}), **({"episode": episode} if episode is not None else {})}
    return {ours: _names(theirs) for ours, theirs in given.items()}


def _names(theirs: Any) -> str | list[str]:
    if isinstance(theirs, str) or not isinstance(theirs, Iterable):
        return str(theirs)
    return [str(each) for each in theirs]


DatasetLike = str | Path | Dataset | Mapping[str, ArrayLike] | Frame | MinariLike


def make_dataset(dataset: DatasetLike, reading: Reading = AS_IT_IS, *, spaces_known: bool = False) -> Dataset:
    """Return a dataset from what ``Dataset.load`` opens, columns, a frame, one of Minari, or a dataset itself.

    Args:
        dataset: what it is made of.
        reading: what the columns of a file are called, and which actions there are.
        spaces_known: those of an environment or a policy take the place of what is inferred, and check the data.

    Raises:
        DatasetError: it cannot be opened, or not be learned from.
    """
    if isinstance(dataset, Dataset):
        return dataset
    if isinstance(dataset, str | Path):
        source, name = sources.open_source(dataset), Path(dataset).stem
        return Dataset._from_source(source, reading.columns, ALL, None, None, name, reading, spaces_known)
    source, name = _live_source(dataset)
    return Dataset._from_source(source, {}, ALL, None, None, name, spaces_known=spaces_known)


def _live_source(dataset: object) -> tuple[Source, str]:
    """Return how columns, a frame or a dataset of Minari are read, and what they are called.

    Raises:
        DatasetError: it is something else.
    """
    if isinstance(dataset, Mapping):
        return sources.array_source(dataset), ARRAYS
    if is_minari(dataset):
        path = Path(dataset.id)
        return minari_source(dataset, path), path.name
    if sources.is_frame(dataset):
        return sources.frame_source(cast("Frame", dataset)), FRAME
    raise DatasetError(
        f"dataset is a {type(dataset).__name__}: it must be a file, the id of a Minari dataset, the name of bundled "
        "data, a Dataset, a MinariDataset, a mapping of columns, or a frame."
    )
