"""What an update is given: from where, which steps, whitened or not. Told from the metrics of networks that stay."""

from typing import Any

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from rlox import Dataset, Trainer

STILL: dict[str, Any] = {
    "hidden": 4, "batch_size": 64, "learning_starts": 0, "learning_rate": 1e-30, "gamma": 0.9, "actor_output_scale": 1.0
}  # fmt: skip
"""Learns next to nothing: the critic stays, so that the mean advantage tells the mean target."""
ROUNDS = {"rollout_steps": 64, "n_critic_updates": 4, "n_actor_updates": 4}
SHOWN, LED_TO = 3.0, 4.0


class Cut(gym.Env[Any, Any]):
    """Shows ``obs``, pays ``reward``, shows ``next_obs``, and is cut or terminates there."""

    observation_space, action_space = spaces.Box(-np.inf, np.inf, (1,)), spaces.Discrete(2)

    def __init__(self, obs: float = SHOWN, reward: float = 1.0, next_obs: float = LED_TO, terminated: bool = False):
        self.obs, self.reward, self.next_obs, self.terminated = obs, reward, next_obs, terminated

    def reset(self, **_: Any) -> Any:
        return np.array([self.obs], np.float32), {}

    def step(self, action: Any) -> Any:
        return np.array([self.next_obs], np.float32), self.reward, self.terminated, not self.terminated, {}


def logged(n: int = 80, obs: float = SHOWN, reward: Any = 1.0, next_obs: float = LED_TO, end: str = "timeouts") -> Any:
    columns = {
        "observations": np.full((n, 1), obs), "actions": np.arange(n) % 2, "rewards": np.broadcast_to(reward, n),
        "next_observations": np.full((n, 1), next_obs), "terminals": np.zeros(n), "timeouts": np.zeros(n),
    }  # fmt: skip
    return Dataset.from_arrays(columns | {end: np.ones(n)}, observation_space=Cut.observation_space)


def value(trainer: Trainer, obs: float) -> float:
    return float(trainer.state.critic(jnp.array([[obs]], jnp.float32))[0])


@pytest.mark.long
@pytest.mark.parametrize("settings", [{}, ROUNDS], ids=["every step", "rounds"])
def test_actor_and_critic_see_whitened_observations_and_next_observations(settings: dict[str, Any]):
    trainer = Trainer("awr", Cut(), config=STILL | settings | {"normalize_obs": True})
    metrics = trainer.train(64, progress=False)
    # All observations are the same, so that their std is at its floor of 0.02.
    here, there = 0.0, (LED_TO - SHOWN) / 0.02
    assert abs(value(trainer, there) - value(trainer, LED_TO)) > 0.1
    assert metrics["advantage/mean"] == pytest.approx(1 + 0.9 * value(trainer, there) - value(trainer, here), rel=1e-4)
    entropies = [float(trainer.state.actor(jnp.array([[obs]])).entropy()[0]) for obs in (here, SHOWN)]
    assert abs(entropies[0] - entropies[1]) > 1e-3
    assert metrics["policy/entropy"] == pytest.approx(entropies[0], rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(("ratio", "decay"), [(0.8, None), (1.0, 640)])
def test_the_data_have_their_share_of_the_minibatch_which_falls_to_nothing(ratio: float, decay: int | None):
    # Steps of the data pay 1, those of the environment 0.
    found: list[tuple[float, float]] = []
    trainer = Trainer(
        "awr",
        Cut(reward=0.0, terminated=True),
        dataset=logged(end="terminals"),
        config=STILL | {"batch_size": 128, "data_ratio": ratio, "data_ratio_decay": decay},
        logger=lambda metrics: found.append((metrics["env_steps"], metrics.get("advantage/mean", np.nan))),
    )
    trainer.train(127, progress=False)
    trainer.train(700, log_interval=1, progress=False)
    steps, mean = np.array(found[1:]).T
    assert steps.tolist() == list(range(128, 828))
    share = mean + value(trainer, SHOWN)
    expected = ratio * (np.ones(700) if decay is None else np.maximum(1 - steps / decay, 0))
    for part in (slice(0, 100), slice(100, 300), slice(300, 512)):
        assert (share - expected)[part].mean() == pytest.approx(0, abs=0.02)
    assert share.std() > 0.01, "the draws do not differ"
    if decay is not None:
        np.testing.assert_allclose(share[512:], 0, atol=1e-5)


@pytest.mark.long
def test_several_updates_of_a_step_have_minibatches_of_their_own():
    config = {
        "hidden": 4, "batch_size": 1, "learning_starts": 50, "updates_per_step": 8, "learning_rate": 1e-4,
        "optimizer": "sgd", "momentum": 0.0,
    }  # fmt: skip
    trainer = Trainer("bc", Cut(), config=config)
    trainer.train(51, progress=False)
    preference = []
    for _ in range(20):
        trainer.train(1, progress=False)
        policy: Any = trainer.state.actor(jnp.array([[SHOWN]]))
        logits = policy.logits[0]
        preference.append(float(logits[1] - logits[0]))
    # Each of eight draws of one action moves it by the same amount, one way or the other; the same draw, all one way.
    moved = np.abs(np.diff(preference))
    assert moved.min() < 0.4 * moved.max()
