"""Data of other libraries: files that d3rlpy 2.8 wrote (``ReplayBuffer.dump``), and an open dataset of Minari."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.dataset.minari_storage import MinariStorage

from rlox import Dataset, Trainer
from rlox.data.dataset import make_dataset
from rlox.errors import DatasetError

FILES = Path(__file__).parent / "data" / "d3rlpy"
"""Episodes of four steps, of which the first terminated; rewards count the steps."""


def test_a_file_of_d3rlpy_has_its_episodes():
    dataset = Dataset.load(FILES / "continuous.h5")
    assert dataset.episode_lengths.tolist() == [4, 4, 4]
    assert dataset.columns["rewards"][:].tolist() == list(range(12))
    assert np.flatnonzero(dataset.columns["terminals"][:]).tolist() == [3]
    assert np.flatnonzero(dataset.columns["timeouts"][:]).tolist() == [7, 11]
    assert dataset.action_space.shape == (2,)
    with h5py.File(FILES / "continuous.h5") as file:
        for i in range(3):
            np.testing.assert_array_equal(dataset.columns["observations"][4 * i : 4 * i + 4], file[f"observations_{i}"])
            np.testing.assert_array_equal(dataset.columns["actions"][4 * i : 4 * i + 4], file[f"actions_{i}"])
    assert len(dataset.transitions().reward) == 10


def test_choices_and_several_observations_of_d3rlpy():
    choices = Dataset.load(FILES / "discrete.h5")
    assert choices.action_space == spaces.Discrete(3)
    assert choices.columns["actions"].shape == (12,), "one number a step, as the environment takes them"
    dataset = Dataset.load(FILES / "tuple.h5")
    assert isinstance(dataset.observation_space, spaces.Dict)
    assert {key: space.shape for key, space in dataset.observation_space.spaces.items()} == {"0": (2,), "1": (3,)}
    assert np.flatnonzero(dataset.columns["terminals"][:]).tolist() == [3]
    part = Dataset.load(FILES / "discrete.h5", rows=slice(2, 9))
    assert (part.columns["rewards"][:].tolist(), part.partial) == ([*range(2, 9)], (True, True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_episodes": 10**9}, "'num_episodes' is not the number of its episodes"),
        ({"num_episodes": [3]}, "'num_episodes' is not"),
        ({"num_episodes": 4}, "is damaged, or not a .h5 file"),
        ({"observations_1": np.zeros((3, 3))}, r"'observations_1' has shape \(3, 3\), not \(4, 3\)"),
        ({"terminated_1": None}, "is damaged"),
    ],
)
def test_a_damaged_file_of_d3rlpy_is_refused_in_one_line(changes: dict[str, Any], message: str, tmp_path: Path):
    shutil.copy(FILES / "continuous.h5", tmp_path / "logs.h5")
    with h5py.File(tmp_path / "logs.h5", "a") as file:
        for name, value in changes.items():
            del file[name]
            if value is not None:
                file[name] = value
    with pytest.raises(DatasetError, match=message) as error:
        Dataset.load(tmp_path / "logs.h5")
    assert "\n" not in str(error.value)


def test_an_open_dataset_of_minari_is_taken_and_what_was_filtered_is_left_out(tmp_path: Path):
    Dataset.load("pendulum-random", rows=slice(0, 1000)).save(tmp_path / "logs-v0")
    opened = minari.MinariDataset(MinariStorage.read(tmp_path / "logs-v0" / "data"))
    whole, expected = make_dataset(opened), Dataset.load(tmp_path / "logs-v0")
    for found, wanted in zip(whole.transitions(), expected.transitions(), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert (whole.action_space, whole.guesses) == (expected.action_space, "")
    part = make_dataset(opened.filter_episodes(lambda episode: episode.id in (1, 3)))
    assert part.episode_returns.tolist() == expected.episode_returns[[1, 3]].tolist()
    trainer = Trainer("bc", dataset=opened, config={"hidden": 8, "batch_size": 16})
    assert trainer.train_offline(5, progress=False)["gradient_steps"] == 5
