"""The update: its parts by hand, against closed forms, and at its limits; against references in test_references."""

import dataclasses
from typing import Any

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from probes import ObservedReward
from rlox import Trainer
from rlox.algorithms import ALGORITHMS, awr
from rlox.algorithms.awr import AWRConfig
from rlox.core.algorithm import Algorithm, equal_weight
from rlox.core.networks import Critic
from rlox.core.state import Networks, TrainState
from rlox.core.transition import Transition
from rlox.core.update import init_state, make_update

AWR = ALGORITHMS["awr"]
OBS_DIM = 3
DISCRETE = (4, 2)
CONTINUOUS = ()
both_kinds_of_action = pytest.mark.parametrize("nvec", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])


def make_config(**settings: Any) -> AWRConfig:
    return AWRConfig(**{"hidden": 8, "batch_size": 16, "learning_rate": 1e-2, "beta": 0.5} | settings)


def make_state(config: AWRConfig, nvec: tuple[int, ...] = DISCRETE, seed: int = 0) -> TrainState:
    return init_state(AWR, config, OBS_DIM, nvec, 2, seed)


def make_batches(*lead: int, nvec: tuple[int, ...] = DISCRETE, seed: int = 0) -> Transition:
    """Return random transitions; a third of them terminated, another third truncated."""
    rng = np.random.default_rng(seed)
    ending = rng.integers(3, size=lead)
    action = rng.integers(nvec, size=(*lead, 2)) if nvec else rng.normal(size=(*lead, 2))
    return Transition(
        obs=jnp.array(rng.normal(size=(*lead, OBS_DIM)), jnp.float32),
        action=jnp.array(action, jnp.int32 if nvec else jnp.float32),
        reward=jnp.array(rng.normal(size=lead), jnp.float32),
        next_obs=jnp.array(rng.normal(size=(*lead, OBS_DIM)), jnp.float32),
        terminated=jnp.array(ending == 1),
        truncated=jnp.array(ending == 2),
    )


def assert_trees_equal(first: Any, second: Any) -> None:
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, other)


# The parts, by hand.


def td_target(config: AWRConfig, critic: Critic, batch: Transition) -> Any:
    return awr.value_target(config, Networks(make_state(config).actor, None, critic), batch, jax.random.key(0))


def linear_critic(slope: float) -> Critic:
    """Return V(s) = slope * s[0]."""
    critic = make_state(make_config()).critic
    weight = jnp.zeros((OBS_DIM, 1)).at[0, 0].set(slope)
    network = eqx.tree_at(lambda network: network.weights, critic.network, (weight,))
    return eqx.tree_at(lambda critic: critic.network, critic, eqx.tree_at(lambda n: n.biases, network, (jnp.zeros(1),)))


def test_terminated_does_not_bootstrap_and_truncated_does():
    batch = Transition(
        obs=jnp.zeros((4, OBS_DIM)),
        action=jnp.zeros((4, 1), jnp.int32),
        reward=jnp.array([1.0, 1.0, 1.0, 1.0]),
        next_obs=jnp.full((4, OBS_DIM), 10.0),
        terminated=jnp.array([False, False, True, True]),
        truncated=jnp.array([False, True, False, True]),
    )
    target = td_target(make_config(gamma=0.9), linear_critic(2.0), batch)
    np.testing.assert_allclose(target, [19.0, 19.0, 1.0, 1.0])


def test_the_seed_gives_networks_and_random_numbers():
    one, again, other = (make_state(make_config(), seed=seed) for seed in (1, 1, 2))
    for part in ("actor", "critic", "key"):
        first, second, third = (
            [np.asarray(jax.random.key_data(leaf) if part == "key" else leaf) for leaf in jax.tree.leaves(parts)]
            for parts in (getattr(state, part) for state in (one, again, other))
        )
        assert all((a == b).all() for a, b in zip(first, second, strict=True))
        assert not (first[0] == third[0]).all()


def test_the_critic_is_its_own_target_where_tau_is_one():
    assert make_state(make_config(tau=1.0)).target_critic is None


@pytest.mark.long
@pytest.mark.parametrize("expectile", [0.2, 0.5, 0.9])
def test_the_critic_loss_is_least_at_the_expectile(expectile: float):
    outcomes = np.random.default_rng(0).normal(size=16).astype(np.float32)
    batch = jax.tree.map(lambda column: column[0], make_batches(1, 16))._replace(obs=jnp.zeros((16, OBS_DIM)))
    critic, best = linear_critic(0.0), stats.expectile(outcomes, expectile)

    def loss(constant: Any) -> Any:
        moved = jax.tree.map(lambda leaf: leaf + constant if leaf.ndim == 1 else leaf, critic)
        return awr.critic_loss(make_config(expectile=expectile), moved, batch, jnp.array(outcomes))[0]

    assert float(jax.grad(loss)(jnp.float32(best))) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "column"),
    [("awr", {}, "reward"), ("bc", {}, "obs"), ("crr", {"weights": "binary"}, "reward")],
    ids=["both losses", "the actor's", "the critic's"],
)
def test_the_first_step_with_a_loss_that_is_not_finite_is_remembered(name: str, settings: dict[str, Any], column: str):
    algorithm = ALGORITHMS[name]
    config: Any = algorithm.config(hidden=8, batch_size=16, **settings)
    update = jax.jit(make_update(algorithm, config))
    good = make_batches(1, 16)
    bad = good._replace(**{column: getattr(good, column).at[0, 3].set(jnp.nan)})
    state, found = init_state(algorithm, config, OBS_DIM, DISCRETE, 2, seed=0), []
    for batches in (good, bad, good, bad):
        state, metrics = update(state, batches, state.key)
        found.append(int(state.diverged_at))
    assert found == [-1, 2, 2, 2]
    assert np.isfinite(metrics["actor/loss"]) == (name == "crr")


# Closed forms.


def given_advantage(config: AWRConfig, networks: Networks, batch: Transition, *_: Any) -> Any:
    """Return the reward: data can name its own advantages."""
    return batch.reward


GIVEN = dataclasses.replace(AWR, advantage=given_advantage)
UNIFORM = dataclasses.replace(AWR, weight=equal_weight)


def fit(
    config: AWRConfig, state: TrainState, batches: Transition, steps: int, algorithm: Algorithm = GIVEN
) -> TrainState:
    """Return the state after ``steps`` updates with the same batch."""
    update = make_update(algorithm, config)
    return jax.jit(lambda state: jax.lax.fori_loop(0, steps, lambda _, s: update(s, batches, s.key)[0], state))(state)


def tabular(obs: Any, action: Any, advantage: Any) -> Transition:
    n = len(obs)
    return Transition(
        obs=jnp.array(obs, jnp.float32)[None],
        action=jnp.array(action)[None],
        reward=jnp.array(advantage, jnp.float32)[None],
        next_obs=jnp.zeros((1, n, OBS_DIM)),
        terminated=jnp.ones((1, n), bool),
        truncated=jnp.zeros((1, n), bool),
    )


@pytest.mark.long
def test_the_discrete_policy_becomes_the_behaviour_times_the_clamped_weight():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 6, size=(OBS_DIM, 4))  # how often the behaviour took each action in each state
    advantage = rng.normal(size=(OBS_DIM, 4))
    state_of, action_of = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    batches = tabular(np.eye(OBS_DIM)[state_of], action_of[:, None], advantage[state_of, action_of])
    config = make_config(hidden=32, max_advantage=2.0)
    start = init_state(AWR, config, OBS_DIM, (4,), 1, seed=0)
    policy = jax.jit(lambda s: s.actor(jnp.eye(OBS_DIM)).logits)(fit(config, start, batches, 1500))
    weight = np.minimum(np.exp(advantage / config.beta), 2.0)
    expected = counts * weight / (counts * weight).sum(axis=1, keepdims=True)
    assert 0 < (weight == 2.0).mean() < 1
    np.testing.assert_allclose(jax.nn.softmax(policy), expected, atol=2e-3)


@pytest.mark.long
def test_the_continuous_policy_gets_the_weighted_mean_and_std():
    rng = np.random.default_rng(0)
    state_of = np.repeat(np.arange(OBS_DIM), 20)
    action = rng.normal(size=60) + state_of
    advantage = 0.3 * rng.normal(size=60)
    batches = tabular(np.eye(OBS_DIM)[state_of], action[:, None].astype(np.float32), advantage)
    config = make_config(hidden=32)
    start = init_state(AWR, config, OBS_DIM, (), 1, seed=0)
    policy = jax.jit(lambda s: s.actor(jnp.eye(OBS_DIM)))(fit(config, start, batches, 1500))
    weight = np.exp(advantage / config.beta)
    mean = np.array([np.average(action[state_of == s], weights=weight[state_of == s]) for s in range(OBS_DIM)])
    std = np.sqrt(np.average((action - mean[state_of]) ** 2, weights=weight))
    np.testing.assert_allclose(policy.mean[:, 0], mean, atol=5e-3)
    np.testing.assert_allclose(policy.std, [std], rtol=5e-3)


@pytest.mark.long
@both_kinds_of_action
def test_an_endless_beta_is_behaviour_cloning(nvec: tuple[int, ...]):
    config = make_config(beta=1e12)
    start, batches = make_state(config, nvec), make_batches(1, 16, nvec=nvec)
    # One operation after another: a compiler may order the sums of two programs differently.
    with jax.disable_jit():
        weighted, cloned = (fit(config, start, batches, 5, algorithm) for algorithm in (AWR, UNIFORM))
    assert_trees_equal(weighted.actor, cloned.actor)


# In a Trainer.


def train(env: gym.Env[Any, Any], **settings: Any) -> Trainer:
    trainer = Trainer("awr", env=env, config={"hidden": 4, "batch_size": 7, "learning_starts": 20} | settings)
    trainer.train(120, progress=False)
    return trainer


@pytest.mark.long
@pytest.mark.parametrize("n", [1, 3])
def test_updates_of_a_step_are_counted(n: int):
    trainer = train(ObservedReward(), updates_per_step=n, n_critic_updates=2)
    assert trainer.gradient_steps == n * 101
    assert optax.tree_utils.tree_get(trainer.state.actor_opt, "count") == n * 101
    assert optax.tree_utils.tree_get(trainer.state.critic_opt, "count") == 2 * n * 101
