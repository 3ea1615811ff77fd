"""Parts of data: rows by slices, whole episodes by a split or a filter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlox import Dataset
from rlox.data.columns import FileColumn
from rlox.data.dataset import Dataset as Whole
from rlox.data.parts import ChosenRows
from rlox.errors import DatasetError

LENGTHS = (3, 1, 4, 2, 5, 3)
N = sum(LENGTHS)


def logs(**changes: Any) -> dict[str, Any]:
    """Return six episodes, every other one cut, and two steps of a seventh."""
    ends = np.isin(np.arange(N + 2), np.cumsum(LENGTHS) - 1)
    cut = ends & (np.cumsum(ends) % 2 == 0)
    table = {
        "observations": {"x": np.arange(N + 2.0), "y": np.arange(2.0 * (N + 2)).reshape(-1, 2)},
        "actions": np.arange(N + 2) % 2,
        "rewards": np.arange(N + 2.0),
        "terminals": ends & ~cut,
        "timeouts": cut,
    }
    return {**table, **changes}


@pytest.fixture(params=["memory", "file"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Whole:
    made = Dataset.from_arrays(logs())
    if request.param == "memory":
        return made
    made.save(tmp_path / "logs.h5")
    return Dataset.load(tmp_path / "logs.h5")


def assert_same(found: Whole, expected: Whole) -> None:
    for one, two in zip(found.transitions(), expected.transitions(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert found.episode_returns.tolist() == expected.episode_returns.tolist()
    assert found.partial == expected.partial


@pytest.mark.parametrize("rows", [slice(8), slice(4, 12), slice(5, 18), slice(-6, None), slice(-5, -1), slice(None)])
def test_rows_are_those_that_loading_would_take(rows: slice, dataset: Whole, tmp_path: Path):
    Dataset.from_arrays(logs()).save(tmp_path / "all.npz")
    found, expected = dataset[rows], Dataset.load(tmp_path / "all.npz", rows=rows)
    assert_same(found, expected)
    assert (found.observation_space, found.action_space) == (dataset.observation_space, dataset.action_space)
    np.testing.assert_array_equal(found.columns["terminals"][:], expected.columns["terminals"][:])
    assert_same(found[1:][:2], found[1:3])


def test_rows_inside_one_episode_are_no_whole_episode(dataset: Whole):
    part = dataset[11:14]
    assert (part.n_episodes, part.partial) == (0, (True, True))
    assert len(part.transitions().reward) == 2
    for rows, message in [
        (slice(3, 3), r"\[3:3\] has no steps"),
        (slice(30, 40), "has no steps: .* has 20"),
        (slice(11, 12), "every step is truncated"),
        (slice(0, 9, 2), "without a stride"),
        (3, "rows=3 must be a slice"),
    ]:
        with pytest.raises(DatasetError, match=message):
            dataset[rows]  # pyright: ignore[reportArgumentType]


def test_a_split_has_every_step_once_and_whole_episodes(dataset: Whole):
    train, held_out = dataset.split(0.7, seed=1)
    assert (train.n_episodes, held_out.n_episodes) == (4, 2)
    assert (train.partial, held_out.partial) == ((False, True), (False, False))
    rewards = [part.columns["rewards"][:].tolist() for part in (train, held_out)]
    assert sorted(rewards[0] + rewards[1]) == list(range(N + 2))
    assert all(part == sorted(part) for part in rewards)
    returns = sorted([*train.episode_returns, *held_out.episode_returns])
    assert returns == sorted(dataset.episode_returns)
    for part in (train, held_out):
        for column in ("observations/x", "observations/y"):
            whole, rows = dataset.columns[column][:], part.columns["rewards"][:].astype(int)
            np.testing.assert_array_equal(part.columns[column][:], whole[rows])
            np.testing.assert_array_equal(part.columns[column][2:5], whole[rows[2:5]])
    again, other = dataset.split(0.7, seed=1), dataset.split(0.7, seed=2)
    assert again[1].columns["rewards"][:].tolist() == rewards[1]
    assert other[1].columns["rewards"][:].tolist() != rewards[1]
    assert [part.n_episodes for part in dataset.split(0.001, seed=1)] == [1, 5]
    assert [part.n_episodes for part in dataset.split(0.999, seed=1)] == [5, 1]
    with pytest.raises(DatasetError, match="every step is truncated"):
        dataset.split(0.999)


def test_a_split_is_drawn_at_random():
    ends = np.ones(40, bool)
    made = Dataset.from_arrays({"observations": np.zeros(40), "actions": np.arange(40) % 2,
                                "rewards": np.arange(40.0), "terminals": ends})  # fmt: skip
    held_out = made.split(0.5)[1].columns["rewards"][:]
    assert 5 < (held_out < 20).sum() < 15


def test_a_filter_keeps_whole_episodes(dataset: Whole):
    kept = dataset.filter(lambda episode: episode["rewards"].sum() > 10 and len(episode["observations/x"]) < 5)
    assert kept.episode_returns.tolist() == [22, 17, 48]
    assert kept.partial == (False, False)
    steps = kept.transitions()
    # The second and the last episode are cut: their last step's next observation is not known.
    assert steps.reward.tolist() == [4, 5, 6, 7, 8, 15, 16]
    assert steps.terminated.tolist() == [False, False, False, True, False, False, False]
    assert kept.name.endswith(", 3 of 6 episodes")
    with pytest.raises(DatasetError, match=r"None of the 6 whole episodes of .* is kept by that filter"):
        dataset.filter(lambda episode: False)
    with pytest.raises(DatasetError, match="1 of 6 episodes: every step is truncated, and without 'next_obs"):
        dataset.filter(lambda episode: len(episode["rewards"]) == 1)


def test_too_few_episodes_or_another_fraction_are_refused(dataset: Whole):
    for fraction in (0, 1, 1.5, -0.1, float("nan"), True, "half"):
        with pytest.raises(DatasetError, match="must be between 0 and 1"):
            dataset.split(fraction)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DatasetError, match="has 1 whole episode: a split needs at least two"):
        dataset[:3].split(0.5)


def test_columns_of_a_file_stay_there(tmp_path: Path):
    Dataset.from_arrays(logs()).save(tmp_path / "logs.h5")
    dataset = Dataset.load(tmp_path / "logs.h5")
    assert isinstance(dataset[2:9].columns["observations/y"], FileColumn)
    held_out = dataset.split(0.5)[1]
    assert isinstance(held_out.columns["observations/y"], ChosenRows)
    held_out.save(tmp_path / "held_out.h5")
    assert_same(Dataset.load(tmp_path / "held_out.h5"), held_out)
    assert_same(held_out[3:], Dataset.load(tmp_path / "held_out.h5")[3:])
