"""What makes a run pointless is said once, with the way out: guessed bounds, whole floats, rewards in the thousands."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TransformReward

from probes import ObservedActionReward
from rlox import Dataset, Trainer
from rlox.algorithms.iql import IQLConfig
from rlox.core.config import Settings
from rlox.data.dataset import make_dataset
from rlox.data.reading import Reading
from rlox.errors import DatasetError
from rlox.runs.alarm import Alarm
from rlox.spec import RunSpec

N = 400
SMALL = {"hidden": 8, "batch_size": 32}


def logs(actions: Any, scale: float = 1.0) -> dict[str, Any]:
    """Return episodes of ten steps, rewarded for actions near the observation."""
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (N, 1)).astype(np.float32)
    return {
        "observations": obs,
        "actions": actions,
        "rewards": scale * (2 - np.abs(obs[:, 0] - np.reshape(actions, (N, -1))[:, 0])),
        "terminals": np.arange(N) % 10 == 9,
    }


UNIFORM = np.random.default_rng(1).uniform(-1, 1, (N, 1))


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (50 + 40 * UNIFORM, r"bounds of the actions had to be guessed, from -1 to \S+, .*--action-low, --action-high"),
        (0.2 * UNIFORM, r"guessed, from -1 to 1, and the data lie from -0\.\d+ to 0\.\d+"),
        (
            np.rint(UNIFORM[:, 0] + 1),
            r"floats, all of them whole numbers from 0 to 2, .*Discrete\(3\) \(--n-actions 3\)",
        ),
        (
            25 * np.rint(2 * UNIFORM[:, 0] + 2).astype(int),
            r"whole numbers, and taken for 101 choices, of which 5 occur in the data .*--action-low.*--n-actions 101",
        ),
        ((UNIFORM[:, 0] > 0) + 1, r"taken for 3 choices, of which 2 occur in the data \(the lowest is 1\)"),
    ],
)
def test_what_had_to_be_guessed_is_said_once_without_an_environment(actions: Any, message: str):
    data = Dataset.from_arrays(logs(actions))
    with pytest.warns(UserWarning, match=message) as said:
        Trainer("bc", dataset=data, config={**SMALL, "normalize_obs_until": 9})
    assert len(said) == 1
    assert "normalize_obs_until=9 has no effect" in str(said[0].message)
    part = data.split(0.5)[0]
    assert part.guesses == data.guesses
    assert data.summary()["suspicious"][0] == data.guesses
    assert data.within(data.observation_space, data.action_space).guesses == ""


FOUR = np.array([0, 1, 3])[np.arange(N) % 3]
"""Choices, one of which nobody took."""


@pytest.mark.parametrize("actions", [UNIFORM, (UNIFORM[:, 0] > 0).astype(int), np.sign(UNIFORM), FOUR])
def test_nothing_is_said_where_the_data_confirm_it(actions: Any):
    assert Dataset.from_arrays(logs(actions)).guesses == ""


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("actions", "message"), [([1.0, 2.0], "whole numbers from 1 to 2"), ([0, 50, 100], "for 101 choices")]
)
def test_whole_numbers_of_a_file_are_doubted(kind: str, actions: list[float], message: str, tmp_path: Path):
    table = logs(np.resize(actions, N))
    frame = pd.DataFrame({**table, "observations": table["observations"][:, 0]})
    (frame.to_csv if kind == "csv" else frame.to_parquet)(tmp_path / f"a.{kind}", index=False)
    assert message in Dataset.load(tmp_path / f"a.{kind}").guesses
    told: dict[str, Any] = {"action_low": (0,), "action_high": (100,)}
    for reading in (Reading(**told), Reading(n_actions=101)):
        data = make_dataset(tmp_path / f"a.{kind}", reading)
        assert data.guesses == ""
        assert len(data.transitions().reward) == N


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"episode": 3}, "episode=3 must be the name of a column"),
        ({"observations": ("x", 1)}, "must be the name of a column, or a list of names"),
        ({"action_low": (0,)}, "given together"),
        ({"action_low": (1,), "action_high": (1,)}, "the first below the second"),
        ({"action_low": (0, 1), "action_high": (1, 2, 3)}, "one number or one for each component"),
        ({"action_low": (0,), "action_high": (1,), "n_actions": 3}, "leave one of them out"),
        ({"n_actions": 0}, "must be a whole number from 1"),
    ],
)
def test_bounds_that_are_none_are_refused(given: dict[str, Any], message: str):
    with pytest.raises(DatasetError, match=message):
        Reading(**given)


def test_bounds_are_of_every_component_or_of_each():
    one, each = (Reading(action_low=low, action_high=high) for low, high in (((0,), (100,)), ((0, -1), (2, 1))))
    assert one.action_space((), "logs") == spaces.Box(0, 100, ())
    found: Any = each.action_space((2,), "logs")
    assert (found.low.tolist(), found.high.tolist()) == ([0, -1], [2, 1])
    with pytest.raises(DatasetError, match=r"0 -1 and action_high=2 1 do not fit actions of shape \(3,\)"):
        each.action_space((3,), "logs")
    with pytest.raises(DatasetError, match="one choice a step"):
        Reading(n_actions=3).action_space((2,), "logs")


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["awr", "awac", "iql"])
def test_rewards_in_the_thousands_are_said_while_a_run_goes_on(algorithm: str):
    trainer = Trainer(algorithm, dataset=logs(UNIFORM, scale=5000.0), config=SMALL)
    with pytest.warns(
        UserWarning, match=r"(are clipped|nearly all the weight|critic is off).*[dD]ivide the rewards by"
    ) as said:
        trainer.train_offline(2500, log_interval=500, progress=False)
    assert len(said) == 1
    healthy = Trainer(algorithm, dataset=logs(UNIFORM), config=SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        healthy.train_offline(2500, log_interval=500, progress=False)


def test_the_way_out_is_a_number():
    config: Settings = Trainer("awr", dataset=logs(UNIFORM), config=SMALL).config
    record = {"gradient_steps": 1000, "weight/clipped_fraction": 0.98}
    record |= {"advantage/mean": 3000.0, "advantage/std": 4000.0}
    early, sound = {**record, "gradient_steps": 999}, {**record, "weight/clipped_fraction": 0.1}
    for records in ([early, record], [record], [record, sound, record]):
        alarm = Alarm(config)
        for one in records:
            alarm(one)
    alarm = Alarm(config)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(4):
            record = {**record, "gradient_steps": record["gradient_steps"] + 1000}
            alarm(record)
    assert [str(one.message) for one in said] == [
        "98% of the weights are clipped, so that good actions are imitated like bad ones: advantages are of about "
        "5e+03, and beta=1. Either divide the rewards by about 5,000, set beta to about 5e+03, or set "
        "normalize_advantage=True."
    ]


SMALL_WEIGHT = {"weight/effective_sample_size": 1.5 / 256, "advantage/mean": 0.0, "advantage/std": 400.0}


@pytest.mark.parametrize(
    ("algorithm", "config", "record", "told"),
    [
        ("iql", {}, {"weight/clipped_fraction": 0.95}, "95% of the weights are clipped.* set beta to about 100"),
        ("iql", {}, SMALL_WEIGHT, "One sample has nearly all .* advantages are of about 4e"),
        (
            "iql",
            {},
            {"weight/clipped_fraction": 0.11},
            "11% of the weights are clipped and nearly all others are 0.* 300",
        ),
        ("iql", {}, {"weight/clipped_fraction": 0.11, "advantage/std": 8.0, "advantage/mean": 4.0}, ""),
        ("iql", {}, {"weight/clipped_fraction": 0.05}, ""),
        ("crr", {}, SMALL_WEIGHT, "Either divide the rewards by about 400, or set beta to about 400"),
        ("crr", {"weights": "binary"}, SMALL_WEIGHT, ""),
        ("awac", {}, SMALL_WEIGHT, "One sample has nearly all the weight"),
        ("marwil", {}, {**SMALL_WEIGHT, "advantage/std": 1.0}, ""),  # an outlier among whitened advantages
        ("bc", {}, SMALL_WEIGHT, ""),
        ("ppo", {}, SMALL_WEIGHT, ""),
        ("mpo", {}, {"weight/kl": 2.0, "weight/effective_sample_size": 1 / 8, "policy/std": 0.2}, ""),
        (
            "mpo",
            {"beta": 1.0},
            {"weight/kl": 2.0, "weight/effective_sample_size": 1.05 / 8, "policy/std": 0.2, "advantage/std": 70.0},
            "One of the policy's 8 actions .* differ by about 70 there, and beta=1. Set beta to about 70, or leave",
        ),
        ("mpo", {"beta": 1.0}, {"weight/kl": 1.0, "weight/effective_sample_size": 2 / 8, "policy/std": 0.2}, ""),
        ("mpo", {"beta": 1.0}, {"weight/kl": 1.0, "weight/effective_sample_size": 1 / 18}, ""),
    ],
)
def test_every_algorithm_is_told_its_own_way_out(
    algorithm: str, config: dict[str, Any], record: dict[str, float], told: str
):
    alarm = Alarm(RunSpec.resolve(algorithm, config=config).config)
    full = {"gradient_steps": 2000, "advantage/mean": 60.0, "advantage/std": 80.0, **record}
    assert_told(alarm, full, told)


def assert_told(alarm: Alarm, record: dict[str, float], told: str) -> None:
    """Two records have to show it, which are not of the same updates."""
    alarm(record)
    alarm(record)
    if told:
        with pytest.warns(UserWarning, match=told):
            alarm({**record, "gradient_steps": record["gradient_steps"] + 100})
    alarm({**record, "gradient_steps": record["gradient_steps"] + 200})


@pytest.mark.long
def test_rewards_whose_values_a_network_cannot_reach_are_told_of_once():
    env = TransformReward(ObservedActionReward("continuous"), lambda reward: 1e6 * float(reward))
    config = {"hidden": 16, "batch_size": 16, "n_states": 16, "learning_starts": 100}
    config |= {"train_freq": 1, "n_critic_updates": 1}
    with warnings.catch_warnings(record=True) as said, Trainer("mpo", env, config=config) as trainer:
        warnings.simplefilter("always")
        trainer.train(1600, log_interval=100, progress=False)
    (told,) = [str(one.message) for one in said]
    assert told.startswith("The critic is off by about ")
    assert "or set value_scale to about " in told


@pytest.mark.parametrize(
    ("value_scale", "loss", "told"),
    [
        (1.0, 1.2e6, "rewards by about 1,000.$"),
        (1.0, 9e5, ""),
        (100.0, 1.2e6, "rewards by about 100,000.$"),
        (1.0, float("nan"), ""),
    ],
)
def test_how_far_off_is_in_units_of_the_network(value_scale: float, loss: float, told: str):
    alarm = Alarm(IQLConfig(value_scale=value_scale))
    assert_told(alarm, {"gradient_steps": 2000, "critic/loss": loss}, told)


AMOUNTS = {
    "below 0": np.where(UNIFORM > 0, 1, -1),
    "large": np.where(UNIFORM > 0, 200_000, 0),
}


@pytest.mark.parametrize("actions", AMOUNTS.values(), ids=AMOUNTS)
def test_whole_amounts_are_actions_of_the_environment_that_is_named(actions: Any, tmp_path: Path):
    largest = float(np.abs(actions).max())

    class Amounts(ObservedActionReward):
        def __init__(self) -> None:
            super().__init__("continuous")
            self.action_space = spaces.Box(-largest, largest, (1,))

    logged = logs(actions)
    table = pd.DataFrame({name: np.ravel(column) for name, column in logged.items()})
    table.to_csv(tmp_path / "logs.csv", index=False)
    for data in (logged, table, tmp_path / "logs.csv"):
        with pytest.raises(DatasetError, match=r"outside Discrete|too large for a choice"):
            Trainer("iql", dataset=data, config=SMALL)
        with Trainer("iql", Amounts, dataset=data, config=SMALL) as trainer:
            trainer.train_offline(1, progress=False)
            assert trainer.predict(np.zeros(1, np.float32)).dtype == np.float32


@pytest.mark.slow
@pytest.mark.parametrize("place", ["pendulum", "hopper", "cartpole", "lunarlander", "CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("algorithm", ["awr", "iql", "crr", "awac", "marwil", "mpo"])
def test_nothing_is_said_of_a_healthy_run(algorithm: str, place: str):
    """A warning is an error here."""
    config: dict[str, Any] = {"hidden": 64, **({"replay_share": 0.5} if algorithm == "mpo" else {})}
    if place[0].isupper():
        Trainer(algorithm, place, config=config, seed=0).train(4000, log_interval=250, progress=False)
        return
    for tier in ("random", "medium-replay", "expert"):
        Trainer(algorithm, dataset=f"{place}-{tier}", config=config).train_offline(
            2500, log_interval=250, progress=False
        )
