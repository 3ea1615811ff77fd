"""Rounds in a Trainer: values, counters, minibatches, checkpoints; against references in test_references."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probes import CutConstantReward, DelayedReward
from rlox import Dataset, Trainer

GAMMA = 0.5
PROBE: dict[str, Any] = {
    "hidden": 32, "learning_starts": 0, "batch_size": 64, "buffer_size": 512, "rollout_steps": 128, "gamma": GAMMA,
    "n_critic_updates": 100, "n_actor_updates": 20, "learning_rate": 3e-3,
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(("td_lambda", "n_envs"), [(0.0, 1), (0.9, 3), (1.0, 3)])
def test_values_bootstrap_where_an_episode_is_cut(td_lambda: float, n_envs: int):
    trainer = Trainer(
        "awr", lambda: CutConstantReward("discrete"), config=PROBE | {"td_lambda": td_lambda, "n_envs": n_envs}, seed=1
    )
    trainer.train(128 * 16, progress=False)
    value = float(trainer.state.critic(jnp.zeros((1, 1)))[0])
    assert value == pytest.approx(1 / (1 - GAMMA), abs=0.05)


@pytest.mark.long
@pytest.mark.parametrize("td_lambda", [0.0, 1.0])
def test_values_of_a_delayed_reward_are_discounted(td_lambda: float):
    trainer = Trainer("awr", DelayedReward("continuous"), config=PROBE | {"td_lambda": td_lambda}, seed=1)
    trainer.train(128 * 12, progress=False)
    np.testing.assert_allclose(trainer.state.critic(jnp.array([[0.0], [1.0]])), [GAMMA, 1.0], atol=0.05)


@pytest.mark.long
def test_rounds_count_their_steps():
    config = PROBE | {"rollout_steps": 100, "n_envs": 3, "hidden": 4}
    trainer = Trainer("awr", "CartPole-v1", config=config)
    trainer.train(99, progress=False)
    assert trainer.gradient_steps == 0
    trainer.train(102 * 3 + 30 - 99, progress=False)
    assert trainer.gradient_steps == 3 * PROBE["n_actor_updates"]
    trainer.evaluate(2)
    trainer.train(102 - 30, progress=False)
    assert trainer.gradient_steps == 4 * PROBE["n_actor_updates"]


# Minibatches of one step each, of data in which every step has an observation of its own: the rows of the first weights
# that have moved are the steps that were drawn.

N_STEPS = 64
ONE_BY_ONE: dict[str, Any] = {
    "hidden": 16, "batch_size": 1, "learning_rate": 1e-2, "buffer_size": N_STEPS, "actor_output_scale": 0.5
}  # fmt: skip


def steps_seen(algorithm: str, gradient_steps: int, **settings: Any) -> tuple[set[int], set[int]]:
    """Return which steps the actor and which the critic have learned from."""
    data = Dataset.from_arrays(
        {
            "observations": np.eye(N_STEPS, dtype=np.float32), "actions": np.arange(N_STEPS) % 2,
            "rewards": np.ones(N_STEPS, np.float32), "terminals": np.ones(N_STEPS, bool),
        }
    )  # fmt: skip
    trainer = Trainer(algorithm, dataset=data, config=ONE_BY_ONE | settings)
    networks = trainer.state.actor.network, trainer.state.critic.network
    before = [np.array(network.weights[0]) for network in networks]
    trainer.train_offline(gradient_steps, progress=False)
    after = [np.asarray(network.weights[0]) for network in (trainer.state.actor.network, trainer.state.critic.network)]
    moved = [(old != new).any(axis=1) for old, new in zip(before, after, strict=True)]
    return set(np.flatnonzero(moved[0]).tolist()), set(np.flatnonzero(moved[1]).tolist())


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["awr", "marwil"])
def test_every_round_draws_minibatches_of_its_own(algorithm: str):
    settings = {"rollout_steps": N_STEPS, "n_critic_updates": 1, "n_actor_updates": 2}
    actor_saw, critic_saw = steps_seen(algorithm, 20, **settings)
    assert len(critic_saw) > 6
    assert len(actor_saw) > 12
    assert critic_saw - actor_saw


def test_updates_from_data_draw_minibatches_of_their_own():
    actor_saw, critic_saw = steps_seen("awr", 20, n_critic_updates=2)
    assert len(actor_saw) > 12
    assert len(critic_saw) > len(actor_saw)
    assert actor_saw < critic_saw, "the actor learns from the last minibatch of the critic"


@pytest.mark.long
def test_a_rollout_that_is_not_finished_survives_a_checkpoint(tmp_path: Any):
    config = PROBE | {"rollout_steps": 100, "hidden": 4}
    trainer = Trainer("awr", "CartPole-v1", config=config)
    trainer.train(130, progress=False)
    trainer.save(tmp_path)
    loaded = Trainer.load(tmp_path)
    assert len(loaded.replay_dataset()) == 130
    loaded.train(69, progress=False)
    assert loaded.gradient_steps == trainer.gradient_steps == PROBE["n_actor_updates"]
    loaded.train(1, progress=False)
    assert loaded.gradient_steps == 2 * PROBE["n_actor_updates"]


@pytest.mark.long
def test_a_round_fits_into_the_replay_that_its_environments_do_not_divide():
    config = {**PROBE, "n_envs": 6, "rollout_steps": 40, "buffer_size": 40, "batch_size": 16, "hidden": 4}
    trainer = Trainer("awr", "CartPole-v1", config=config)
    trainer.train(42)
    assert len(trainer.replay_dataset()) == trainer.env_steps == 42


@pytest.mark.long
def test_the_same_seed_gives_the_same_rounds():
    def run(seed: int) -> Any:
        trainer = Trainer("awr", "CartPole-v1", config=PROBE | {"hidden": 4, "normalize_obs": True}, seed=seed)
        trainer.train(300, progress=False)
        return [np.asarray(leaf) for leaf in jax.tree.leaves((trainer.state.actor, trainer.state.critic))]

    first, again, other = run(1), run(1), run(2)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not all((a == b).all() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("piece", [3, 65_536])
@pytest.mark.parametrize("by", [0.0, 1e-7])
def test_values_bootstrap_where_the_log_has_a_gap(by: float, piece: int, monkeypatch: pytest.MonkeyPatch):
    """Rows 2 and 5 lead to what no row has seen; the others to the next row, up to a rounding."""
    monkeypatch.setattr("rlox.core.transition._PIECE", piece)
    obs = np.array([0, 1, 2, 10, 11, 12, 20, 21], np.float32)[:, None]
    led_to = np.array([1, 2, 3, 11, 12, 13, 21, 22], np.float32)[:, None] * (1 + by)
    table = {"observations": obs, "next_observations": led_to, "actions": np.zeros(8, int), "rewards": np.ones(8)}
    data = Dataset.from_arrays({**table, "terminals": np.arange(8) == 7})
    with Trainer("marwil", dataset=data, config={"rollout_steps": 8, "batch_size": 8}) as trainer:
        assert np.flatnonzero(trainer.replay_dataset().columns["timeouts"][:]).tolist() == [2, 5]


def test_a_log_without_gaps_stays_as_it_is():
    trainer = Trainer("awr", DelayedReward(), config=PROBE, seed=1)
    data = trainer.record(40)
    ended = (data.columns["terminals"][:] | data.columns["timeouts"][:]).sum()
    with Trainer("marwil", dataset=data, config={"rollout_steps": 8, "batch_size": 8}) as learner:
        after = learner.replay_dataset().columns
    assert (after["terminals"][:] | after["timeouts"][:]).sum() == ended


@pytest.mark.long
def test_weights_of_a_log_with_gaps_are_those_of_its_episodes():
    obs = np.array([0, 1, 2, 10, 11, 12, 20, 21], np.float32)[:, None]
    table = {"observations": obs, "next_observations": obs + 1, "actions": np.arange(8) % 2}
    table |= {"rewards": np.arange(8.0), "terminals": np.arange(8) == 7}
    gaps, config = np.isin(np.arange(8), [2, 5]), PROBE | {"rollout_steps": 8, "batch_size": 8}

    def found(cut: Any) -> float:
        logs = Dataset.from_arrays({**table, "timeouts": cut})
        estimates = trainer.evaluate_offline(logs, gradient_steps=1, progress=False)
        return estimates["weight/effective_sample_size"]

    with Trainer("marwil", dataset=Dataset.from_arrays({**table, "timeouts": gaps}), config=config) as trainer:
        assert found(gaps & False) == pytest.approx(found(gaps), rel=1e-5)
