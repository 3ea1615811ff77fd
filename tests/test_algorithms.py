"""The algorithms: what each policy becomes in closed form, and their parts by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plain import forward
from test_references import params_of
from rlox import Trainer
from rlox.algorithms import ALGORITHMS
from rlox.algorithms.iql import IQLConfig
from rlox.algorithms.marwil import MARWILConfig
from rlox.core import q_learning
from rlox.core.distributions import Categorical, Gaussian, joint_actions
from rlox.core.networks import QFunction
from rlox.core.state import Transition
from rlox.core.update import init_state, make_update
from rlox.errors import ConfigError

OBS_DIM, N_ACTIONS = 3, 4
SMALL: dict[str, Any] = {"hidden": 32, "batch_size": 64, "learning_rate": 1e-2}
FITTED = {
    "awr": {"beta": 0.5, "max_advantage": 1e6},
    "bc": {},
    "awac": {"beta": 0.5, "tau": 0.1},
    "crr mean": {"beta": 0.5, "tau": 0.1, "max_advantage": 1e6},
    "crr max": {"beta": 0.5, "tau": 0.1, "max_advantage": 1e6, "baseline": "max"},
    "iql": {"beta": 0.5, "tau": 0.1, "max_advantage": 1e6},
}


def bandit() -> tuple[np.ndarray, np.ndarray, Transition]:
    """Return how often each action was taken in each state, what it pays, and the steps, all of which end."""
    rng = np.random.default_rng(0)
    counts, reward = rng.integers(1, 6, size=(OBS_DIM, N_ACTIONS)), rng.normal(size=(OBS_DIM, N_ACTIONS))
    state_of, action_of = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    n = len(state_of)
    return (
        counts,
        reward,
        Transition(
            obs=jnp.eye(OBS_DIM)[state_of][None],
            action=jnp.array(action_of[:, None], jnp.int32)[None],
            reward=jnp.array(reward[state_of, action_of], jnp.float32)[None],
            next_obs=jnp.zeros((1, n, OBS_DIM)),
            terminated=jnp.ones((1, n), bool),
            truncated=jnp.zeros((1, n), bool),
        ),
    )


def fitted_policy(algorithm: str, steps: int = 2500, **settings: Any) -> Any:
    """Return the probabilities of actions after so many updates with all of the bandit's steps."""
    algorithm = ALGORITHMS[algorithm.split()[0]]
    config: Any = algorithm.config(**{**SMALL, **settings})
    update, batches = make_update(algorithm, config), bandit()[2]
    state = init_state(algorithm, config, OBS_DIM, (N_ACTIONS,), 1, seed=0)
    state = jax.jit(lambda state: jax.lax.fori_loop(0, steps, lambda _, s: update(s, batches)[0], state))(state)
    policy: Any = state.actor(jnp.eye(OBS_DIM))
    return jax.nn.softmax(policy.logits)


@pytest.mark.parametrize("algorithm", FITTED)
def test_the_policy_becomes_the_behaviour_times_the_exponentiated_reward(algorithm: str):
    counts, reward, _ = bandit()
    likely = counts * (1.0 if algorithm == "bc" else np.exp(reward / 0.5))
    expected = likely / likely.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fitted_policy(algorithm, **FITTED[algorithm]), expected, atol=0.02)


def test_binary_weights_leave_the_best_action():
    reward = bandit()[1]
    policy = fitted_policy("crr", weights="binary", tau=0.1)
    assert policy.argmax(axis=1).tolist() == reward.argmax(axis=1).tolist()
    assert policy.max(axis=1).min() > 0.9


@pytest.mark.parametrize("algorithm", ["awac", "iql"])
def test_an_endless_beta_is_behaviour_cloning(algorithm: str):
    counts = bandit()[0]
    np.testing.assert_allclose(
        fitted_policy(algorithm, beta=1e12), counts / counts.sum(axis=1, keepdims=True), atol=0.01
    )


# Parts.


def make_q(nvec: tuple[int, ...] = (), **settings: Any) -> QFunction:
    config: Any = ALGORITHMS["awac"].config(hidden=8, **settings)
    return QFunction(config, OBS_DIM, nvec, 2, np.random.default_rng(0))


def make_obs(n: int = 5) -> Any:
    return jnp.array(np.random.default_rng(1).normal(size=(n, OBS_DIM)), jnp.float32)


def test_q_of_choices_is_the_output_that_stands_for_them():
    q, obs = make_q((2, 3)), make_obs()
    outputs = np.stack([forward(params_of(network), np.asarray(obs))[0] for network in q.networks])
    for place, action in enumerate(joint_actions((2, 3))):
        found = q(obs, jnp.broadcast_to(jnp.asarray(action), (5, 2)))
        np.testing.assert_allclose(found, outputs[:, :, place], rtol=1e-5)


def test_q_of_continuous_actions_sees_them_clipped():
    q, obs = make_q(), make_obs()
    action = jnp.array(np.random.default_rng(2).normal(size=(5, 2)) * 2, jnp.float32)
    inputs = jnp.concatenate([obs, jnp.clip(action, -1, 1)], axis=1)
    expected = [forward(params_of(network), np.asarray(inputs))[0][:, 0] for network in q.networks]
    np.testing.assert_allclose(q(obs, action), expected, rtol=1e-5)
    np.testing.assert_allclose(q(obs, jnp.stack([action, action]))[:, 1], expected, rtol=1e-5)


def test_values_are_in_the_unit_of_the_scale():
    obs, action = make_obs(), jnp.zeros((5, 2))
    np.testing.assert_allclose(make_q(value_scale=10.0)(obs, action), 10 * make_q()(obs, action), rtol=1e-6)


def test_expectations_over_choices_are_exact_sums():
    policy = Categorical(jnp.array(np.random.default_rng(0).normal(size=(5, 5)), jnp.float32), (2, 3))
    actions, probability = policy.support(jax.random.key(0), 1)
    assert actions.shape == (6, 5, 2)
    np.testing.assert_allclose(probability, [jnp.exp(policy.log_prob(action)) for action in actions], rtol=1e-5)
    np.testing.assert_allclose(probability.sum(axis=0), 1.0, rtol=1e-6)


def test_expectations_over_continuous_actions_are_means_of_samples():
    policy = Gaussian(jnp.array([[0.5, -0.2]]), jnp.array([0.1, 0.2]))
    actions, probability = policy.support(jax.random.key(0), 4000)
    np.testing.assert_allclose((probability[..., None] * actions).sum(axis=0), policy.mean, atol=0.02)
    np.testing.assert_allclose(actions.std(axis=0)[0], policy.std, rtol=0.05)


def test_td_targets_bootstrap_from_the_smaller_target_q_unless_terminated():
    algorithm = ALGORITHMS["awac"]
    config: Any = algorithm.config(hidden=8, gamma=0.9)
    state = init_state(algorithm, config, OBS_DIM, (N_ACTIONS,), 1, seed=0)
    obs = make_obs(2)
    batch = Transition(
        obs, jnp.zeros((2, 1), jnp.int32), jnp.ones(2), obs, jnp.array([False, True]), jnp.array([True, False])
    )
    networks: Any = state.networks()
    smallest = np.min(
        [forward(params_of(network), np.asarray(obs))[0] for network in networks.target_critic.networks], axis=0
    )
    expected = (jax.nn.softmax(networks.actor(obs).logits) * smallest).sum(axis=1)
    target = q_learning.td_target(config, networks, batch, jax.random.key(0))
    np.testing.assert_allclose(target, [1 + 0.9 * expected[0], 1.0], rtol=1e-5)


def test_iql_never_asks_for_another_action_than_the_data_s():
    algorithm = ALGORITHMS["iql"]
    config: Any = IQLConfig(hidden=8, gamma=0.9, expectile=0.8)
    state = init_state(algorithm, config, OBS_DIM, (N_ACTIONS,), 1, seed=0)
    obs, action = make_obs(3), jnp.array([[0], [3], [2]], jnp.int32)
    batch = Transition(obs, action, jnp.ones(3), obs + 1, jnp.array([False, True, False]), jnp.zeros(3, bool))
    networks: Any = state.networks()
    critic, key = networks.critic, jax.random.key(0)
    v = [forward(layers_of(critic.v.network), x)[:, 0] for x in (obs, obs + 1)]
    q = [forward(params_of(network), np.asarray(obs))[0][jnp.arange(3), action[:, 0]] for network in critic.q.networks]
    target = algorithm.value_target(config, networks, batch, key)
    np.testing.assert_allclose(target[0], np.min(q, axis=0), rtol=1e-5)
    np.testing.assert_allclose(target[1], 1 + 0.9 * np.array([1, 0, 1]) * v[1], rtol=1e-5)
    error = np.min(q, axis=0) - v[0]
    expected = (np.where(error > 0, 1.6, 0.4) * error**2).mean() + sum(((target[1] - one) ** 2).mean() for one in q)
    assert float(algorithm.critic_loss(config, target, algorithm.predict(critic, batch))) == pytest.approx(
        float(expected), rel=1e-5
    )
    np.testing.assert_allclose(algorithm.advantage(config, networks, batch, target, key), error, rtol=1e-4)


def test_marwil_scales_the_advantage_by_its_root_mean_square():
    algorithm = ALGORITHMS["marwil"]
    config = MARWILConfig(hidden=8, beta=2.0)
    state = init_state(algorithm, config, OBS_DIM, (N_ACTIONS,), 1, seed=0)
    obs, target = make_obs(4), jnp.array([1.0, -2.0, 3.0, 100.0])
    batch = Transition(obs, jnp.zeros((4, 1), jnp.int32), target, obs, target > 0, target < 0)
    known = jnp.array([True, True, True, False])
    found = algorithm.advantage(config, state.networks(), batch, target, jax.random.key(0), known)
    error = np.asarray(target - state.critic(obs))
    expected = error / np.sqrt((error[:3] ** 2).mean())
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(algorithm.weight(config, found), np.exp(expected / 2), rtol=1e-4)


def test_softmax_weights_have_mean_one():
    weight = ALGORITHMS["awac"].weight(ALGORITHMS["awac"].config(), jnp.array([0.0, 1.0, -2.0, 500.0]))
    assert float(weight.mean()) == pytest.approx(1.0)
    assert float(weight.max()) == pytest.approx(4.0)


def test_a_std_of_the_state_starts_at_the_first_one_and_is_learned():
    algorithm = ALGORITHMS["bc"]
    config: Any = algorithm.config(
        **{**SMALL, "state_dependent_std": True, "initial_std": 0.5, "actor_output_scale": 1e-6}
    )
    state = init_state(algorithm, config, 1, (), 1, seed=0)
    policy: Any = state.actor(jnp.ones((3, 1)))
    np.testing.assert_allclose(policy.std, 0.5, rtol=1e-3)
    rng = np.random.default_rng(0)
    side = np.repeat([-1.0, 1.0], 500)
    action = np.where(side > 0, 0.6, 0.2) * rng.normal(size=1000)
    column = jnp.array(side[None, :, None], jnp.float32)
    flags = jnp.ones((1, 1000), bool)
    batches = Transition(column, jnp.array(action[None, :, None], jnp.float32), flags * 1.0, column, flags, ~flags)
    update = make_update(algorithm, config)
    state = jax.jit(lambda state: jax.lax.fori_loop(0, 1000, lambda _, s: update(s, batches)[0], state))(state)
    policy = state.actor(jnp.array([[-1.0], [1.0]]))
    np.testing.assert_allclose(policy.std[:, 0], [0.2, 0.6], rtol=0.1)


def test_the_actor_s_step_falls_to_nothing_along_a_cosine():
    algorithm = ALGORITHMS["bc"]
    config: Any = algorithm.config(**{**SMALL, "actor_decay_steps": 10})
    update, batches = make_update(algorithm, config), bandit()[2]
    state = init_state(algorithm, config, OBS_DIM, (N_ACTIONS,), 1, seed=0)
    for _ in range(10):
        state, _ = update(state, batches)
    after, _ = update(state, batches)
    for before, now in zip(jax.tree.leaves(state.actor), jax.tree.leaves(after.actor), strict=True):
        np.testing.assert_array_equal(before, now)


def test_too_many_joint_actions_for_a_q_function_are_refused():
    import gymnasium as gym

    class Wide(gym.Env[Any, Any]):
        observation_space = gym.spaces.Box(-1, 1, (1,))
        action_space = gym.spaces.MultiDiscrete([10] * 5)

    with pytest.raises(ConfigError, match=r"100,000 joint actions.*use awr, marwil or bc"):
        Trainer("iql", env=Wide())
