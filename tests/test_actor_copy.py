"""The copy of the actor that is evaluated and handed out, and turns of updates that are further apart than a step."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from probes import Counting, Diary, ObservedActionReward
from rlox import Policy, Trainer
from rlox.algorithms import ALGORITHMS
from rlox.core.update import init_state, make_update
from test_references import CONTINUOUS, make_batches

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16, "learning_starts": 20, "buffer_size": 500}
OBS = np.array([[-1.0], [1.0]], np.float32)


def leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_the_copy_is_a_polyak_average_of_the_actors():
    config: Any = ALGORITHMS["awac"].config(hidden=6, batch_size=8, actor_tau=0.3)
    state = init_state(ALGORITHMS["awac"], config, 3, CONTINUOUS, 2, seed=0)
    update = jax.jit(make_update(ALGORITHMS["awac"], config))
    expected = leaves(state.actor)
    for i in range(3):
        state, _ = update(state, make_batches(CONTINUOUS, 1, 8, seed=i), jax.random.key(i))
        expected = [0.7 * old + 0.3 * new for old, new in zip(expected, leaves(state.actor), strict=True)]
    for found, wanted in zip(leaves(state.result), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert all(not np.array_equal(a, b) for a, b in zip(leaves(state.result), leaves(state.actor), strict=True))


def test_without_one_the_actor_itself_is_handed_out():
    config: Any = ALGORITHMS["awac"].config(hidden=6)
    state = init_state(ALGORITHMS["awac"], config, 3, CONTINUOUS, 2, seed=0)
    assert state.averaged_actor is None
    assert state.result is state.actor


@pytest.mark.long
def test_the_copy_is_what_predicts_what_is_saved_and_what_a_folder_holds(tmp_path: Path):
    settings = SMALL | {"actor_tau": 0.01}
    trainer = Trainer("awac", env=ObservedActionReward("continuous"), config=settings, run_dir=tmp_path / "run")
    trainer.train(200, progress=False)
    found = trainer.predict(OBS)
    learner: Any = trainer._learner
    policy: Any = trainer.policy
    state = learner.state.train
    mean, mean_now, mean_handed_out = (
        np.asarray(actor(jnp.asarray(OBS)).mean) for actor in (state.averaged_actor, state.actor, policy.actor)
    )
    assert not np.allclose(mean, mean_now, atol=1e-3)
    np.testing.assert_array_equal(mean_handed_out, mean)
    trainer.policy.save(tmp_path / "policy.safetensors")
    for path in (tmp_path / "run", tmp_path / "policy.safetensors"):
        np.testing.assert_array_equal(Policy.load(path).predict(OBS), found)


@pytest.mark.long
@pytest.mark.parametrize(("n_envs", "updates"), [(1, 1), (4, 1), (1, 2)])
def test_a_turn_of_updates_comes_after_so_many_steps(n_envs: int, updates: int):
    settings = SMALL | {"train_freq": 5, "n_envs": n_envs, "updates_per_step": updates}
    trainer = Trainer("awac", env=lambda: ObservedActionReward("discrete"), config=settings)
    metrics = trainer.train(400, progress=False)
    turns = metrics["env_steps"] // (5 * n_envs) - 20 // (5 * n_envs)
    assert metrics["gradient_steps"] == pytest.approx(turns * updates * n_envs, abs=updates * n_envs)


@pytest.mark.long
def test_what_is_between_two_turns_is_stored_and_resumed_exactly(tmp_path: Path):
    settings = SMALL | {"train_freq": 3, "actor_tau": 0.1, "normalize_obs": True}

    def trainer(**more: Any) -> Trainer:
        return Trainer("awac", env=ObservedActionReward("discrete"), config=settings, seed=3, **more)

    whole = trainer()
    whole.train(100, progress=False)
    part = trainer()
    part.train(64, progress=False)
    part.save(tmp_path / "part")
    rest = Trainer.load(tmp_path / "part", env=ObservedActionReward("discrete"))
    rest.train(36, progress=False)
    np.testing.assert_array_equal(rest.predict(OBS), whole.predict(OBS))
    policies: list[Any] = [rest.policy, whole.policy]
    for one, other in zip(*(leaves(policy.actor) for policy in policies), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.long
@pytest.mark.parametrize("train_freq", [1, 3])
def test_the_environment_sees_the_actor_itself_and_every_step_is_stored(train_freq: int):
    env, apart = Diary(), 0.0
    config = SMALL | {"train_freq": train_freq, "actor_tau": 1e-6, "learn_std": False, "initial_std": 1e-3}
    config |= {"normalize_obs": True, "normalize_obs_until": 20, "learning_rate": 1e-2}
    trainer = Trainer("awr", env, config=config)
    trainer.train(60, progress=False)
    for _ in range(9):
        state: Any = jax.tree.map(jnp.copy, trainer.state)
        trainer.train(1, progress=False)
        obs = state.normalizer(jnp.asarray(env.shown[-1])[None])
        own, copy = (2.5 * np.clip(actor(obs).mean, -1, 1)[0] + 0.5 for actor in (state.actor, state.averaged_actor))
        np.testing.assert_allclose(env.actions[-1], own, atol=0.02)
        apart = max(apart, float(np.abs(own - copy).max()))
    assert apart > 0.1
    assert len(trainer.replay_dataset()) == trainer.env_steps == 69


@pytest.mark.long
def test_rows_that_only_reset_make_no_turn_of_updates():
    env = SyncVectorEnv([lambda: Counting(2)] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    trainer = Trainer("awac", env, config=SMALL | {"train_freq": 2, "learning_starts": 16})
    trainer.train(40, progress=False)
    assert trainer.env_steps == 40
    assert trainer.gradient_steps == 2 * 7  # turns at 16, 20, ..., 40
