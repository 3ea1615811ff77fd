"""The observation normaliser: statistics against NumPy's, the freeze, what policies see of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlox import Trainer
from rlox.core.normalizer import Normalizer, normalize


def test_statistics_of_parts_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    obs = rng.normal([5.0, -300.0], [2.0, 40.0], size=(90, 2)).astype(np.float32)
    valid = rng.random(90) < 0.7
    normalizer = Normalizer.create(2)
    for part in (slice(0, 1), slice(1, 40), slice(40, 90)):
        normalizer = normalizer.update(jnp.array(obs[part]), jnp.array(valid[part]))
    seen = obs[valid]
    np.testing.assert_allclose(normalizer.mean, seen.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(normalizer(jnp.array(seen)), (seen - seen.mean(axis=0)) / seen.std(axis=0), atol=1e-4)


@pytest.mark.parametrize("n", [50, 70_000])
def test_statistics_of_logged_observations_are_numpys(n: int):
    rng = np.random.default_rng(0)
    obs = rng.normal([5.0, -3000.0], [2.0, 0.5], size=(n, 2)).astype(np.float32)
    pictures = rng.integers(0, 256, size=(n, 2), dtype=np.uint8)
    for seen, shown in ((obs, obs), (pictures, pictures / 255)):
        normalizer = Normalizer.fit(seen)
        assert float(normalizer.count) == n
        np.testing.assert_allclose(normalizer.mean, shown.mean(axis=0, dtype=float), rtol=1e-5)
        np.testing.assert_allclose(normalizer.std, shown.astype(float).std(axis=0), rtol=1e-4)


def test_bytes_are_taken_as_numbers_from_0_to_1():
    pictures = jnp.array([[0, 51, 255]], jnp.uint8)
    np.testing.assert_allclose(normalize(None, pictures), [[0, 0.2, 1]], rtol=1e-6)
    bits = jnp.array([[False, True]])
    assert normalize(None, bits).tolist() == [[0.0, 1.0]]


def test_before_it_has_seen_anything_it_changes_nothing_and_afterwards_no_entry_is_blown_up():
    obs = jnp.array([[1.0, 2.0], [1.0, 4.0]])
    fresh = Normalizer.create(2)
    np.testing.assert_array_equal(fresh(obs), obs)
    np.testing.assert_array_equal(fresh.update(obs, jnp.zeros(2, bool))(obs), obs)
    np.testing.assert_allclose(fresh.update(obs, jnp.ones(2, bool))(obs), [[0, -1], [0, 1]], atol=1e-6)
    np.testing.assert_array_equal(normalize(None, obs), obs)


@pytest.mark.long
@pytest.mark.parametrize("settings", [{}, {"rollout_steps": 50}])
def test_it_sees_each_observation_once_and_then_is_frozen(settings: dict[str, Any]):
    config = {"hidden": 4, "batch_size": 10, "learning_starts": 20, "normalize_obs": True, "normalize_obs_until": 150}
    trainer = Trainer("awr", "CartPole-v1", config=config | settings)
    trainer.train(100, progress=False)
    normalizer = trainer.state.normalizer
    assert normalizer is not None
    assert float(normalizer.count) == 100
    obs = trainer.replay_dataset().columns["observations"][:]
    np.testing.assert_allclose(normalizer.mean, obs.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(normalizer.std, np.maximum(obs.std(axis=0), 0.02), rtol=1e-4)
    trainer.train(100, progress=False)
    frozen = [np.asarray(leaf) for leaf in jax.tree.leaves(trainer.state.normalizer)]
    assert frozen[0] == 150
    trainer.train(50, progress=False)
    for before, after in zip(frozen, jax.tree.leaves(trainer.state.normalizer), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.long
def test_predictions_are_made_of_normalised_observations(tmp_path: Any):
    trainer = Trainer(
        "awr", "Pendulum-v1", config={"hidden": 4, "learning_starts": 50, "batch_size": 10, "normalize_obs": True}
    )
    trainer.train(60, progress=False)
    obs = np.array([[0.1, 0.2, 3.0]], np.float32)
    state: Any = trainer.state
    expected = 2 * np.asarray(state.actor(state.normalizer(jnp.array(obs))).mode())
    np.testing.assert_allclose(trainer.predict(obs), np.clip(expected, -2, 2), rtol=1e-5)
    trainer.save(tmp_path)
    np.testing.assert_array_equal(Trainer.load(tmp_path).predict(obs), trainer.predict(obs))


def test_more_observations_than_a_float32_counts_keep_its_statistics_right():
    """One by one, where ``2^24 + 1`` is ``2^24``."""
    n = 2.0**24
    before = Normalizer(jnp.float32(n), jnp.full(1, 3.0), jnp.full(1, 4 * n, jnp.float32))
    drawn = jnp.asarray(np.random.default_rng(0).normal(3, 2, size=(1_500, 1, 1)), jnp.float32)

    @jax.jit
    def shown(normalizer: Normalizer) -> Normalizer:
        def update(normalizer: Normalizer, obs: jax.Array) -> tuple[Normalizer, None]:
            return normalizer.update(obs, jnp.ones(1, bool)), None

        return jax.lax.fori_loop(0, 1_000, lambda _, seen: jax.lax.scan(update, seen, drawn)[0], normalizer)

    after = shown(before)
    np.testing.assert_allclose(after.std, 2, rtol=0.02)
    np.testing.assert_allclose(after.mean, 3, rtol=0.02)
    assert after.count < n
