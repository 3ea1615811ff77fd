"""Logs with an id of the episode in place of flags, and what is said of columns that are missing."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pytest

from rlox import Dataset
from rlox.data.sources import array_source
from rlox.errors import DatasetError

IDS = ["b7", "b7", "b7", "a1", "c", "c"]


def columns(**changes: Any) -> dict[str, Any]:
    """Return six steps of three batches."""
    table = {
        "observations": np.arange(12, dtype=np.float32).reshape(6, 2),
        "actions": np.array([0, 1, 0, 1, 1, 0]),
        "rewards": np.arange(6, dtype=np.float32),
        "episode": np.array(IDS),
    }
    return {name: column for name, column in {**table, **changes}.items() if column is not None}


def test_an_episode_ends_where_its_id_changes_and_in_a_terminal_state():
    dataset = Dataset.from_arrays(columns())
    assert dataset.columns["terminals"][:].tolist() == [False, False, True, True, False, True]
    assert not dataset.columns["timeouts"][:].any()
    assert dataset.episode_returns.tolist() == [3, 3, 9]
    assert "episode" not in dataset.columns
    assert len(dataset.transitions().reward) == 6


def test_flags_beside_the_id_say_how_an_episode_ended():
    cut = Dataset.from_arrays(columns(timeouts=[0, 0, 1, 0, 0, 0]))
    assert cut.columns["terminals"][:].tolist() == [False, False, False, True, False, True]
    assert cut.columns["timeouts"][:].tolist() == [False, False, True, False, False, False]
    failed = columns(terminals=[0, 0, 0, 1, 0, 0], batch=IDS, episode=None)
    found = Dataset.from_frame(pd.DataFrame({**{k: list(v) for k, v in failed.items()}}), episode="batch")
    assert found.columns["terminals"][:].tolist() == [False, False, False, True, False, False]
    assert found.columns["timeouts"][:].tolist() == [False, False, True, False, False, True]
    # Terminals alone do not say where the other episodes end; an id does.
    asked = Dataset.from_arrays(columns(terminals=[0, 0, 0, 1, 0, 0]))
    assert asked.columns["terminals"][:].tolist() == [False, False, False, True, False, False]
    assert asked.columns["timeouts"][:].tolist() == [False, False, True, False, False, True]
    # Without being asked for, an id is not read beside both flags.
    flags = {"terminals": [0, 0, 0, 0, 1, 0], "timeouts": np.zeros(6)}
    assert Dataset.from_arrays(columns(**flags)).columns["timeouts"][:].tolist() == [False] * 5 + [True]


@pytest.mark.parametrize(
    "ids", [IDS, [3, 3, 3, 1, 2, 2], [0.5, 0.5, 0.5, 1, 2, 2], pd.to_datetime(["2020"] * 3 + ["2021"] + ["2022"] * 2)]
)
def test_ids_are_text_numbers_or_times_in_frames_and_files(ids: Any, tmp_path: Path):
    frame = pd.DataFrame({"x": np.arange(6.0), "actions": [0, 1] * 3, "rewards": np.arange(6.0), "batch_id": ids})
    pl.from_pandas(frame).write_parquet(tmp_path / "logs.parquet")
    names = {"observations": "x"}
    for dataset in (
        Dataset.from_frame(frame, names, episode="batch_id"),
        Dataset.from_frame(pl.from_pandas(frame), names, episode="batch_id"),
        Dataset.load(tmp_path / "logs.parquet", columns=names, episode="batch_id"),
        Dataset.load(tmp_path / "logs.parquet", columns={**names, "episode": "batch_id"}),
    ):
        assert dataset.episode_lengths.tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("rows", "lengths", "partial"),
    [
        (slice(1, None), [1, 2], (True, False)),
        (slice(3, None), [1, 2], (False, False)),
        (slice(0, 5), [3, 1], (False, True)),
        (slice(0, 4), [3, 1], (False, False)),
        (slice(-3, -1), [1], (False, True)),
        (slice(-2, None), [2], (False, False)),
        (slice(0, 100), [3, 1, 2], (False, False)),
    ],
)
def test_rows_that_cut_an_episode_leave_it_unfinished(
    rows: slice, lengths: list[int], partial: tuple[bool, bool], tmp_path: Path
):
    pd.DataFrame({**columns(), "observations": np.arange(6.0)}).to_parquet(tmp_path / "logs.parquet")
    dataset = Dataset.load(tmp_path / "logs.parquet", rows=rows)
    assert dataset.episode_lengths.tolist() == lengths
    assert dataset.partial == partial
    assert dataset.columns["terminals"][-1:].tolist() == [not partial[1]]
    assert dataset.columns["timeouts"][-1:].tolist() == [partial[1]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episode": [1, 1, 2, 2, 1, 1]}, "episode '1' begins in row 0, and again in row 4: sort the rows by episode"),
        ({"episode": [1, 1, 2, np.nan, 3, 3]}, "the id of the episode is missing in row 3"),
        ({"episode": np.array(["a", "a", None, "b", "b", "b"], object)}, "is missing in row 2"),
        ({"episode": ["a", "", "b", "b", "b", "b"]}, "is missing in row 1"),
        ({"episode": pd.array(["a", "a", None, "b", "b", "b"], "string").to_numpy()}, "is missing in row 2"),
        ({"episode": np.array(["a", pd.NA, "b", "b", "b", "b"], object)}, "is missing in row 1"),
        ({"terminals": [1, 1, 1, 0, 0, 0]}, "'terminals' is 1 in row 0, but episode 'b7' goes on after it"),
        ({"timeouts": [0, 0, 0, 0, 1, 0]}, "'timeouts' is 1 in row 4, but episode 'c' goes on after it"),
        ({"episode": [1] * 5}, r"'episode' has shape \(5,\), but there are 6 rewards"),
        ({"episode": np.ones((6, 2))}, r"must be \(6,\), one"),
    ],
)
def test_ids_that_cannot_be_right_are_refused(changes: dict[str, Any], message: str):
    table = columns(**changes)
    with pytest.raises(DatasetError, match=message) as error:
        Dataset._from_source(array_source(table), {"episode": "episode"}, slice(None), None, None, "logs")
    assert "\n" not in str(error.value)


def test_ids_of_an_hdf5_file_are_numbers_or_text_of_fixed_length(tmp_path: Path):
    with h5py.File(tmp_path / "logs.h5", "w") as file:
        for name, column in columns(episode=None).items():
            file[name] = column
        file["fixed"], file["free"] = np.array(IDS, "S"), np.array(IDS, h5py.string_dtype())
    assert Dataset.load(tmp_path / "logs.h5", episode="fixed").episode_lengths.tolist() == [3, 1, 2]
    with pytest.raises(DatasetError, match=r"'free' holds text of variable length.*numpy\.array\(ids, 'S'\)"):
        Dataset.load(tmp_path / "logs.h5", episode="free")


def test_an_id_that_is_observed_too_is_read_as_a_number_and_checked_as_one(tmp_path: Path):
    def load(days: list[str]) -> Dataset:
        rows = [f"{x},{day},{x % 2},1" for x, day in enumerate(days)]
        (tmp_path / "logs.csv").write_text("\n".join(["x,day,u,rewards", *rows, ""]))
        names = {"observations": ["x", "day"], "actions": "u"}
        return Dataset.load(tmp_path / "logs.csv", columns=names, episode="day")

    found = load(["1", "1", "2"])
    assert found.transitions().obs.tolist() == [[0, 1], [1, 1], [2, 2]]
    assert found.episode_lengths.tolist() == [2, 1]
    found.save(tmp_path / "saved.npz")
    assert Dataset.load(tmp_path / "saved.npz").columns["observations"][:].tolist() == [[0, 1], [1, 1], [2, 2]]
    for days, message in ((["d1", "d1", "d2"], "'d1' in row 0"), (["1", "1", "nan"], "'day' holds nan in row 2")):
        with pytest.raises(DatasetError, match=message):
            load(days)


def test_an_id_of_several_columns_is_refused():
    with pytest.raises(DatasetError, match="an id of the episode is one column, not 2: a, b"):
        Dataset.from_frame(pd.DataFrame({"x": [1.0], "u": [0], "rewards": [1.0], "a": [1], "b": [1]}),
                           {"observations": "x", "actions": "u", "episode": ["a", "b"]})  # fmt: skip


@pytest.mark.parametrize("spelt", [[0, 1], (0, 1), np.array([0, 1]), pd.Index([0, 1]), ["0", "1"]])
def test_names_of_columns_may_be_numbers_or_an_index(spelt: Any):
    frame = pd.DataFrame([[1.0, 2.0, 0, 5.0, 7], [3.0, 4.0, 1, 6.0, 7]])
    names = {"observations": spelt, "actions": 2, "rewards": np.int64(3)}
    found = Dataset.from_frame(frame, names, episode=4)  # pyright: ignore[reportArgumentType]
    assert found.columns["observations"][:].tolist() == [[1, 2], [3, 4]]
    assert found.columns["rewards"][:].tolist() == [5, 6]


def test_columns_that_say_nothing_are_refused_in_one_line():
    with pytest.raises(DatasetError, match=r"columns=\['x'\] must say which column is which"):
        Dataset.from_frame(pd.DataFrame({"x": [1.0]}), ["x"])  # pyright: ignore[reportArgumentType]


def test_all_missing_columns_are_named_at_once():
    with pytest.raises(DatasetError) as error:
        Dataset.from_frame(pd.DataFrame({"x": [1.0], "reward": [0.0], "valve": [1.0], "batch": [1]}))
    assert str(error.value) == (
        "frame has no columns 'observations', 'actions', 'rewards' and 'terminals'. It has x, reward, valve, batch: "
        "say which is which, such as columns={'observations': ['x', 'v']} (--observations x v). Ends of episodes are "
        "marked by flags, or by a column with an id of the episode (episode=, --episode)."
    )
    names = {"observations": ["x", "y"], "actions": "u", "rewards": "reward"}
    with pytest.raises(DatasetError, match=r"no columns 'y', 'u' and 'batch_id'\. It has x, reward, valve, batch: "):
        Dataset.from_frame(pd.DataFrame({"x": [1.0], "reward": [0.0], "valve": [1.0], "batch": [1]}), names,
                           episode="batch_id")  # fmt: skip


def test_the_ends_of_d3rlpy_are_known():
    ends = columns(episode=None, terminals=[0, 0, 1, 0, 0, 0], episode_terminals=[0, 0, 1, 1, 0, 1])
    dataset = Dataset.from_arrays(ends)
    assert dataset.columns["terminals"][:].tolist() == [False, False, True, False, False, False]
    assert dataset.columns["timeouts"][:].tolist() == [False, False, False, True, False, True]
