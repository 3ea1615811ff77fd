"""Logged data: what is read from them, and what is refused."""

import datetime
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from rlox import Dataset, Trainer
from rlox.data import columns as data_columns
from rlox.data.bundled import bundled_names
from rlox.envs.spaces import action_codec
from rlox.errors import ConfigError, DatasetError


def columns(**changes: Any) -> dict[str, Any]:
    """Return six steps: an episode of three that fails, one of three that is cut."""
    table = {
        "observations": np.arange(12, dtype=np.float32).reshape(6, 2),
        "actions": np.array([0, 1, 0, 1, 1, 0]),
        "rewards": np.arange(6, dtype=np.float32),
        "terminals": np.array([0, 0, 1, 0, 0, 0], bool),
        "timeouts": np.array([0, 0, 0, 0, 0, 1], bool),
    }
    return {name: column for name, column in {**table, **changes}.items() if column is not None}


def test_without_next_observations_they_are_taken_from_the_next_row():
    steps = Dataset.from_arrays(columns()).transitions()
    # The observation after a truncated step is not known: it is left out, and the step before it is truncated.
    assert steps.obs[:, 0].tolist() == [0, 2, 4, 6, 8]
    assert steps.next_obs[:, 0].tolist() == [2, 4, 4, 8, 10]
    assert steps.terminated.tolist() == [False, False, True, False, False]
    assert steps.truncated.tolist() == [False, False, False, False, True]


def test_a_step_that_is_left_out_takes_its_whole_row_with_it():
    # An episode that is cut, a step alone that is cut after one that fails, and a last episode that fails.
    flags = {"terminals": np.array([0, 0, 1, 0, 0, 1], bool), "timeouts": np.array([0, 1, 0, 1, 0, 0], bool)}
    dataset = Dataset.from_arrays(columns(**flags))
    assert dataset.columns["timeouts"][:].tolist() == flags["timeouts"].tolist()
    steps = dataset.transitions()
    assert steps.reward.tolist() == [0, 2, 4, 5]
    assert steps.obs[:, 1].tolist() == [1, 5, 9, 11]
    assert steps.next_obs[:, 1].tolist() == [3, 5, 11, 11]
    assert steps.action[:, 0].tolist() == [0, 0, 1, 0]
    assert steps.terminated.tolist() == [False, True, False, True]
    assert steps.truncated.tolist() == [True, False, False, False]


def test_next_observations_are_taken_where_they_are_given():
    given = np.arange(12, dtype=np.float32).reshape(6, 2) + 100
    steps = Dataset.from_arrays(columns(next_observations=given)).transitions()
    np.testing.assert_array_equal(steps.next_obs, given)
    assert steps.truncated.tolist() == [False] * 5 + [True]


def test_actions_arrive_in_the_policy_s_coding():
    table = columns(actions=np.array([[-2.0], [3.0], [0.5], [0.0], [1.0], [2.0]]))
    dataset = Dataset.from_arrays(table, action_space=spaces.Box(-2.0, 3.0, (1,)))
    np.testing.assert_allclose(dataset.transitions().action[:3, 0], [-1.0, 1.0, 0.0])


@pytest.mark.parametrize("given", [True, False], ids=["next observations", "none"])
def test_a_row_with_both_flags_is_terminal(given: bool):
    both = columns(timeouts=np.array([0, 0, 1, 0, 0, 1], bool))
    if given:
        both["next_observations"] = both["observations"] + 100
    dataset = Dataset.from_arrays(both)
    assert dataset.columns["timeouts"][:].tolist() == [False] * 5 + [True]
    steps = dataset.transitions()
    assert len(steps.reward) == (6 if given else 5)
    assert steps.terminated[:5].tolist() == [False, False, True, False, False]
    assert not (steps.terminated & steps.truncated).any()


def test_columns_given_are_not_changed():
    given = columns(timeouts=np.array([0, 0, 1, 0, 0, 0], bool))
    before = {name: column.copy() for name, column in given.items()}
    Dataset.from_arrays(given).transitions()
    for name, column in given.items():
        np.testing.assert_array_equal(column, before[name])


def test_numbered_columns_are_put_in_the_order_of_their_numbers():
    numbers = {f"observations_{i}": np.full(6, i) for i in range(11)}
    dataset = Dataset.from_arrays({**columns(observations=None), **numbers})
    assert dataset.columns["observations"][0:1].tolist() == [list(range(11))]


def test_actions_that_a_rounding_puts_beyond_a_bound_are_taken():
    space = spaces.Box(-2.0, 2.0, (1,))
    for beyond in (2 + 1e-6, -2 - 1e-6):
        Dataset.from_arrays(columns(actions=np.full((6, 1), beyond)), action_space=space)
    with pytest.raises(DatasetError, match="outside"):
        Dataset.from_arrays(columns(actions=np.full((6, 1), 2.001)), action_space=space)


def test_choices_are_checked_and_counted_from_their_start():
    dataset = Dataset.from_arrays(
        columns(actions=np.array([1, 2, 1, 2, 2, 1])), action_space=spaces.Discrete(2, start=1)
    )
    assert dataset.transitions().action[:, 0].tolist() == [0, 1, 0, 1, 1]
    with pytest.raises(DatasetError, match="the action in row 0 is 0, which is outside"):
        Dataset.from_arrays(columns(), action_space=spaces.Discrete(2, start=1))


def test_spaces_are_inferred_and_those_of_an_environment_replace_them():
    dataset = Dataset.from_arrays(columns())
    assert dataset.action_space == spaces.Discrete(2)
    assert dataset.observation_space.shape == (2,)
    wider = dataset.within(spaces.Box(-20, 20, (2,)), spaces.Discrete(5))
    assert wider.action_space == spaces.Discrete(5)


@pytest.mark.parametrize(("column", "shape"), [((6,), (1,)), ((6, 1), ()), ((6, 1), (1, 1)), ((6,), (1, 1))])
def test_observations_of_one_number_fit_however_they_are_shaped(column: tuple[int, ...], shape: tuple[int, ...]):
    values = np.linspace(-1, 1, 6, dtype=np.float32)
    steps = {"observations": values.reshape(column), "actions": np.arange(6) % 2, "rewards": np.ones(6)}
    dataset = Dataset.from_arrays({**steps, "terminals": np.arange(6) == 5})
    found = dataset.within(spaces.Box(-1, 1, shape), dataset.action_space).transitions()
    np.testing.assert_array_equal(found.obs, values[:, None])
    with pytest.raises(DatasetError, match="the space says"):
        dataset.within(spaces.Box(-1, 1, (2,)), dataset.action_space)


def test_the_names_of_gymnasium_and_d4rl_are_known():
    known = columns()
    other = {"terminations": known.pop("terminals"), "truncations": known.pop("timeouts")}
    dataset = Dataset.from_arrays({**known, **other, "infos": {"action_log_probs": np.full(6, -0.5)}})
    for found, expected in zip(dataset.transitions(), Dataset.from_arrays(columns()).transitions(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert dataset.columns["action_log_probs"].shape == (6,)


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        (np.array([0, 1, 0, 1, 1, 0], bool), spaces.Discrete(2)),
        (np.array([[0, 2]] * 6), spaces.MultiDiscrete([1, 3])),
        (np.array([[[0, 2], [1, 0]]] * 6), spaces.MultiDiscrete(np.array([[1, 3], [2, 1]]))),
        (np.linspace(-3, 0, 6, dtype=np.float32), spaces.Box(-3, 1, ())),
        (np.zeros((6, 2, 2)), spaces.Box(-1, 1, (2, 2))),
    ],
)
def test_action_spaces_are_inferred_from_type_and_shape(actions: Any, expected: Any):
    dataset = Dataset.from_arrays(columns(actions=actions))
    assert dataset.action_space == expected
    codec = action_codec(expected)
    np.testing.assert_array_equal(codec.decode(dataset.transitions().action), actions[:5])


def test_whole_floats_are_choices_where_the_space_says_so():
    dataset = Dataset.from_arrays(columns(actions=np.array([0.0, 1, 0, 1, 1, 0])), action_space=spaces.Discrete(2))
    assert dataset.transitions().action.tolist() == [[0], [1], [0], [1], [1]]


def test_densities_may_be_above_one():
    continuous = columns(actions=np.zeros((6, 1)), action_log_probs=np.full(6, 0.5))
    assert "action_log_probs" in Dataset.from_arrays(continuous).columns


def test_actions_of_several_axes_may_be_flat(tmp_path: Path):
    space = spaces.Box(-2, 2, (2, 3))
    given = np.linspace(-2, 2, 36, dtype=np.float32).reshape(6, 6)
    for actions in (given, given.reshape(6, 2, 3)):
        steps = Dataset.from_arrays(columns(actions=actions), action_space=space).transitions()
        np.testing.assert_allclose(steps.action, given[:5] / 2)


def test_the_inside_of_an_episode_is_not_saved_to_a_file_that_cannot_be_loaded(tmp_path: Path):
    whole = Dataset.from_arrays(columns())
    with pytest.raises(DatasetError, match="2 steps are the inside of one episode"):
        whole[3:5].save(tmp_path / "part.npz")
    assert not list(tmp_path.iterdir())


def test_only_whole_episodes_are_counted():
    dataset = Dataset.from_arrays(columns())
    assert (dataset.n_episodes, dataset.episode_returns.tolist(), dataset.episode_lengths.tolist()) == (
        2,
        [3, 12],
        [3, 3],
    )
    unfinished = Dataset.from_arrays(columns(timeouts=None))
    assert unfinished.columns["timeouts"][:].tolist() == [False] * 5 + [True]
    assert (unfinished.n_episodes, unfinished.episode_returns.tolist()) == (1, [3])
    none = Dataset.from_arrays(columns(terminals=np.arange(6) == 5, timeouts=None))
    assert none.n_episodes == 1


nothing = np.zeros((0, 2), np.float32)
BAD = {
    "missing": (columns(rewards=None), "has no column 'rewards'"),
    "misspelt": (columns(rewards=None, reward=np.zeros(6)), "Did you mean 'reward'"),
    "lengths": (columns(actions=np.zeros(5, int)), r"'actions' has shape \(5,\), but there are 6 rewards"),
    "nan": (
        columns(observations=np.where(np.arange(12).reshape(6, 2) == 7, np.nan, 0.0)),
        r"nan in row 3, entry \[1\]",
    ),
    "infinite": (columns(rewards=[0, 1, np.inf, 0, 0, 0]), "'rewards' holds inf in row 2"),
    "text": (columns(actions=np.array(list("abcdef"))), "must hold numbers"),
    "objects": (columns(rewards=np.array([None] * 6)), "must hold numbers"),
    "no end": (columns(terminals=np.zeros(6), timeouts=None), "no episode ends in 6 steps"),
    "no rows": ({"observations": nothing, "actions": [], "rewards": [], "terminals": []}, "has no steps"),
    "flags": (columns(terminals=[0, 0, 2, 0, 0, 0]), "must hold 0 and 1"),
    "one flag": (
        columns(terminals=None, timeouts=None, dones=np.zeros(6)),
        "'dones' does not say whether an episode terminated or was truncated: give 'terminals' .* and 'timeouts'",
    ),
    "log-probabilities": (columns(action_log_probs=np.full(6, np.nan)), "'action_log_probs' holds nan in row 0"),
    "probabilities": (columns(action_log_probs=np.full(6, 0.5)), "is at most 0: take the logarithm"),
    "two log-probabilities": (columns(action_log_probs=np.zeros((6, 2))), r"must be \(6,\)"),
    "ragged": (columns(observations=[[1.0], [1.0, 2.0]] * 3), "'observations' cannot be made an array"),
    "nan below a name": (
        columns(observations={"x": np.zeros(6), "goal": [0, 0, 0, 0, np.nan, 0]}),
        "column 'observations/goal' holds nan in row 4",
    ),
    "named actions": (columns(actions={"x": np.zeros(6)}), r"no column 'actions'\. Did you mean 'actions/x'"),
    "two rewards a step": (columns(rewards=np.zeros((6, 2))), r"must be \(6,\)"),
    "empty observations": (
        columns(observations=np.zeros((6, 0))),
        r"'observations' has shape \(6, 0\): its rows are empty",
    ),
    "empty actions": (columns(actions=np.zeros((6, 0), int)), "'actions' .* its rows are empty"),
    "masked": (columns(rewards=np.ma.array(np.zeros(6), mask=np.arange(6) == 2)), "'rewards' has masked values"),
    "dates": (columns(rewards=np.array(["2020-01-01"] * 6, "M8[s]")), "'rewards' holds times.* such as seconds"),
    "durations": (columns(observations={"t": np.zeros(6, "m8[ns]")}), "'observations/t' holds times"),
    "datetimes": (columns(rewards=[datetime.datetime(2020, 1, 1)] * 6), "'rewards' holds text or Python objects"),
    "complex": (columns(rewards=np.zeros(6, complex)), "type complex128, but it must hold numbers"),
    "a scalar": (columns(terminals=True), r"'terminals' has shape \(\), but there are 6 rewards"),
    "only negative actions": (columns(actions=[-1] * 6), r"the action in row 0 is -1, which is outside Discrete\(1\)"),
    "enormous choices": (
        columns(actions=np.full(6, 2**62)),
        "too large for a choice: give continuous actions as floats",
    ),
    "enormous actions": (columns(actions=np.full(6, -1e300)), r"'actions' holds 1e\+300, which is too large"),
    "enormous rewards": (columns(rewards=[0, 0, -1e300, 0, 0, 1]), r"'rewards' holds -1e\+300, .* scale the rewards"),
    "enormous half rewards": (columns(rewards=np.full(6, np.inf, np.float16)), "'rewards' holds inf in row 0"),
    "one path twice": (
        {**columns(observations={"x": np.zeros(6)}), "observations/x": np.zeros(6)},
        "There are two columns 'observations/x'",
    ),
    "a column and a group": (
        {**columns(observations=None), "observations/x": np.zeros(6), "observations/x/y": np.zeros(6)},
        "'observations/x' is a column, and there are columns 'observations/x/...' as well",
    ),
    "every step truncated": (columns(terminals=np.zeros(6), timeouts=np.ones(6)), "every step is truncated"),
    "no mapping": ([1, 2], "columns is a list: it must be a mapping"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_columns_get_one_clear_line(case: str):
    table, message = BAD[case]
    with pytest.raises(DatasetError, match=message) as error:
        Dataset.from_arrays(table)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("table", "space", "message"),
    [
        (columns(), spaces.Discrete(1), "the action in row 1 is 1, which is outside"),
        (columns(actions=np.full((6, 1), 7.0)), spaces.Box(-2, 2, (1,)), "outside"),
        (columns(actions=np.zeros((6, 3))), spaces.Box(-2, 2, (1,)), r"shape \(3,\)"),
        (columns(actions=np.full(6, 0.5)), spaces.Discrete(2), "whole numbers"),
    ],
)
def test_actions_outside_the_space_are_refused(table: Any, space: Any, message: str):
    with pytest.raises(DatasetError, match=message):
        Dataset.from_arrays(table, action_space=space)


def test_data_that_are_not_the_environment_s_are_refused():
    with pytest.raises(DatasetError, match=r"'observations', observation has shape \(2,\), but the space says \(4,\)"):
        Trainer("bc", env="CartPole-v1", dataset=columns())
    with pytest.raises(DatasetError, match="dataset is a int"):
        Trainer("bc", dataset=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="needs something to learn from"):
        Trainer("bc")


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    for name in ("none.npz", "none.h5", "none.parquet", "logs.npz/none.npz"):
        with pytest.raises(DatasetError, match="There is no file"):
            Dataset.load(tmp_path / name)
    with pytest.raises(DatasetError, match=r"not a data file \(\.npz"):
        Dataset.load(tmp_path / "logs.txt")
    for name in ("folder.npz", "folder.hdf5", "folder.parquet"):
        (tmp_path / name).mkdir()
        with pytest.raises(DatasetError, match=f"is a folder, not a {Path(name).suffix} file"):
            Dataset.load(tmp_path / name)
    np.savez(tmp_path / "pickled.npz", **columns(rewards=np.array([{}] * 6, object)), allow_pickle=True)
    with pytest.raises(DatasetError, match="does not unpickle"):
        Dataset.load(tmp_path / "pickled.npz")


def test_columns_that_claim_to_be_enormous_are_refused_before_they_are_read(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "claim.npz", "w") as archive:
        for name, column in columns().items():
            with archive.open(f"{name}.npy", "w") as entry:
                shape = (6, 2**40) if name == "observations" else column.shape
                header = {"descr": column.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(entry, header)
                entry.write(column.tobytes())
    with h5py.File(tmp_path / "claim.h5", "w") as file:
        for name, column in columns().items():
            if name == "observations":
                file.create_dataset(name, (6, 2**45), column.dtype, chunks=(1, 1024))
            else:
                file[name] = column
    for name in ("claim.npz", "claim.h5"):
        with pytest.raises(DatasetError, match=r"GiB of memory|a row has at most"):
            Dataset.load(tmp_path / name)


def test_the_memory_of_the_replay_is_counted_before_the_steps_are_encoded(monkeypatch: pytest.MonkeyPatch):
    n, obs_dim = 1_000, 6
    made = columns(
        observations=np.zeros((n, obs_dim), np.float32),
        actions=np.arange(n) % 2,
        rewards=np.zeros(n),
        terminals=np.arange(n) % 10 == 9,
        timeouts=None,
    )
    dataset = Dataset.from_arrays(made)
    a_step = 2 * 4 * obs_dim + 4 + 4 + 2
    # The steps, the replay, and a column of observations on its way from the one to the other.
    needed = n * (2 * a_step + 4 * obs_dim)
    monkeypatch.setattr(data_columns, "available_memory", lambda: needed)
    assert sum(column.nbytes for column in dataset.transitions()) == n * a_step
    monkeypatch.setattr(data_columns, "available_memory", lambda: needed - 1)
    with pytest.raises(DatasetError, match=r"needs 0\.0 GiB of memory, but 0\.0 GiB are available.*rows=slice"):
        dataset.transitions()


@pytest.mark.parametrize("name", [x for x in bundled_names() if x.endswith("-random")])
def test_bundled_data_are_loaded_by_name(name: str):
    dataset = Dataset.load(name)
    assert (dataset.name, dataset.partial) == (name, (False, False))
    assert np.isfinite(dataset.action_space.sample()).all()
    part = Dataset.load(name, rows=slice(100, 900), columns={"rewards": "rewards"})
    np.testing.assert_array_equal(part.columns["rewards"], dataset.columns["rewards"][100:900])
    assert part.observation_space == dataset.observation_space
    with pytest.raises(DatasetError, match=f"Did you mean '{name}'"):
        Dataset.load(f"{name[:-1]}")
