"""What comes out: a policy acts, is saved and loaded, without anything that its training needs."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from safetensors import safe_open

from rlox import Dataset, Policy, Trainer
from rlox.envs.envs import make_envs
from rlox.errors import CheckpointError, ConfigError, InvalidStepError
from rlox.policy.episodes import RandomPolicy, evaluate

SMALL: dict[str, Any] = {"hidden": 16, "batch_size": 32, "learning_starts": 100, "buffer_size": 1000}
OBS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    trainer = Trainer("awr", "Pendulum-v1", config={**SMALL, "normalize_obs": True})
    trainer.train(120)
    return trainer


@pytest.mark.long
def test_a_policy_of_a_run_acts_as_its_trainer_without_environment_or_replay(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trainer.save(tmp_path)
    monkeypatch.setattr("gymnasium.make", lambda *_, **__: pytest.fail("an environment was made"))
    policy = Policy.load(tmp_path)
    np.testing.assert_array_equal(policy.predict(OBS), trainer.predict(OBS))
    np.testing.assert_allclose(
        policy.log_prob(OBS, trainer.predict(OBS)), trainer.policy.log_prob(OBS, trainer.predict(OBS))
    )
    assert policy.action_space == trainer.action_space


def test_loading_a_policy_reads_nothing_else(trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer.save(tmp_path)
    read: list[str] = []

    class Spying:
        def __init__(self, *args: Any, **options: Any):
            self.file = safe_open(*args, **options)

        def __enter__(self) -> Any:
            self.file.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.file.__exit__(*error)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def get_tensor(self, name: str) -> Any:
            read.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr("rlox.runs.checkpoint.safe_open", Spying)
    Policy.load(tmp_path)
    assert read
    assert all(name.startswith(("train.actor.", "train.normalizer.")) for name in read)


def test_a_policy_is_saved_alone_and_comes_back(trainer: Trainer, tmp_path: Path):
    path = trainer.policy.save(tmp_path / "policy.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["policy.safetensors"]
    np.testing.assert_array_equal(Policy.load(path).predict(OBS), trainer.predict(OBS))
    with pytest.raises(ConfigError, match=r"must end in \.safetensors"):
        trainer.policy.save(tmp_path / "policy.pt")
    with pytest.raises(ConfigError, match="there is no folder"):
        trainer.policy.save(tmp_path / "nowhere" / "policy.safetensors")


def test_a_damaged_policy_is_refused(trainer: Trainer, tmp_path: Path):
    path = trainer.policy.save(tmp_path / "policy.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        Policy.load(path)


def test_a_policy_keeps_what_it_was_when_training_continues():
    trainer = Trainer("awr", "Pendulum-v1", config={**SMALL, "normalize_obs": True})
    trainer.train(120)
    policy, before = trainer.policy, trainer.predict(OBS)
    trainer.train(100)
    np.testing.assert_array_equal(policy.predict(OBS), before)
    assert not np.array_equal(trainer.predict(OBS), before)


@pytest.mark.long
def test_samples_differ_from_call_to_call_and_follow_their_seed(trainer: Trainer):
    policy = trainer.policy.seeded(3)
    first, second = policy.sample(OBS), policy.sample(OBS)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(trainer.policy.seeded(3).predict(OBS, deterministic=False), first)
    assert not np.array_equal(trainer.policy.seeded(4).sample(OBS), first)


def test_the_trainers_samples_go_on_while_it_trains():
    trainer = Trainer("awr", "Pendulum-v1", config=SMALL)
    drawn = []
    for _ in range(3):
        drawn.append(trainer.predict(OBS, deterministic=False) - trainer.predict(OBS))
        trainer.train(1)
    assert len(np.unique(drawn, axis=0)) == 3


def test_support_is_every_choice_with_its_probability():
    policy: Any = Trainer("awr", "CartPole-v1", config=SMALL).policy
    obs = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    actions, probability = policy.support(obs)
    assert actions.tolist() == [[0] * 6, [1] * 6]
    np.testing.assert_allclose(np.log(probability[1]), policy.log_prob(obs, np.ones(6, int)), atol=1e-5)
    np.testing.assert_allclose(probability.sum(axis=0), 1, atol=1e-6)


def test_anything_that_predicts_is_evaluated():
    envs = make_envs("CartPole-v1")
    result = evaluate(RandomPolicy(envs.observation_space, envs.action_space, seed=0), envs, 20, seed=1)
    assert 12 < result["mean_reward"] < 40
    envs.close()


def test_an_environment_of_other_spaces_is_refused(trainer: Trainer):
    envs = make_envs("CartPole-v1")
    with pytest.raises(
        ConfigError, match=r"policy takes Box.*\(3,\).*but the environment has Box.*\(4,\).*Discrete\(2\)"
    ):
        evaluate(trainer.policy, envs, 1)
    envs.close()


@pytest.mark.parametrize("space", [spaces.Discrete(3, start=1), spaces.Box(-2, 2, (2,)), spaces.MultiDiscrete([2, 4])])
def test_log_probabilities_are_told_of_one_observation_or_several(space: spaces.Space[Any]):
    policy = Trainer("bc", dataset=logs_of(space), config={"hidden": 4}).policy
    actions = policy.predict(OBS)
    several = policy.log_prob(OBS, actions)
    one = [policy.log_prob(obs, action) for obs, action in zip(OBS, actions, strict=True)]
    assert np.shape(one[0]) == ()
    np.testing.assert_allclose(one, several, rtol=1e-5)


def logs_of(space: spaces.Space[Any]) -> Dataset:
    space.seed(0)
    table = {"observations": OBS, "actions": np.array([space.sample() for _ in OBS]), "rewards": np.ones(5)}
    return Dataset.from_arrays({**table, "terminals": np.arange(5) == 4}, action_space=space)


@pytest.mark.parametrize(
    ("space", "action"),
    [(spaces.Discrete(2, start=1), 0), (spaces.Discrete(2), 5), (spaces.MultiDiscrete([2, 4]), [2, 0])],
)
def test_a_choice_that_there_is_not_has_no_probability(space: spaces.Space[Any], action: Any):
    policy = Trainer("bc", dataset=logs_of(space), config={"hidden": 4}).policy
    with pytest.raises(InvalidStepError, match=f"is outside {re.escape(str(space))}"):
        policy.log_prob(OBS, np.array([action] * 5))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0.7] * 5, r"action 0\.7 is outside Discrete\(2\)"),
        ([0, 1], r"actions have shape \(2,\) and type int64: they must be numbers \(5,\)"),
        ([[0]] * 5, r"actions have shape \(5, 1\)"),
        (["a"] * 5, r"type <U1: they must be numbers"),
    ],
)
def test_what_is_no_choice_is_refused(action: Any, message: str):
    policy = Trainer("bc", dataset=logs_of(spaces.Discrete(2)), config={"hidden": 4}).policy
    with pytest.raises(InvalidStepError, match=message):
        policy.log_prob(OBS, action)


def test_nothing_is_predicted_of_nothing():
    policy = Trainer("bc", dataset=logs_of(spaces.Box(-2, 2, (2,))), config={"hidden": 4}).policy
    assert policy.predict(OBS[:0]).shape == (0, 2)


def test_an_action_beyond_a_bound_is_clipped_to_it():
    policy = Trainer("bc", dataset=logs_of(spaces.Box(-2, 2, (2,))), config={"hidden": 4}).policy
    at, beyond = (np.full((5, 2), value, np.float32) for value in (2, 9))
    np.testing.assert_array_equal(policy.log_prob(OBS, at), policy.log_prob(OBS, beyond))


@pytest.mark.parametrize(
    ("space", "density"),
    [
        (spaces.Box(np.array([-1, 0.5], np.float32), np.array([1, 0.5], np.float32)), 0.5),
        (spaces.Box(0, 1, (2,), np.int32), 0.25),
        (spaces.Discrete(4), 0.25),
    ],
)
def test_a_random_action_is_as_probable_as_any_other(space: spaces.Space[Any], density: float):
    policy = RandomPolicy(spaces.Box(-1, 1), space, 0)
    np.testing.assert_allclose(np.exp(policy.log_prob(None, policy.predict(None))), [density])
