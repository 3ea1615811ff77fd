"""What comes out: a policy acts, is saved and loaded, without anything that its training needs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from rlox import Policy, Trainer
from rlox.envs.envs import make_envs
from rlox.errors import CheckpointError, ConfigError
from rlox.policy.episodes import RandomPolicy, evaluate

SMALL: dict[str, Any] = {"hidden": 16, "batch_size": 32, "learning_starts": 100, "buffer_size": 1000}
OBS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    trainer = Trainer("awr", "Pendulum-v1", config={**SMALL, "normalize_obs": True})
    trainer.train(120)
    return trainer


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
