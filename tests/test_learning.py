"""Learning with real budgets (minutes each; make test-slow)."""

import statistics

import pytest

from rlox import Trainer
from rlox.data.bundled import reference

pytestmark = pytest.mark.slow


def test_cartpole_at_the_defaults():
    """Two of three seeds solve it; about one in five ends between 300 and 400 (docs/benchmarks.md)."""
    returns = []
    for seed in range(3):
        trainer = Trainer("awr", env="CartPole-v1", seed=seed)
        metrics = trainer.train(total_timesteps=50_000)
        assert metrics["env_steps"] == 50_000
        assert metrics["gradient_steps"] == 49_001
        returns.append(trainer.evaluate(20)["mean_reward"])
    assert statistics.median(returns) >= 490
    assert min(returns) >= 250


def test_pendulum_by_its_config():
    config = {"beta": 0.5, "learning_rate": 3e-4, "batch_size": 256, "buffer_size": 100_000, "gamma": 0.99}
    trainer = Trainer("awr", env="Pendulum-v1", seed=42, config=config)
    metrics = trainer.train(total_timesteps=100_000)
    assert metrics["episodes"] == 500
    assert trainer.evaluate(20)["mean_reward"] >= -260


@pytest.mark.parametrize(
    ("env", "steps", "config", "wanted"),
    [("Pendulum-v1", 5_000, {"gamma": 0.95}, -160), ("CartPole-v1", 10_000, {}, 490)],
)
def test_mpo_learns_within_few_steps(env: str, steps: int, config: dict[str, float], wanted: float):
    """The mean of three seeds, as in docs/benchmarks.md."""
    returns = []
    for seed in range(3):
        with Trainer("mpo", env=env, config=config, seed=seed) as trainer:
            trainer.train(steps)
            returns.append(trainer.evaluate(20)["mean_reward"])
    assert statistics.mean(returns) >= wanted


ROUNDS = {
    "rollout_steps": 500, "n_critic_updates": 100, "n_actor_updates": 200, "td_lambda": 0.95,
    "normalize_advantage": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("data", "settings"),
    [("cartpole-medium", {}), ("pendulum-medium-replay", {"gamma": 0.95, "value_scale": 20.0})],
)
@pytest.mark.parametrize("member", ["iql", "awac", "awr", "mpo"])
def test_the_return_hardly_falls_at_the_switch_to_the_environment(member: str, data: str, settings: dict[str, float]):
    """At most a fifth of what the policy had over the random agent; three seeds each in docs/benchmarks.md."""
    config = {
        "hidden": 128, "learning_starts": 500, "normalize_obs": True, "critic_warmup_steps": 1000, **settings,
        **{"awr": ROUNDS, "mpo": {"replay_share": 0.5}}.get(member, {}),
    }  # fmt: skip
    made_for = reference(data)
    trainer = Trainer(member, env=made_for.env, dataset=data, config=config, seed=0)
    trainer.train_offline(5_000)
    at = trainer.evaluate(20)["mean_reward"]
    for _ in range(8):
        trainer.train(500)
        assert trainer.evaluate(20)["mean_reward"] >= at - 0.2 * (at - made_for.random)
