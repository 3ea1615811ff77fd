"""The algorithms: what each policy becomes in closed form, and their parts by hand."""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plain import forward, params_of
from rlox import Trainer
from rlox.algorithms import ALGORITHMS
from rlox.algorithms.bc import BCConfig
from rlox.algorithms.marwil import MARWILConfig
from rlox.core.distributions import Categorical, Gaussian, joint_actions
from rlox.core.networks import QFunction
from rlox.core.round import make_round
from rlox.core.state import Networks
from rlox.core.transition import Transition
from rlox.core.update import init_state, make_optimizer, make_update
from rlox.errors import ConfigError

OBS_DIM, N_ACTIONS = 3, 4
SMALL: dict[str, Any] = {"hidden": 32, "batch_size": 64, "learning_rate": 1e-2}
FITTED = {
    "bc": {},
    "awac": {"beta": 0.5, "tau": 0.1},
    "crr": {"beta": 0.5, "tau": 0.1, "max_advantage": 1e6},
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


def fitted_policy(name: str, steps: int = 2500, **settings: Any) -> Any:
    """Return the probabilities of actions after so many updates with all of the bandit's steps."""
    algorithm = ALGORITHMS[name]
    config: Any = algorithm.config(**{**SMALL, **settings})
    update, batches = make_update(algorithm, config), bandit()[2]
    state = init_state(algorithm, config, OBS_DIM, (N_ACTIONS,), 1, seed=0)
    state = jax.jit(lambda state: jax.lax.fori_loop(0, steps, lambda _, s: update(s, batches, s.key)[0], state))(state)
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


def test_binary_weights_that_no_choice_can_have_are_refused():
    config = {"hidden": 4, "weights": "binary", "baseline": "max"}
    with pytest.raises(ConfigError, match="gives no choice a weight, since none is better than the best"):
        Trainer("crr", dataset="cartpole-random", config=config)
    Trainer("crr", dataset="pendulum-medium-replay", config=config).close()


def test_marwil_becomes_the_behaviour_times_the_exponentiated_scaled_advantage():
    counts, reward, batches = bandit()
    steps = jax.tree.map(lambda column: column[0], batches)
    everything = jnp.arange(len(steps.reward))
    config = MARWILConfig(
        hidden=16, batch_size=64, learning_rate=1e-2, beta=0.7, n_critic_updates=1000, n_actor_updates=1500
    )
    state = init_state(ALGORITHMS["marwil"], config, OBS_DIM, (N_ACTIONS,), 1, seed=0)
    learn, keys = make_round(ALGORITHMS["marwil"], config), list(jax.random.split(jax.random.key(0), 4))

    def draw(key: Any, shape: tuple[int, ...]) -> Any:
        return jnp.broadcast_to(everything, (shape[0], len(everything)))

    state, _ = jax.jit(lambda state: learn(state, steps, everything[:, None], everything >= 0, draw, keys))(state)
    error = reward - np.average(reward, axis=1, weights=counts)[:, None]
    likely = counts * np.exp(error / np.sqrt(np.average(error**2, weights=counts)) / 0.7)
    policy: Any = state.actor(jnp.eye(OBS_DIM))
    np.testing.assert_allclose(jax.nn.softmax(policy.logits), likely / likely.sum(axis=1, keepdims=True), atol=0.01)


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


class Known:
    """A policy whose action samples are known, in the place of an actor."""

    def __init__(self, actions: Any):
        self.actions = jnp.asarray(actions)

    def __call__(self, obs: Any) -> Any:
        return self

    def support(self, key: Any, n_samples: int) -> Any:
        assert n_samples == len(self.actions)
        return self.actions, jnp.full(self.actions.shape[:2], 1 / n_samples)


def sum_of_the_action(n_critics: int) -> QFunction:
    """Return ``Q_i(s, a) = (a_0 + a_1) (i + 1)``, for actions in the range."""
    q = make_q(n_critics=n_critics)
    layers = [jnp.zeros((OBS_DIM + 2, 1)).at[OBS_DIM:].set(i + 1.0) for i in range(n_critics)]
    q = eqx.tree_at(lambda q: [network.weights for network in q.networks], q, [(layer,) for layer in layers])
    return eqx.tree_at(lambda q: [network.biases for network in q.networks], q, [(jnp.zeros(1),)] * n_critics)


@pytest.mark.usefixtures("without_annotations")
@pytest.mark.parametrize(
    ("name", "settings"),
    [("awac", {}), ("crr", {"baseline": "mean"}), ("crr", {"baseline": "max"})],
)
def test_the_baseline_is_of_the_policy_s_own_actions(name: str, settings: dict[str, Any]):
    samples = [[[0.5, 0.0], [-0.5, -0.2]], [[0.1, 0.4], [-0.5, -0.1]], [[-0.4, 0.3], [-0.3, -0.4]]]
    kind: Any = ALGORITHMS[name].config
    config = kind(n_action_samples=3, **settings)
    networks: Any = Networks(cast(Any, Known(samples)), sum_of_the_action(2), None)
    action = jnp.array([[0.3, 0.3], [-0.1, -0.2]])
    batch = Transition(jnp.zeros((2, OBS_DIM)), action, jnp.zeros(2), jnp.zeros((2, OBS_DIM)), False, False)
    found = ALGORITHMS[name].advantage(config, networks, batch, jnp.zeros(2), jax.random.key(0))
    # The smaller Q is the first one's where the sum is positive, and the second's, twice that, where it is not.
    smaller = np.array([[0.5, -1.4], [0.5, -1.2], [-0.2, -1.4]])
    own = smaller.max(axis=0) if settings.get("baseline") == "max" else smaller.mean(axis=0)
    np.testing.assert_allclose(found, np.array([0.6, -0.6]) - own, rtol=1e-5)


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
    np.testing.assert_allclose(algorithm.weight(config, found)[0], np.exp(expected / 2), rtol=1e-4)


def test_softmax_weights_have_mean_one():
    weight, _ = ALGORITHMS["awac"].weight(ALGORITHMS["awac"].config(), jnp.array([0.0, 1.0, -2.0, 500.0]))
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
    state = jax.jit(lambda state: jax.lax.fori_loop(0, 1000, lambda _, s: update(s, batches, s.key)[0], state))(state)
    policy = state.actor(jnp.array([[-1.0], [1.0]]))
    np.testing.assert_allclose(policy.std[:, 0], [0.2, 0.6], rtol=0.1)


def test_the_step_size_follows_a_cosine():
    optimizer = make_optimizer(BCConfig(optimizer="sgd", momentum=0.0), 0.5, decay_steps=8)
    state, moves = optimizer.init(jnp.zeros(())), []
    for _ in range(10):
        move, state = optimizer.update(jnp.ones(()), state)
        moves.append(-np.asarray(move))
    expected = [0.5, 0.481, 0.427, 0.346, 0.25, 0.154, 0.073, 0.019, 0.0, 0.0]
    np.testing.assert_allclose(moves, expected, atol=1e-3)


def test_too_many_joint_actions_for_a_q_function_are_refused():
    import gymnasium as gym

    class Wide(gym.Env[Any, Any]):
        observation_space = gym.spaces.Box(-1, 1, (1,))
        action_space = gym.spaces.MultiDiscrete([10] * 5)

    with pytest.raises(ConfigError, match=r"100,000 joint actions.*use awr, marwil or bc"):
        Trainer("iql", env=Wide())
