"""Logged data in files and frames: all formats give the same steps; files are read and written whole or not at all."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from rlox import Dataset, Trainer
from rlox.data import columns as data_columns
from rlox.data.columns import FileColumn, JoinedColumns
from rlox.data.dataset import make_dataset
from rlox.data.sources import open_source
from rlox.errors import DatasetError, RloxError
from rlox.runs import progress

N = 12


def table(with_next: bool = True, **changes: Any) -> dict[str, Any]:
    """Return an episode that fails, one that is cut, and the beginning of a third."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(N + 1, 3)).astype(np.float32)
    made = {
        "observations": states[:N],
        "actions": rng.uniform(-1, 1, (N, 2)).astype(np.float32),
        "rewards": np.arange(N, dtype=np.float32),
        "terminals": np.arange(N) == 3,
        "timeouts": np.arange(N) == 8,
        "action_log_probs": rng.normal(size=N),
    }
    if with_next:
        following = states[1:].copy()
        following[[3, 8]] = 100 + np.arange(6).reshape(2, 3)
        made["next_observations"] = following
    return {**made, **changes}


def assert_same(found: Dataset, expected: Dataset) -> None:
    for one, other in zip(found.transitions(), expected.transitions(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(found.columns["action_log_probs"][:], expected.columns["action_log_probs"][:])
    np.testing.assert_array_equal(found.episode_lengths, expected.episode_lengths)


def by_lists() -> dict[str, Any]:
    return {name: column.tolist() for name, column in table().items()}


def by_numbers() -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, column in table().items():
        if column.ndim == 1:
            flat[name] = column
            continue
        # Sorted by name, 10 comes before 2.
        flat |= {f"{name}_{i}": column[:, i] for i in reversed(range(column.shape[1]))}
    return flat


def npz(folder: Path) -> Dataset:
    np.savez(folder / "logs.npz", **table())
    return Dataset.load(folder / "logs.npz")


def saved(name: str) -> Callable[[Path], Dataset]:
    def load(folder: Path) -> Dataset:
        Dataset.from_arrays(table()).save(folder / name)
        return Dataset.load(folder / name)

    return load


def d4rl(folder: Path) -> Dataset:
    made = table()
    with h5py.File(folder / "logs.hdf5", "w") as file:
        file["infos/action_log_probs"] = made.pop("action_log_probs")
        file["metadata/policy/weights"] = np.zeros((2, 2))
        for name, column in made.items():
            file[name] = column
    return Dataset.load(folder / "logs.hdf5")


def parquet(columns: dict[str, Any]) -> Callable[[Path], Dataset]:
    def load(folder: Path) -> Dataset:
        pq.write_table(pa.table(columns), folder / "logs.parquet", row_group_size=5)
        return Dataset.load(folder / "logs.parquet")

    return load


FORMATS: dict[str, Callable[[Path], Dataset]] = {
    "npz": npz,
    "npz, saved": saved("logs.npz"),
    "hdf5, saved": saved("logs.h5"),
    "hdf5 as D4RL has it": d4rl,
    "parquet of lists": parquet(by_lists()),
    "parquet of numbers": parquet(by_numbers()),
    "pandas with lists": lambda _: Dataset.from_frame(pd.DataFrame(by_lists())),
    "pandas with arrays": lambda _: Dataset.from_frame(pd.DataFrame({k: list(v) for k, v in table().items()})),
    "pandas with numbers": lambda _: make_dataset(pd.DataFrame(by_numbers())),
    "polars with lists": lambda _: make_dataset(pl.DataFrame(by_lists())),
    "polars with arrays": lambda _: Dataset.from_frame(pl.DataFrame(table())),
    "polars with numbers": lambda _: Dataset.from_frame(pl.DataFrame(by_numbers())),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_what_the_arrays_do(kind: str, tmp_path: Path):
    found, expected = FORMATS[kind](tmp_path), Dataset.from_arrays(table())
    assert_same(found, expected)
    assert found.n_episodes == 2
    assert found.episode_returns.tolist() == [6, 30]


def test_minari_keeps_where_a_step_led_that_was_cut(tmp_path: Path):
    dataset = Dataset.from_arrays(table(), action_space=spaces.Box(-2, 2, (2,)))
    dataset.save(tmp_path / "logs-v0")
    found = Dataset.load(tmp_path / "logs-v0")
    for one, other in zip(found.transitions(), dataset.transitions(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.columns["next_observations"][8:9], [[103, 104, 105]])
    np.testing.assert_array_equal(found.columns["action_log_probs"], dataset.columns["action_log_probs"])
    assert found.action_space == spaces.Box(-2, 2, (2,))
    theirs = minari.MinariDataset(str(tmp_path / "logs-v0" / "data"))
    assert (theirs.total_episodes, theirs.total_steps, theirs.id) == (3, N, "logs-v0")
    assert len(theirs[1].observations) == len(theirs[1].rewards) + 1


@pytest.mark.parametrize("n_ends", [1, 3])
def test_minari_without_next_observations_has_the_steps_that_can_be_used(tmp_path: Path, n_ends: int):
    cut = np.isin(np.arange(N), (8, 9, 10)[:n_ends])
    dataset = Dataset.from_arrays(table(with_next=False, timeouts=cut))
    dataset.save(tmp_path / "logs")
    for one, other in zip(Dataset.load(tmp_path / "logs").transitions(), dataset.transitions(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_minari_dataset_is_found_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = gym.make("CartPole-v1")
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(3):
        states, n = rng.normal(size=(10, 4)).astype(np.float32), 9
        # As Minari's own collector has it, the infos begin with those of the reset.
        infos = {"action_log_probs": -np.arange(n + 1.0)}
        flags: Any = {"terminations": np.zeros(n, bool), "truncations": np.arange(n) == n - 1}
        rewards: Any = np.ones(n)
        actions: Any = rng.integers(0, 2, n)
        made: Any = states
        episodes.append(EpisodeBuffer(observations=made, actions=actions, rewards=rewards, infos=infos, **flags))
    with warnings.catch_warnings():
        # Minari wants an author, a description and more.
        warnings.simplefilter("ignore")
        theirs = minari.create_dataset_from_buffers("cartpole/some-v0", episodes, env)
    env.close()
    dataset = make_dataset("cartpole/some-v0")
    assert dataset.action_space == spaces.Discrete(2)
    assert dataset.n_episodes == 3 == theirs.total_episodes
    assert dataset.columns["action_log_probs"][:9].tolist() == [-1, -2, -3, -4, -5, -6, -7, -8, -9]
    np.testing.assert_array_equal(dataset.columns["next_observations"][:9], theirs[0].observations[1:])
    assert Trainer("bc", env="CartPole-v1", dataset="cartpole/some-v0").action_space == spaces.Discrete(2)
    part = Dataset.load("cartpole/some-v0", rows=slice(5, 14))
    np.testing.assert_array_equal(part.columns["observations"][:], dataset.columns["observations"][5:14])
    with pytest.raises(DatasetError, match="minari download cartpole/none-v0"):
        make_dataset("cartpole/none-v0")


def test_hdf5_columns_stay_in_the_file(tmp_path: Path):
    Dataset.from_arrays(table()).save(tmp_path / "logs.hdf5")
    dataset = Dataset.load(tmp_path / "logs.hdf5")
    for name, column in dataset.columns.items():
        assert isinstance(column, FileColumn) == (name in ("observations", "actions", "next_observations")), name
    inside = dataset.within(spaces.Box(-200, 200, (3,)), spaces.Box(-1, 1, (2,)))
    assert isinstance(inside.columns["observations"], FileColumn)
    assert_same(inside, Dataset.from_arrays(table()))


@pytest.mark.parametrize("limit", [1, 5, 7])
@pytest.mark.parametrize("with_next", [True, False])
def test_pieces_of_any_size_give_the_same_steps(limit: int, with_next: bool, monkeypatch: pytest.MonkeyPatch):
    made = table(with_next=with_next)
    expected = Dataset.from_arrays(made).transitions()

    def small(columns: Any, what: str, **_: Any) -> Any:
        total = len(next(iter(columns)))
        return (slice(at, min(at + limit, total)) for at in range(0, total, limit))

    for module in ("rlox.data.encoding", "rlox.data.checks"):
        monkeypatch.setattr(f"{module}.pieces", small)
    for one, other in zip(Dataset.from_arrays(made).transitions(), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    made["observations"] = np.where(np.arange(N)[:, None] == 9, np.inf, made["observations"])
    with pytest.raises(DatasetError, match=r"inf in row 9, entry \[0\]"):
        Dataset.from_arrays(made)
    for row, value in ((10, 3.0), (0, 3.0), (10, -3.0), (0, -3.0)):
        made = table(actions=np.where(np.arange(N)[:, None] == row, value, np.zeros((N, 2))))
        with pytest.raises(DatasetError, match=f"the action in row {row}"):
            Dataset.from_arrays(made, action_space=spaces.Box(-1, 1, (2,)))
        inferred: Any = Dataset.from_arrays(made).action_space
        assert (inferred.low[0], inferred.high[0]) == (min(value, -1), max(value, 1))
        halves = table(actions=np.where(np.arange(N) == row, 0.5, 0.0))
        with pytest.raises(DatasetError, match="must be whole numbers"):
            Dataset.from_arrays(halves, action_space=spaces.Discrete(2))


@pytest.mark.parametrize("name", ["logs.npz", "logs.hdf5", "logs.parquet", "logs"])
def test_rows_take_a_part(name: str, tmp_path: Path):
    whole = table()
    if name == "logs":
        # Minari's episodes have only one last observation.
        del whole["next_observations"]
        whole["timeouts"] = whole["timeouts"] & False
        whole["terminals"] = np.isin(np.arange(N), (3, 8, N - 1))
    if name.endswith("parquet"):
        pl.DataFrame(whole).write_parquet(tmp_path / name, row_group_size=3)
    else:
        Dataset.from_arrays(whole).save(tmp_path / name)
    part = Dataset.load(tmp_path / name, rows=slice(2, 10))
    assert_same(part, Dataset.load(tmp_path / name, rows=slice(2, -2)))
    np.testing.assert_array_equal(part.columns["observations"][:], whole["observations"][2:10])
    # Neither the first episode nor the last one is whole.
    assert part.episode_lengths.tolist() == [5]
    assert part.episode_returns.tolist() == [4 + 5 + 6 + 7 + 8]
    # After the last step of an episode, the next one begins: it is whole.
    for rows, lengths in [
        (slice(4, None), [5]),
        (slice(-8, None), [5]),
        (slice(-99, None), [4, 5]),
    ]:
        lengths = [*lengths, 3] if name == "logs" else lengths
        assert Dataset.load(tmp_path / name, rows=rows).episode_lengths.tolist() == lengths
    for rows in (slice(0, 8, 2), slice(0.5, None), 3):
        with pytest.raises(DatasetError, match="without a stride"):
            Dataset.load(tmp_path / name, rows=rows)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DatasetError, match="has no steps"):
        Dataset.load(tmp_path / name, rows=slice(40, 50))


def test_columns_are_put_side_by_side(tmp_path: Path):
    made = table(with_next=False)
    raw = {"x": made["observations"][:, 0], "v": made["observations"][:, 1:], "u": made["actions"][:, 0]}
    raw |= {"r": made["rewards"], "failed": made["terminals"], "truncations": made["timeouts"]}
    chosen = {"observations": ["x", "v"], "actions": "u", "rewards": "r", "terminals": "failed"}
    with h5py.File(tmp_path / "logs.h5", "w") as file:
        for name, column in raw.items():
            file[f"log/{name}" if name != "truncations" else name] = column
    in_file = {k: f"log/{v}" if isinstance(v, str) else [f"log/{x}" for x in v] for k, v in chosen.items()}
    found = Dataset.load(tmp_path / "logs.h5", columns=in_file)
    assert isinstance(found.columns["observations"], JoinedColumns)
    expected = Dataset.from_arrays({**made, "actions": raw["u"]})
    for one, other in zip(found.transitions(), expected.transitions(), strict=True):
        np.testing.assert_array_equal(one, other)
    for columns, message in [
        ({"observation": "x"}, "has no column 'observation'. Did you mean 'observations'"),
        ({**in_file, "terminals": "log/fail"}, "has no column 'log/fail'. Did you mean 'log/failed'"),
    ]:
        with pytest.raises(DatasetError, match=message):
            Dataset.load(tmp_path / "logs.h5", columns=columns)


@pytest.mark.parametrize("kind", ["datetime64[ns]", "tz", "timedelta64[ns]", "objects", "text"])
def test_a_column_of_times_or_text_is_named(kind: str, tmp_path: Path):
    start = pd.Timestamp("2020-01-01")
    values: Any = {
        "datetime64[ns]": pd.date_range(start, periods=N, unit="ns"),
        "tz": pd.date_range(start, periods=N, tz="UTC"),
        "timedelta64[ns]": pd.timedelta_range(0, periods=N, unit="s"),
        "objects": pd.Series([start.to_pydatetime()] * N, dtype=object),
        "text": ["a"] * N,
    }[kind]
    made = pd.DataFrame(
        {"when": values, "x": np.arange(N) / 9, "a": np.arange(N) % 2, "r": 0.0, "z": np.arange(N) == 3}
    )
    pl.from_pandas(made).write_parquet(tmp_path / "logs.parquet")
    names = {"actions": "a", "rewards": "r", "terminals": "z"}
    message = r"column 'when' holds .*: (convert it to numbers|correct it).* or leave (it|the column) out"
    for observations in ("when", ["x", "when"]):
        chosen = {**names, "observations": observations}
        for frame in (made, pl.from_pandas(made)):
            with pytest.raises(DatasetError, match=message):
                Dataset.from_frame(frame, chosen)
        with pytest.raises(DatasetError, match=message):
            Dataset.load(tmp_path / "logs.parquet", columns=chosen)


def test_hdf5_links_in_circles_are_followed_once(tmp_path: Path):
    with h5py.File(tmp_path / "logs.hdf5", "w") as file:
        for name, column in table().items():
            file[name] = column
        file["group/loop"] = h5py.SoftLink("/group")
        file["group/root"] = h5py.SoftLink("/")
    assert len(Dataset.load(tmp_path / "logs.hdf5")) == N


def test_rows_of_an_archive_are_read_without_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    n = 100_000
    made = {
        "observations": np.arange(3.0 * n).reshape(n, 3),
        "actions": np.asfortranarray(np.zeros((n, 2))),
        "rewards": np.arange(n),
        "terminals": np.arange(n) % 10 == 9,
    }
    np.savez_compressed(tmp_path / "logs.npz", **made)
    monkeypatch.setattr(data_columns, "available_memory", lambda: 20 * n)
    # Columns of 16 bytes a row are in Fortran's order: they are read whole, and those of 24 bytes in part.
    part = Dataset.load(tmp_path / "logs.npz", rows=slice(50_000, 60_000))
    np.testing.assert_array_equal(part.columns["observations"][:], made["observations"][50_000:60_000])
    np.testing.assert_array_equal(part.columns["rewards"][:], made["rewards"][50_000:60_000])
    with pytest.raises(DatasetError, match=r"'observations' of .* needs"):
        Dataset.load(tmp_path / "logs.npz")


GOALS = spaces.Dict(
    {
        "achieved": spaces.Box(-9, 9, (2,)),
        "kind": spaces.Discrete(3),
        "pair": spaces.Tuple((spaces.Box(-9, 9, (1,)), spaces.Discrete(2))),
    }
)


def goals(n: int) -> dict[str, Any]:
    rows = np.arange(n)
    pair = {"0": rows[:, None].astype(np.float32) / 9, "1": rows % 2}
    return {"achieved": np.stack([rows, -rows], axis=1).astype(np.float32) / 9, "kind": rows % 3, "pair": pair}


@pytest.mark.parametrize("name", ["logs.npz", "logs.hdf5", "logs"])
def test_observations_with_names_come_back(name: str, tmp_path: Path):
    states = data_columns.flatten(goals(N + 1))
    made = table(with_next=False, observations={key: column[:-1] for key, column in states.items()})
    made["next_observations"] = {key: column[1:] for key, column in states.items()}
    dataset = Dataset.from_arrays(made, observation_space=GOALS)
    assert dataset.transitions().obs.shape == (N, 2 + 3 + 1 + 2)
    dataset.save(tmp_path / name)
    found = Dataset.load(tmp_path / name)
    assert found.observation_space == GOALS
    for one, other in zip(found.transitions(), dataset.transitions(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_environment_with_named_observations_fits_its_data_only():
    made = table(with_next=False, observations={k: v for k, v in goals(N).items() if k != "pair"})
    dataset = Dataset.from_arrays(made, action_space=spaces.Box(-1, 1, (2,), np.float32))
    assert isinstance(dataset.observation_space, spaces.Dict)
    assert set(dataset.observation_space.spaces) == {"achieved", "kind"}
    space = spaces.Dict({"achieved": spaces.Box(-9, 9, (2,)), "kind": spaces.Discrete(3)})
    assert dataset.within(space, dataset.action_space).transitions().obs.shape[1] == 5
    with pytest.raises(DatasetError, match=r"no column 'observations/pair/0'.* The data must come from an environment"):
        dataset.within(GOALS, dataset.action_space)
    with pytest.raises(DatasetError, match=r"no column 'observations', which .* but 'observations/achieved', 'observa"):
        dataset.within(spaces.Box(-1, 1, (3,)), dataset.action_space)
    trainer = Trainer("bc", dataset=dataset, config={"hidden": 8, "batch_size": 4})
    assert trainer.predict({"achieved": np.zeros(2, np.float32), "kind": np.float32(0)}).shape == (2,)


def test_a_parquet_file_too_large_for_memory_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    pl.DataFrame(table()).write_parquet(tmp_path / "logs.parquet")
    monkeypatch.setattr(data_columns, "available_memory", lambda: 100)
    with pytest.raises(DatasetError, match=r"needs 0\.0 GiB of memory, but 0\.0 GiB are available.*rows=slice"):
        Dataset.load(tmp_path / "logs.parquet")


def raw_bytes(name: str, folder: Path) -> bytes:
    path = folder / name
    if name.endswith("parquet"):
        pl.DataFrame(table()).write_parquet(path)
    else:
        Dataset.from_arrays(table()).save(path)
    return path.read_bytes()


@pytest.mark.long
@pytest.mark.parametrize("name", ["logs.npz", "logs.hdf5", "logs.parquet"])
@given(data=st.data())
def test_a_torn_or_damaged_file_is_refused_in_one_line_or_read_whole(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    folder = tmp_path_factory.mktemp("torn")
    raw = bytearray(raw_bytes(name, folder))
    cut = data.draw(st.one_of(st.just(0), st.integers(0, len(raw))))
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = folder / f"torn-{name}"
    path.write_bytes(raw[: len(raw) - cut])
    try:
        dataset = Dataset.load(path)
        assert len(dataset.transitions().reward) <= len(dataset)
    except RloxError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_a_torn_minari_dataset_is_refused_in_one_line(tmp_path: Path):
    Dataset.from_arrays(table()).save(tmp_path / "logs")
    main = tmp_path / "logs" / "data" / "main_data.hdf5"
    main.write_bytes(main.read_bytes()[:2000])
    for break_it in (lambda: None, main.unlink, (tmp_path / "logs" / "data" / "metadata.json").unlink):
        break_it()
        with pytest.raises(DatasetError, match="is damaged, or not a Minari dataset") as error:
            Dataset.load(tmp_path / "logs")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([[1.0, 2.0]] * (N - 1) + [[1.0]], "different lengths"),
        ([[1.0, None]] * N, "missing values"),
        ([None] * N, "missing values|must hold numbers"),
        (["a"] * N, "must hold numbers"),
    ],
)
def test_rows_that_are_no_array_are_refused(column: list[Any], message: str, tmp_path: Path):
    made = {**by_lists(), "observations": column}
    pq.write_table(pa.table(made), tmp_path / "logs.parquet")
    with pytest.raises(DatasetError, match=message):
        Dataset.load(tmp_path / "logs.parquet")
    for frame in (pd.DataFrame(made), pl.DataFrame(made)):
        with pytest.raises(DatasetError, match=r"same shape|must hold numbers|finite"):
            Dataset.from_frame(frame)
    with pytest.raises(DatasetError, match=r"same shape|must hold numbers|finite"):
        Dataset.from_arrays(made)


def test_files_without_the_columns_say_which_is_missing(tmp_path: Path):
    with h5py.File(tmp_path / "robomimic.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((3, 2))
        file["text"] = np.array([b"a"] * 3, object)
    with pytest.raises(
        DatasetError, match=r"robomimic has no columns 'observations', .* It has text, data/demo_0/actions"
    ):
        Dataset.load(tmp_path / "robomimic.hdf5")
    with h5py.File(tmp_path / "text.hdf5", "w") as file:
        for name, column in table(actions=np.array([b"a"] * N, object)).items():
            file[name] = column
    with pytest.raises(DatasetError, match="'actions' holds text or Python objects, but it must hold numbers"):
        Dataset.load(tmp_path / "text.hdf5")
    with pytest.raises(DatasetError, match="frame is a list"):
        Dataset.from_frame([1])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("module", "name"), [("h5py", "a.hdf5"), ("pyarrow.parquet", "a.parquet"), ("minari", "a-v0")])
def test_what_is_not_installed_is_named(module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, module, None)
    if module != "minari":
        (tmp_path / name).touch()
    with pytest.raises(
        DatasetError, match=r"needs the extra rlox\[data\]: pip install '\.\[data\]' in a clone"
    ) as error:
        Dataset.load(tmp_path / name)
    assert "\n" not in str(error.value)
    (tmp_path / name).unlink(missing_ok=True)
    if not name.endswith("parquet"):
        with pytest.raises(DatasetError, match=r"pip install '\.\[data\]' in a clone"):
            Dataset.from_arrays(table()).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["logs.npz", "logs.hdf5", "logs-v0"])
def test_writing_replaces_nothing_and_leaves_nothing_half_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    dataset = Dataset.from_arrays(table())

    class Failing:
        shape, dtype = (N, 3), np.dtype(np.float32)

        def __len__(self) -> int:
            return N

        def __getitem__(self, rows: slice) -> Any:
            raise OSError("No space left on device")

    broken = Dataset.from_arrays(table())
    broken.columns["observations"] = Failing()
    with pytest.raises(DatasetError, match="cannot be written: No space left on device"):
        broken.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
    dataset.save(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DatasetError, match="exists: choose another name"):
        dataset.save(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(DatasetError, match=r"does not write: use \.npz, \.hdf5 or \.h5"):
        dataset.save(tmp_path / "logs.csv")
    with pytest.raises(DatasetError, match="cannot be written"):
        dataset.save(tmp_path / f"{'x' * 300}{name}")
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="cannot be written"):
        dataset.save(tmp_path / "file" / name)


def test_a_file_that_came_into_being_meanwhile_is_kept(tmp_path: Path):
    path = tmp_path / "logs.npz"

    class Slow:
        shape, dtype = (N, 3), np.dtype(np.float32)

        def __len__(self) -> int:
            return N

        def __getitem__(self, rows: slice) -> Any:
            path.write_text("another's")
            return np.zeros((N, 3), np.float32)[rows]

    dataset = Dataset.from_arrays(table())
    dataset.columns["observations"] = Slow()
    with pytest.raises(DatasetError, match=r"logs\.npz' cannot be written: .*exists"):
        dataset.save(path)
    assert path.read_text() == "another's"
    assert [each.name for each in tmp_path.iterdir()] == ["logs.npz"]


def test_steps_that_do_not_follow_one_another_are_no_minari_dataset(tmp_path: Path):
    dataset = Dataset.from_arrays(table(next_observations=np.zeros((N, 3))))
    with pytest.raises(DatasetError, match=r"in the episode from row 0.*Save it as \.hdf5"):
        dataset.save(tmp_path / "logs")
    assert not list(tmp_path.iterdir())


def test_reading_that_lasts_shows_a_line_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    clock = iter(range(0, 100, 3))
    monkeypatch.setattr("rlox.runs.progress.time.monotonic", lambda: next(clock))
    assert list(progress.track("Reading", range(4), 4)) == [0, 1, 2, 3]
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    list(progress.track("Reading logs", range(4), 4))
    assert "Reading logs" in capsys.readouterr().err


def test_parquet_batches_are_put_together(tmp_path: Path):
    n = 70_000
    rows = np.arange(n)
    made = {"observations": rows / n, "actions": rows % 3, "rewards": rows, "terminals": rows % 100 == 99}
    pl.DataFrame(made).write_parquet(tmp_path / "logs.parquet", row_group_size=30_000)
    dataset = Dataset.load(tmp_path / "logs.parquet", rows=slice(20_000, None))
    np.testing.assert_array_equal(dataset.columns["rewards"], rows[20_000:])
    assert open_source(tmp_path / "logs.parquet").names == list(made)


@pytest.mark.parametrize(
    "rows", [slice(0, 1_000), slice(70_000, None), slice(65_000, 66_000), slice(0, 65_536)], ids=str
)
def test_rows_of_a_parquet_file_with_long_groups_are_those_of_the_frame(rows: slice, tmp_path: Path):
    order = np.arange(70_100)
    made = {"observations": order, "actions": order % 3, "rewards": order, "terminals": order % 100 == 99}
    pl.DataFrame(made).write_parquet(tmp_path / "logs.parquet")
    dataset = Dataset.load(tmp_path / "logs.parquet", rows=rows)
    np.testing.assert_array_equal(dataset.columns["rewards"], order[rows])


@pytest.mark.parametrize("width", [1, 1000])
@pytest.mark.parametrize("n", [1, 65_536, 65_537, 140_000])
def test_pieces_cover_every_row(n: int, width: int):
    columns = [np.broadcast_to(np.float64(0), (n, width)), np.zeros(n)]
    parts = list(data_columns.pieces(columns, "Reading"))
    assert np.concatenate([np.arange(part.start, part.stop) for part in parts]).tolist() == list(range(n))
    rows = max(part.stop - part.start for part in parts)
    assert rows <= 65_536
    assert rows * 8 * (width + 1) <= 2**24


def test_columns_of_several_types_side_by_side_keep_their_values():
    made = table(with_next=False, observations=None)
    given = {**made, "x": np.arange(N), "v": np.arange(N) / 8}
    for values in (given, {**given, "x": np.arange(N, dtype=np.uint8)}):
        frame = pd.DataFrame({k: list(v) for k, v in values.items() if k != "observations"})
        found = Dataset.from_frame(frame, {"observations": ["x", "v"]}).columns["observations"][:]
        np.testing.assert_array_equal(found, np.stack([np.arange(N), np.arange(N) / 8], axis=1))
