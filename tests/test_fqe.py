"""Fitted Q evaluation: its steps against NumPy, its bootstrap samples."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from plain import Net, Optimizer, Vector, q_loss, q_value
from rlox import Dataset, Trainer
from rlox.core.fqe import Fit, FQEConfig, Logged, bootstrap_counts, init_fit, make_fqe, values
from rlox.errors import ConfigError
from rlox.policy.estimates import evaluate_offline

OBS_DIM, N_CRITICS = 3, 3
CONFIG = FQEConfig(
    n_critics=N_CRITICS, hidden=5, layer_norm=False, gamma=0.8, tau=0.3, batch_size=6, learning_rate=0.05,
    value_scale=2.0, optimizer="sgd",
)  # fmt: skip


def make_logged(nvec: tuple[int, ...]) -> Any:
    """Return four steps of three episodes, one of which ends; the policy has two actions in each."""
    rng = np.random.default_rng(0)
    obs, next_obs = jnp.array(rng.normal(size=(2, 4, OBS_DIM)), jnp.float32)
    action, first, second = (
        jnp.array(rng.integers(nvec, size=(3, 4, 2)), jnp.int32) if nvec
        else jnp.array(rng.normal(size=(3, 4, 2)), jnp.float32)
    )  # fmt: skip
    return Logged(
        obs, action, jnp.array(rng.normal(size=4), jnp.float32), next_obs,
        jnp.array([False, True, False, False]), jnp.stack([first, second]),
        jnp.array([[0.25, 0.5, 0.9, 1.0], [0.75, 0.5, 0.1, 0.0]]), jnp.array([0, 0, 1, 2], jnp.int32),
    )  # fmt: skip


def drawn(key: Any) -> tuple[Any, Any]:
    """Return the next key, and which steps the minibatch of a state with this key holds."""
    key, sample_key = jax.random.split(key)
    return key, np.asarray(jax.random.randint(sample_key, (CONFIG.batch_size,), 0, 4))


def params_of(critic: Any) -> list[Net]:
    (network,) = critic.networks
    pairs = [leaf for pair in zip(network.weights, network.biases, strict=True) for leaf in pair]
    return [[np.asarray(leaf[i], np.float64) for leaf in pairs] for i in range(N_CRITICS)]


def losses(
    nvec: tuple[int, ...], logged: Any, critic: Net, target: Net, share: Vector, index: Vector
) -> tuple[Net, Vector]:
    """Return the gradient of a critic's loss over a minibatch, and its errors."""
    next_values = [q_value(CONFIG, nvec, target, logged.next_obs, action) for action in logged.next_action]
    y = logged.reward + 0.8 * (1 - logged.terminated) * (logged.probability * np.stack(next_values)).sum(axis=0)
    grads = [q_loss(CONFIG, nvec, critic, logged.obs[[i]], logged.action[[i]], y[[i]])[1] for i in index]
    of_each = zip(*grads, strict=True)
    mean = [np.mean([share[i] * one for i, one in zip(index, ones, strict=True)], axis=0) for ones in of_each]
    return mean, (y - q_value(CONFIG, nvec, critic, logged.obs, logged.action))[index]


@pytest.mark.long
@pytest.mark.parametrize("nvec", [(3, 2), ()], ids=["discrete", "continuous"])
def test_steps_of_the_fit_are_those_of_the_reference(nvec: tuple[int, ...]):
    logged, counts = make_logged(nvec), np.array([[1, 1, 1], [2, 0, 1], [0, 1, 2]], np.float32)
    state = init_fit(CONFIG, OBS_DIM, nvec, 2, 1.5, seed=0)
    state = state._replace(target=jax.tree.map(lambda leaf: 1.3 * leaf + 0.1, state.target))
    critics, targets, key = params_of(state.critic), params_of(state.target), state.key
    optimizer = Optimizer(CONFIG, None)
    plain: Any = jax.tree.map(lambda column: np.asarray(column, np.float64), logged)
    td_error = 0.0
    for _ in range(3):
        key, index = drawn(key)
        found = [
            losses(nvec, plain, critic, target, count[plain.episode.astype(int)], index)
            for critic, target, count in zip(critics, targets, counts, strict=True)
        ]
        td_error = float(np.sqrt((found[0][1] ** 2).mean()))
        grads = [grad for of_critic, _ in found for grad in of_critic]
        moved = iter(optimizer.step([leaf for critic in critics for leaf in critic], grads))
        critics = [[next(moved) for _ in critic] for critic in critics]
        targets = [
            [0.7 * old + 0.3 * new for old, new in zip(*nets, strict=True)]
            for nets in zip(targets, critics, strict=True)
        ]
    after, error = make_fqe(CONFIG)(state, logged, jnp.array(counts), 3)
    for nets, expected in ((params_of(after.critic), critics), (params_of(after.target), targets)):
        for one, other in zip(itertools.chain(*nets), itertools.chain(*expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert float(error) == pytest.approx(td_error, rel=1e-4)
    assert_values(after, nvec, logged, critics)


def assert_values(fit: Fit, nvec: tuple[int, ...], logged: Any, critics: list[Net]) -> None:
    found = values(fit.critic, logged.obs, logged.next_action, logged.probability)
    for one, critic in zip(found, critics, strict=True):
        each = [q_value(CONFIG, nvec, critic, np.asarray(logged.obs), np.asarray(a)) for a in logged.next_action]
        np.testing.assert_allclose(one, (np.asarray(logged.probability) * each).sum(axis=0), rtol=1e-4, atol=1e-5)


def test_critics_start_around_the_mean_value():
    plain, moved = (init_fit(CONFIG, OBS_DIM, (3,), 1, mean, seed=0) for mean in (0.0, 5.0))
    obs, action = jnp.ones((4, OBS_DIM)), jnp.zeros((1, 4, 1), jnp.int32)
    before, after = (values(fit.critic, obs, action, jnp.ones((1, 4))) for fit in (plain, moved))
    np.testing.assert_allclose(after, before + 5.0, rtol=1e-5)
    assert len(np.unique(before[:, 0])) == N_CRITICS


def test_bootstrap_samples_hold_as_many_episodes_as_there_are():
    counts = bootstrap_counts(50, 11, np.random.default_rng(0))
    assert counts.shape == (11, 50)
    assert (counts[0] == 1).all()
    assert (counts.sum(axis=1) == 50).all()
    assert (counts[1:] == 0).any(axis=1).all()
    assert len(np.unique(counts, axis=0)) == 11


def test_an_estimate_over_too_many_joint_actions_is_refused():
    table = {"observations": np.zeros((4, 2)), "actions": np.zeros((4, 13), int), "rewards": np.ones(4)}
    data = Dataset.from_arrays({**table, "terminals": np.ones(4)}, action_space=spaces.MultiBinary(13))
    policy: Any = Trainer("bc", dataset=data, config={"hidden": 4}).policy
    with pytest.raises(ConfigError, match=r"8,192 joint actions.*at most 4,096: evaluate the policy in an environment"):
        evaluate_offline(policy, data, gamma=0.9)
