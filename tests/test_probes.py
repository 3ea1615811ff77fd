"""Probe environments: what the critic says and what the policy does, where both are known."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from probes import (
    AIMS,
    ConstantReward,
    CutConstantReward,
    DelayedReward,
    ObservedActionReward,
    ObservedReward,
    Probe,
)
from rlox import Trainer

GAMMA = 0.5
CONFIG: dict[str, Any] = {
    "hidden": 32,
    "learning_starts": 100,
    "batch_size": 64,
    "buffer_size": 500,
    "learning_rate": 3e-3,
    "beta": 0.3,
    "gamma": GAMMA,
}


def train(probe: type[Probe], kind: str, steps: int = 1500) -> Trainer:
    trainer = Trainer("awr", env=probe(kind), config=CONFIG, seed=1)
    trainer.train(steps, progress=False)
    return trainer


def values(trainer: Trainer, *obs: float) -> list[float]:
    return trainer.state.critic(jnp.array(obs)[:, None]).tolist()


# The value does not depend on the kind of action.


@pytest.mark.long
def test_the_value_of_a_constant_reward_is_the_reward():
    assert values(train(ConstantReward, "discrete"), 0.0) == pytest.approx([1.0], abs=0.05)


@pytest.mark.long
def test_the_value_bootstraps_where_an_episode_is_cut():
    assert values(train(CutConstantReward, "continuous"), 0.0) == pytest.approx([1 / (1 - GAMMA)], abs=0.05)


def test_the_value_depends_on_the_observation():
    assert values(train(ObservedReward, "discrete"), -1.0, 1.0) == pytest.approx([-1.0, 1.0], abs=0.05)


def test_the_value_of_a_delayed_reward_is_discounted():
    assert values(train(DelayedReward, "continuous"), 0.0, 1.0) == pytest.approx([GAMMA, 1.0], abs=0.05)


@pytest.mark.long
def test_the_policy_takes_the_action_that_pays_in_each_state():
    trainer = train(ObservedActionReward, "discrete")
    assert trainer.predict([[-1.0], [1.0]]).tolist() == [0, 1]
    assert values(trainer, -1.0, 1.0) == pytest.approx([1.0, 1.0], abs=0.1)


@pytest.mark.long
def test_the_policy_aims_at_the_continuous_action_that_pays_in_each_state():
    trainer = train(ObservedActionReward, "continuous", 2500)
    np.testing.assert_allclose(trainer.predict([[-1.0], [1.0]]), [[AIMS[0]], [AIMS[1]]], atol=0.25)
    assert np.mean(values(trainer, -1.0, 1.0)) == pytest.approx(stored_reward(trainer), abs=0.1)


def stored_reward(trainer: Trainer) -> float:
    """Return the mean reward in the replay, whose value the critic learns."""
    return float(trainer.replay_dataset().columns["rewards"][:].mean())
