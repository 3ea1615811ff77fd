"""Data from the command line: what they hold, how they are made, and policies that learn from them."""

import re
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest

from disk import full
from rlox import Dataset, Trainer
from rlox.cli import main
from rlox.data.bundled import bundled_names, reference, reference_of
from rlox.envs.spaces import interchangeable

Rlox = Callable[..., str]


@pytest.fixture
def rlox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Rlox:
    """Return what runs a command in an empty folder, and gives its output."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> str:
        main(args)
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", bundled_names())
def test_bundled_data_are_whole_and_of_their_environment(name: str):
    data, made_for = Dataset.load(name), reference(name)
    assert 8_000 < len(data) < 12_000
    assert data.n_episodes >= 10
    assert not any(data.partial)
    assert "action_log_probs" in data.columns or name.endswith("replay")
    if made_for.env in ("CartPole-v1", "Pendulum-v1"):  # the others need extras
        env = gym.make(made_for.env)
        assert interchangeable(data.observation_space, env.observation_space)
        assert data.action_space == env.action_space


def test_tiers_are_what_they_are_called():
    for env in ("cartpole", "pendulum", "lunarlander", "hopper"):
        scores = {
            tier: reference(f"{env}-{tier}").score(float(Dataset.load(f"{env}-{tier}").episode_returns.mean()))
            for tier in ("random", "medium-replay", "medium", "expert")
        }
        assert abs(scores["random"]) < 5
        assert scores["random"] < scores["medium-replay"] < scores["expert"]
        assert scores["random"] < scores["medium"] < scores["expert"]
    assert reference_of("Ant-v5") is None


@pytest.mark.long
def test_bundled_data_are_learned_from_and_scored_in_their_environment(rlox: Rlox, capsys: pytest.CaptureFixture[str]):
    told = rlox("train", "bc", "--dataset", "cartpole-medium", "--gradient-steps", "30", "--hidden", "8",
                "--n-eval-episodes", "2", "--run-dir", "run")  # fmt: skip
    assert "Learned from cartpole-medium: 30 gradient steps" in told
    assert re.search(r"Normalised score: -?\d+\.\d \(0: random actions, 24\.3; 100: the bundled expert, 500\.0\)", told)
    estimates = rlox("evaluate", "run", "--dataset", "cartpole-random", "--gradient-steps", "20", "--no-deterministic")
    for words in ("fitted Q evaluation", "importance sampling", "the data themselves", "weights use: 100.0%"):
        assert words in estimates
    with pytest.raises(SystemExit):
        rlox("evaluate", "run", "--dataset", "pendulum-random")
    error = capsys.readouterr().err
    assert error.startswith("rlox: error: The data 'pendulum-random' do not fit the policy, which takes")
    assert "environment must" not in error
    assert error.count("\n") == 1
    assert Trainer.load("run").train_offline(10, progress=False)["gradient_steps"] == 40


@pytest.mark.long
def test_what_mpo_would_weigh_of_data_is_not_told(rlox: Rlox):
    Trainer("mpo", dataset="cartpole-random", config={"hidden": 8, "replay_share": 0.5}).save("run")
    estimates = rlox("evaluate", "run", "--dataset", "cartpole-random", "--gradient-steps", "3")
    assert "fitted Q evaluation" in estimates
    assert "weights use" not in estimates


def test_a_random_agent_is_recorded_described_and_converted(rlox: Rlox):
    assert "Wrote random.npz" in rlox("dataset", "create", "random.npz", "--env", "CartPole-v1", "--n-steps", "60")
    data = Dataset.load("random.npz")
    assert len(data) >= 60
    assert data.action_space == gym.spaces.Discrete(2)
    np.testing.assert_allclose(data.columns["action_log_probs"][:], np.log(0.5), rtol=1e-6)
    told = rlox("dataset", "info", "random.npz")
    assert f"{len(data)}" in told
    assert "terminated" in told
    for name in ("random.hdf5", "minari/random-v0"):
        Path(name).parent.mkdir(exist_ok=True)
        rlox("dataset", "convert", "random.npz", name)
        again = Dataset.load(name)
        for column in data.columns:
            np.testing.assert_array_equal(again.columns[column][:], data.columns[column][:])


def test_an_agent_s_policy_and_replay_are_recorded(rlox: Rlox):
    rlox("train", "awr", "--env", "CartPole-v1", "--total-timesteps", "150", "--hidden", "8", "--batch-size", "16",
         "--learning-starts", "100", "--n-eval-episodes", "1", "--run-dir", "run")  # fmt: skip
    rlox("dataset", "create", "replay.npz", "--run", "run", "--replay")
    replay = Dataset.load("replay.npz")
    assert len(replay) == 150
    obs, next_obs = (replay.columns[name][:] for name in ("observations", "next_observations"))
    inside = ~(replay.columns["terminals"][:] | replay.columns["timeouts"][:])[:-1]
    np.testing.assert_array_equal(obs[1:][inside], next_obs[:-1][inside])
    rlox("dataset", "create", "policy.npz", "--run", "run", "--n-steps", "30")
    policy = Dataset.load("policy.npz")
    trainer = Trainer.load("run")
    expected = trainer.log_prob(policy.columns["observations"][:], policy.columns["actions"][:])
    np.testing.assert_allclose(policy.columns["action_log_probs"][:], expected, rtol=1e-5)
    rlox("dataset", "create", "modes.npz", "--run", "run", "--n-steps", "30", "--deterministic")
    assert "action_log_probs" not in Dataset.load("modes.npz").columns


def test_recorded_data_that_cannot_be_written_are_one_line_and_leave_nothing(
    rlox: Rlox, capsys: pytest.CaptureFixture[str]
):
    Path("file").touch()
    for place, room in (("file", 10**6), ("/proc", 10**6), (".", 500)):
        with pytest.raises(SystemExit), full(room):
            rlox("dataset", "create", f"{place}/x.npz", "--env", "CartPole-v1", "--n-steps", "50")
        error = capsys.readouterr().err.splitlines()[-1]
        assert re.match(f"rlox: error: '({place}/)?x.npz' cannot be written: ", error), error
    assert [path.name for path in Path.cwd().iterdir()] == ["file"]


def test_columns_of_other_names_are_chosen(rlox: Rlox):
    columns = {"x": [0.0, 1, 2, 3], "v": [1.0, 1, 1, 1], "u": [0, 1, 1, 0], "r": [1.0, 2, 3, 4]}
    frame = pd.DataFrame({**columns, "failed": [0, 1, 0, 1]})
    frame.to_parquet("logs.parquet")
    rlox("dataset", "convert", "logs.parquet", "logs.npz", "--observations", "x", "v", "--actions", "u",
         "--rewards", "r", "--terminals", "failed")  # fmt: skip
    data = Dataset.load("logs.npz")
    np.testing.assert_array_equal(data.columns["observations"][:], frame[["x", "v"]].to_numpy())
    assert data.episode_returns.tolist() == [3.0, 7.0]


def test_the_lists_name_the_bundled_data(rlox: Rlox):
    told = rlox("list", "datasets")
    assert all(name in told for name in bundled_names())
    assert all(command in rlox("dataset") for command in ("info", "create", "convert"))
