"""Logged data: what is read from them, and what is refused."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from rlox import Dataset, Trainer
from rlox.errors import ConfigError, DatasetError, RloxError


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


def test_without_next_observations_those_of_the_following_step_serve():
    steps = Dataset.from_arrays(columns()).transitions()
    # The step that was cut is left out, since nobody knows where it led; the one before it is cut instead.
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


def test_a_file_gives_what_its_arrays_do(tmp_path: Path):
    np.savez(tmp_path / "logs.npz", **columns())
    for found, expected in zip(
        Dataset.load(tmp_path / "logs.npz").transitions(), Dataset.from_arrays(columns()).transitions(), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_the_names_of_gymnasium_and_d4rl_are_known():
    known = columns()
    other = {"terminations": known.pop("terminals"), "truncations": known.pop("timeouts")}
    dataset = Dataset.from_arrays({**known, **other, "infos": {"action_log_probs": np.full(6, -0.5)}})
    for found, expected in zip(dataset.transitions(), Dataset.from_arrays(columns()).transitions(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert dataset.columns["action_log_probs"].shape == (6,)


def test_densities_may_be_above_one():
    continuous = columns(actions=np.zeros((6, 1)), action_log_probs=np.full(6, 0.5))
    assert "action_log_probs" in Dataset.from_arrays(continuous).columns


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
    with pytest.raises(DatasetError, match="There is no file"):
        Dataset.load(tmp_path / "none.npz")
    with pytest.raises(DatasetError, match=r"is not a data file \(\.npz, "):
        Dataset.load(tmp_path / "logs.txt")
    np.savez(tmp_path / "pickled.npz", **columns(rewards=np.array([{}] * 6, object)), allow_pickle=True)
    with pytest.raises(DatasetError, match="does not unpickle"):
        Dataset.load(tmp_path / "pickled.npz")


@given(cut=st.integers(0, 1500), flip=st.integers(0, 1500), value=st.integers(0, 255))
@settings(max_examples=80, deadline=None)
def test_a_torn_or_damaged_file_is_refused_in_one_line_or_read_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int, value: int
):
    buffer = io.BytesIO()
    np.savez(buffer, **columns())
    raw = bytearray(buffer.getvalue())
    raw[flip % len(raw)] = value
    path = tmp_path_factory.mktemp("torn") / "logs.npz"
    path.write_bytes(raw[: max(len(raw) - cut, 0)])
    try:
        assert len(Dataset.load(path)) == 6
    except RloxError as error:
        assert "\n" not in str(error)  # noqa: PT017
