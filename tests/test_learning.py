"""The specification's two quick starts, as they stand (minutes each; make test-slow)."""

import pytest

from rlox import Trainer

pytestmark = pytest.mark.slow


def test_cartpole_at_the_defaults():
    trainer = Trainer("awr", env="CartPole-v1", seed=42)
    metrics = trainer.train(total_timesteps=50_000)
    assert metrics["env_steps"] == 50_000
    assert metrics["gradient_steps"] == 49_001
    assert metrics["mean_reward"] > 150
    assert trainer.evaluate(20)["mean_reward"] >= 400


def test_pendulum_by_its_config():
    config = {"beta": 0.5, "learning_rate": 3e-4, "batch_size": 256, "buffer_size": 100_000, "gamma": 0.99}
    trainer = Trainer("awr", env="Pendulum-v1", seed=42, config=config)
    metrics = trainer.train(total_timesteps=100_000)
    assert metrics["episodes"] == 500
    assert trainer.evaluate(20)["mean_reward"] >= -260
