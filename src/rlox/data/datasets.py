"""Logged data: steps of episodes from arrays or a file, checked once, as columns that a replay can hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from rlox.core.state import Transition
from rlox.data.spaces import action_codec, obs_encoder
from rlox.errors import DatasetError, InvalidStepError, did_you_mean, one_line

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations", "action_log_probs")


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Logged steps in order of time, episode after episode; every column has been checked.

    ``Dataset.from_arrays`` makes one from columns, ``Dataset.load`` from a file.
    """

    columns: dict[str, NDArray[Any]]
    """``observations``, ``actions``, ``rewards``, ``terminals``, ``timeouts``; ``next_observations`` where known."""
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    name: str

    def __len__(self) -> int:
        return len(self.columns["rewards"])

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
    ) -> Dataset:
        """Return the dataset of an ``.npz`` file with the columns of ``from_arrays``.

        Raises:
            DatasetError: no such file, one that is torn, or columns that ``from_arrays`` refuses.
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise DatasetError(f"'{path}' is not a file that rlox reads data from: it must end in .npz.")
        try:
            # Opened here, since NumPy leaves a file open that it cannot read.
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
        except FileNotFoundError:
            raise DatasetError(f"There is no file '{path}'.") from None
        except Exception as error:  # A torn file can break its readers in any way.
            if isinstance(error, ValueError) and "pickle" in str(error).lower():
                raise DatasetError(
                    f"'{path}' holds Python objects, which rlox does not unpickle, since that runs code: save plain "
                    "arrays of numbers."
                ) from None
            raise DatasetError(
                f"'{path}' is torn or no .npz file ({type(error).__name__}: {one_line(error)}): make it again."
            ) from None
        return cls.from_arrays(columns, observation_space=observation_space, action_space=action_space, name=path.stem)

    @classmethod
    def from_arrays(
        cls,
        columns: Mapping[str, ArrayLike],
        *,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        name: str = "arrays",
    ) -> Dataset:
        """Return a dataset of columns of equal length.

        Args:
            columns: ``observations`` ``(N, ...)``; ``actions`` ``(N, ...)``, whole numbers or floats; ``rewards``
                ``(N,)``; ``terminals`` ``(N,)``, where an episode ended in a terminal state; ``timeouts`` ``(N,)``,
                where it was cut, optional; ``next_observations`` ``(N, ...)``, optional: without them those of the
                following step serve, and a step that is cut is left out, since nobody knows where it led.
            observation_space: of the observations; by default a Box without bounds of their shape.
            action_space: of the actions; by default ``Discrete`` up to the largest whole number, or a Box of -1 to 1,
                or wider where the data are.
            name: what errors and summaries call it.

        Raises:
            DatasetError: a column that is missing, of another length, not of numbers or not finite; no end of an
                episode; an action outside its space.
        """
        table = _check_columns(columns, name)
        terminated = table["terminals"]
        table["timeouts"] = truncated = table.get("timeouts", np.zeros(len(terminated), bool)) & ~terminated
        if not (terminated.any() or truncated.any()):
            raise DatasetError(
                f"{name}: no episode ends anywhere in {len(terminated):,} steps: mark the ends in 'terminals' (the "
                "state is terminal) or 'timeouts' (the episode was cut)."
            )
        truncated[-1] |= not terminated[-1]
        if "next_observations" not in table and not (~truncated).any():
            raise DatasetError(f"{name}: every step is cut, and without 'next_observations' none can be used.")
        obs_space = observation_space or _box_like(table["observations"])
        dataset = cls(table, obs_space, action_space or _action_space_of(table["actions"]), name)
        _check_actions(table["actions"], dataset.action_space, name)
        for column in ("observations", "next_observations"):
            if column in table:
                dataset._encode(column)
        return dataset

    def within(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> Dataset:
        """Return the same steps as those of an environment with these spaces.

        Raises:
            DatasetError: they cannot be from it.
        """
        try:
            return Dataset.from_arrays(
                self.columns, observation_space=observation_space, action_space=action_space, name=self.name
            )
        except DatasetError as error:
            raise DatasetError(f"{error} The environment must be the one that the data are from.") from None

    def transitions(self) -> Transition:
        """Return the steps in the coding of the replay, each ``(N, ...)``.

        Without ``next_observations``, those that are cut are left out, and the step before each of them is cut there.
        """
        table = self.columns
        obs, terminated, truncated = self._encode("observations"), table["terminals"], table["timeouts"]
        known = np.ones(len(self), bool)
        if "next_observations" in table:
            next_obs = self._encode("next_observations")
        else:
            next_obs, known = np.roll(obs, -1, axis=0), ~truncated
            next_obs[terminated] = obs[terminated]
            truncated = truncated.copy()
            truncated[:-1] |= ~known[1:] & ~terminated[:-1]
        action = action_codec(self.action_space).encode(table["actions"])
        steps = Transition(obs, action, table["rewards"].astype(np.float32), next_obs, terminated, truncated)
        return steps if known.all() else Transition(*(column[known] for column in steps))

    @property
    def episode(self) -> NDArray[np.int32]:
        """The number of each step's episode, counted from 0."""
        ended = self.columns["terminals"] | self.columns["timeouts"]
        return np.concatenate([[0], np.cumsum(ended[:-1])]).astype(np.int32)

    def encoded(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Yield observations and actions in the coding of the replay, in pieces of rows."""
        yield self._encode("observations"), action_codec(self.action_space).encode(self.columns["actions"])

    def _encode(self, column: str) -> NDArray[Any]:
        try:
            return obs_encoder(self.observation_space)(self.columns[column], len(self))
        except InvalidStepError as error:
            raise DatasetError(f"{self.name}: in '{column}', {error}") from None


DatasetLike = str | Path | Dataset | Mapping[str, ArrayLike]


def make_dataset(dataset: DatasetLike) -> Dataset:
    """Return a dataset from a file's name, a mapping of columns, or one that is ready.

    Raises:
        DatasetError: it cannot be learned from.
    """
    if isinstance(dataset, Dataset):
        return dataset
    if isinstance(dataset, Mapping):
        return Dataset.from_arrays(dataset)
    if isinstance(dataset, str | Path):
        from rlox.data.bundled import bundled_names, load_bundled

        return load_bundled(str(dataset)) if str(dataset) in bundled_names() else Dataset.load(dataset)
    raise DatasetError(
        f"dataset is a {type(dataset).__name__}: it must be the name of a file, a Dataset, or a mapping of columns."
    )


def _check_columns(columns: Mapping[str, ArrayLike], name: str) -> dict[str, NDArray[Any]]:
    """Return the columns that are wanted as arrays of numbers, of equal length."""
    for wanted in REQUIRED:
        if wanted not in columns:
            raise DatasetError(f"{name} has no column '{wanted}'.{did_you_mean(wanted, map(str, columns))}")
    table = {key: np.asarray(columns[key]) for key in (*REQUIRED, *OPTIONAL) if key in columns}
    n = len(table["rewards"]) if table["rewards"].ndim else 0
    if n == 0:
        raise DatasetError(f"{name} has no steps: 'rewards' has shape {table['rewards'].shape}.")
    for key, column in table.items():
        if column.dtype.kind not in "fiub":
            raise DatasetError(f"{name}: column '{key}' is of type {column.dtype}: it must hold numbers.")
        if column.shape[:1] != (n,):
            raise DatasetError(f"{name}: column '{key}' has shape {column.shape}, but there are {n:,} rewards.")
        if key in ("rewards", "terminals", "timeouts") and column.size != n:
            raise DatasetError(
                f"{name}: column '{key}' has shape {column.shape}: it must be ({n},), one for each step."
            )
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            row, *entry = np.argwhere(~np.isfinite(column))[0].tolist()
            raise DatasetError(
                f"{name}: column '{key}' holds {column[(row, *entry)]} in row {row:,}"
                f"{f', entry {entry}' if entry else ''}: every number must be finite. Mend or drop that episode."
            )
    for key in ("terminals", "timeouts"):
        if key in table:
            if not np.isin(table[key], (0, 1)).all():
                raise DatasetError(f"{name}: column '{key}' must hold 0 and 1 (or False and True) only.")
            table[key] = table[key].reshape(n).astype(bool)
    table["rewards"] = table["rewards"].reshape(n)
    return table


def _box_like(observations: NDArray[Any]) -> spaces.Box:
    dtype: Any = np.uint8 if observations.dtype == np.uint8 else np.float32
    low, high = (0, 255) if dtype is np.uint8 else (-np.inf, np.inf)
    return spaces.Box(low, high, observations.shape[1:], dtype)


def _action_space_of(actions: NDArray[Any]) -> spaces.Space[Any]:
    flat = actions.reshape(len(actions), -1)
    if actions.dtype.kind == "f":
        low, high = np.minimum(flat.min(axis=0), -1), np.maximum(flat.max(axis=0), 1)
        return spaces.Box(
            low.reshape(actions.shape[1:]).astype(np.float32), high.reshape(actions.shape[1:]).astype(np.float32)
        )
    if flat.shape[1] == 1:
        return spaces.Discrete(int(flat.max()) + 1)
    return spaces.MultiDiscrete(flat.max(axis=0).astype(np.int64) + 1)


def _check_actions(actions: NDArray[Any], space: spaces.Space[Any], name: str) -> None:
    """Refuse actions of another shape than the space's, or outside it."""
    flat = actions.reshape(len(actions), -1)
    shape = space.shape or ()
    if flat.shape[1] != max(int(np.prod(shape)), 1):
        raise DatasetError(f"{name}: an action has shape {actions.shape[1:]}, but the space {space} has {shape}.")
    if isinstance(space, spaces.Box):
        low, high = space.low.ravel(), space.high.ravel()
        # Logs in another precision than the space's may be off by a rounding.
        slack = 1e-5 * np.maximum(np.abs(low), np.abs(high))
        outside = (flat < low - slack) | (flat > high + slack)
    else:
        if (flat != np.rint(flat)).any():
            raise DatasetError(f"{name}: the actions of {space} must be whole numbers, but they are {actions.dtype}.")
        codes = flat - np.ravel(getattr(space, "start", 0))
        outside = (codes < 0) | (codes >= np.asarray(action_codec(space).nvec))
    if outside.any():
        row = int(np.argwhere(outside)[0][0])
        raise DatasetError(
            f"{name}: the action in row {row:,} is {actions[row].tolist()}, which is outside {space}: pass the "
            "action_space that the data were logged in."
        )
