"""The update: against a reference written by hand, against closed forms, and at its limits."""

from collections.abc import Callable
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
from reference import forward, layers_of
from rlox import Trainer
from rlox.algorithms import ALGORITHMS, awr
from rlox.algorithms.awr import AWRConfig
from rlox.core.networks import Critic
from rlox.core.state import Networks, TrainState, Transition
from rlox.core.update import Algorithm, init_state, make_update

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


def run(config: AWRConfig, state: TrainState, batches: Transition, algorithm: Algorithm = AWR) -> Any:
    # Not compiled: single operations are compiled once for all tests, a whole update would be for each.
    return make_update(algorithm, config)(state, batches)


def assert_trees_equal(first: Any, second: Any) -> None:
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, other)


def assert_trees_close(first: Any, second: Any) -> None:
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-5)


# A reference: the same update in plain arrays, with its own network, Adam, clip and log-probabilities.


def adam(params: Any, grads: Any, moments: Any, step: int, config: AWRConfig) -> tuple[Any, Any]:
    if config.max_grad_norm is not None:
        norm = jnp.sqrt(jnp.array([(g**2).sum() for g in jax.tree.leaves(grads)]).sum())
        scale = jnp.minimum(1.0, config.max_grad_norm / norm)
        grads = jax.tree.map(lambda g: g * scale, grads)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], grads)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, moments[1], grads)
    moved = jax.tree.map(
        lambda p, m, v: p - config.learning_rate * (m / (1 - 0.9**step)) / (jnp.sqrt(v / (1 - 0.999**step)) + 1e-8),
        params, first, second,
    )  # fmt: skip
    return moved, (first, second)


def log_prob_and_entropy(actor: Any, batch: Transition, config: AWRConfig, nvec: tuple[int, ...]) -> tuple[Any, Any]:
    out = forward(actor["layers"], batch.obs)
    if not nvec:
        std = config.min_std + jnp.exp(actor["log_std"])
        log_prob = -((batch.action - out) ** 2) / (2 * std**2) - jnp.log(std * np.sqrt(2 * np.pi))
        entropy = jnp.log(std * np.sqrt(2 * np.pi * np.e)).sum()
        return log_prob.sum(axis=1), jnp.full(len(out), entropy)
    log_prob = entropy = 0.0
    for i, logits in enumerate(jnp.split(out, np.cumsum(nvec)[:-1], axis=1)):
        log_probs = logits - jnp.log(jnp.exp(logits).sum(axis=1, keepdims=True))
        log_prob += log_probs[jnp.arange(len(out)), batch.action[:, i]]
        entropy -= (jnp.exp(log_probs) * log_probs).sum(axis=1)
    return log_prob, entropy


def reference(
    config: AWRConfig, nvec: tuple[int, ...], state: TrainState, all_batches: list[Transition]
) -> dict[str, Any]:
    """Return actor, critic and target critic after an update with each of ``all_batches``."""
    actor: Any = {"layers": layers_of(state.actor.network)}
    if not nvec:
        actor["log_std"] = state.actor.log_std
    critic = target_critic = layers_of(state.critic.network)
    actor_moments, critic_moments = ((jax.tree.map(jnp.zeros_like, tree),) * 2 for tree in (actor, critic))
    critic_steps = 0

    def critic_loss(critic: Any, batch: Transition, target: Any) -> Any:
        error = target - forward(critic, batch.obs)[:, 0]
        return (jnp.where(error > 0, 2 * config.expectile, 2 * (1 - config.expectile)) * error**2).mean()

    def actor_loss(actor: Any, batch: Transition, weight: Any) -> Any:
        log_prob, entropy = log_prob_and_entropy(actor, batch, config, nvec)
        return -(weight * log_prob).mean() - config.entropy_coef * entropy.mean()

    weight = None
    for step, batches in enumerate(all_batches, 1):
        batch = target = None
        for i in range(config.n_critic_updates):
            batch = jax.tree.map(lambda column, i=i: column[i], batches)
            next_value = forward(target_critic if config.tau < 1 else critic, batch.next_obs)[:, 0]
            target = batch.reward + config.gamma * jnp.where(batch.terminated, 0.0, next_value)
            critic_steps += 1
            grads = jax.grad(critic_loss)(critic, batch, target)
            critic, critic_moments = adam(critic, grads, critic_moments, critic_steps, config)
            target_critic = jax.tree.map(
                lambda old, new: (1 - config.tau) * old + config.tau * new, target_critic, critic
            )
        assert batch is not None
        advantage = target - forward(critic, batch.obs)[:, 0]
        if config.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-5)
        weight = jnp.minimum(jnp.exp(advantage / config.beta), config.max_advantage)
        grads = jax.grad(actor_loss)(actor, batch, weight)
        actor, actor_moments = adam(actor, grads, actor_moments, step, config)
    return {"actor": actor, "critic": critic, "target_critic": target_critic, "weight": weight}


def assert_close_to_reference(config: AWRConfig, nvec: tuple[int, ...]) -> None:
    lead = config.n_critic_updates, config.batch_size
    all_batches = [make_batches(*lead, nvec=nvec, seed=seed) for seed in range(3)]
    start = make_state(config, nvec)
    expected = reference(config, nvec, start, all_batches)
    state, metrics = start, {}
    for batches in all_batches:
        state, metrics = run(config, state, batches)
    pairs = [
        (layers_of(state.actor.network), expected["actor"]["layers"]),
        (layers_of(state.critic.network), expected["critic"]),
    ]
    if not nvec:
        pairs.append((state.actor.log_std, expected["actor"]["log_std"]))
    if config.tau < 1:
        assert state.target_critic is not None
        pairs.append((layers_of(state.target_critic.network), expected["target_critic"]))
    for found, wanted in pairs:
        assert_trees_close(found, wanted)
    assert float(metrics["weight/mean"]) == pytest.approx(float(expected["weight"].mean()), rel=1e-4)
    assert int(state.gradient_steps) == 3


@both_kinds_of_action
def test_updates_are_those_of_the_reference(nvec: tuple[int, ...]):
    assert_close_to_reference(make_config(), nvec)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_critic_updates": 3},
        {"tau": 0.3},
        {"tau": 0.3, "n_critic_updates": 2},
        {"expectile": 0.8},
        {"entropy_coef": 0.5},
        {"normalize_advantage": True},
        {"max_grad_norm": 0.05},
        {"max_advantage": 1.1},
    ],
    ids=str,
)
def test_updates_with_another_setting_are_those_of_the_reference(settings: dict[str, Any]):
    assert_close_to_reference(make_config(**settings), DISCRETE)


def test_a_continuous_update_with_every_setting_is_that_of_the_reference():
    config = make_config(
        n_critic_updates=2, tau=0.3, expectile=0.7, entropy_coef=0.1, normalize_advantage=True, max_grad_norm=0.5,
        max_advantage=1.5, initial_std=0.6, min_std=0.2,
    )  # fmt: skip
    assert_close_to_reference(config, CONTINUOUS)


@both_kinds_of_action
@pytest.mark.parametrize("n", [1, 2, 4], ids=["one", "as many as components", "as many as choices"])
def test_a_batch_moves_the_state_as_the_same_batch_repeated(nvec: tuple[int, ...], n: int):
    config = make_config()
    state, batches = make_state(config, nvec), make_batches(1, n, nvec=nvec)
    repeated = jax.tree.map(lambda column: jnp.concatenate([column] * (16 // n), axis=1), batches)
    (short, short_metrics), (long, long_metrics) = (run(config, state, given) for given in (batches, repeated))
    assert_trees_close((short.actor, short.critic), (long.actor, long.critic))
    assert_trees_close(short_metrics, long_metrics)


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


def test_the_advantage_is_under_the_critic_after_its_step():
    config = make_config(learning_rate=0.1)
    before, batches = make_state(config), make_batches(1, 16)
    after, metrics = run(config, before, batches)
    batch = jax.tree.map(lambda column: column[0], batches)
    target = td_target(config, before.critic, batch)
    fresh, stale = (float((target - state.critic(batch.obs)).mean()) for state in (after, before))
    assert float(metrics["advantage/mean"]) == pytest.approx(fresh, abs=1e-5)
    assert abs(fresh - stale) > 0.01


def test_the_target_critic_follows_by_tau_after_each_critic_step():
    config = make_config(tau=0.25)
    before = make_state(config)
    after, _ = run(config, before, make_batches(1, 16))
    assert after.target_critic is not None
    assert_trees_equal(before.target_critic, before.critic)
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, before.critic, after.critic)
    assert_trees_close(after.target_critic, expected)
    assert not np.allclose(after.target_critic.network.weights[0], after.critic.network.weights[0], atol=1e-3)


def test_the_critic_is_its_own_target_where_tau_is_one():
    assert make_state(make_config(tau=1.0)).target_critic is None


def test_each_critic_step_sees_its_own_minibatch_and_the_actor_the_last():
    config = make_config(n_critic_updates=3)
    start, batches = make_state(config), make_batches(3, 16)
    after, metrics = run(config, start, batches)
    one = make_config(n_critic_updates=1)
    state, last = start, {}
    for i in range(3):
        state, last = run(one, state, jax.tree.map(lambda column, i=i: column[i : i + 1], batches))
    assert_trees_close(after.critic, state.critic)
    for name in ("critic/loss", "advantage/mean", "weight/mean"):
        assert float(metrics[name]) == pytest.approx(float(last[name]), rel=1e-4), name
    assert int(after.gradient_steps) == 1


def test_the_expectile_of_one_half_is_the_mean_squared_error():
    batch = jax.tree.map(lambda column: column[0], make_batches(1, 16))
    critic = make_state(make_config()).critic
    loss = awr.critic_loss(make_config(expectile=0.5), batch.reward, awr.predict(critic, batch))
    assert float(loss) == float(((batch.reward - critic(batch.obs)) ** 2).mean())


@pytest.mark.parametrize("expectile", [0.2, 0.5, 0.9])
def test_the_critic_loss_is_least_at_the_expectile(expectile: float):
    outcomes = np.random.default_rng(0).normal(size=16).astype(np.float32)
    batch = jax.tree.map(lambda column: column[0], make_batches(1, 16))._replace(obs=jnp.zeros((16, OBS_DIM)))
    critic, best = linear_critic(0.0), stats.expectile(outcomes, expectile)

    def loss(constant: Any) -> Any:
        moved = jax.tree.map(lambda leaf: leaf + constant if leaf.ndim == 1 else leaf, critic)
        return awr.critic_loss(make_config(expectile=expectile), jnp.array(outcomes), awr.predict(moved, batch))

    assert float(jax.grad(loss)(jnp.float32(best))) == pytest.approx(0.0, abs=1e-5)


def test_weights_are_clamped_and_the_clipped_are_counted():
    config = make_config(beta=0.1, max_advantage=3.0)
    batches = make_batches(1, 16)
    state, metrics = run(config, make_state(config), batches)
    batch = jax.tree.map(lambda column: column[0], batches)
    target = td_target(config, make_state(config).critic, batch)
    clipped = np.asarray(target - state.critic(batch.obs)) >= 0.1 * np.log(3.0)
    assert 0 < clipped.mean() < 1
    assert float(metrics["weight/max"]) == 3.0
    assert float(metrics["weight/clipped_fraction"]) == pytest.approx(clipped.mean())


def test_normalized_advantages_have_mean_zero_and_std_one():
    config = make_config(normalize_advantage=True)
    _, metrics = run(config, make_state(config), make_batches(1, 16))
    assert float(metrics["advantage/mean"]) == pytest.approx(0, abs=1e-5)
    assert float(metrics["advantage/std"]) == pytest.approx(1, abs=1e-3)


@both_kinds_of_action
def test_the_entropy_bonus_lowers_the_actors_loss_by_its_share(nvec: tuple[int, ...]):
    batches = make_batches(1, 16, nvec=nvec)
    plain, bonus = (
        run(config, make_state(config, nvec), batches)[1]
        for config in (make_config(), make_config(entropy_coef=0.3))
    )  # fmt: skip
    assert float(plain["policy/entropy"]) > 0
    expected = float(plain["actor/loss"] - 0.3 * plain["policy/entropy"])
    assert float(bonus["actor/loss"]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("network", ["actor_opt", "critic_opt"])
def test_gradients_are_scaled_down_to_the_largest_norm(network: str):
    config = make_config(max_grad_norm=0.01)
    batches = make_batches(1, 16)
    batches = batches._replace(reward=1000 * batches.reward)
    state, _ = run(config, make_state(config), batches)
    first_moment = optax.tree_utils.tree_get(getattr(state, network), "mu")
    assert float(optax.tree.norm(first_moment)) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_the_actors_loss_does_not_reach_the_critic():
    config, batches = make_config(), make_batches(1, 16)
    state, update = make_state(config), make_update(AWR, config)

    def loss(critic: Critic) -> Any:
        return update(state._replace(critic=critic), batches)[1]["actor/loss"]

    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(jax.grad(loss)(state.critic)))


def test_the_actors_weights_do_not_move_the_critic():
    batches = make_batches(1, 16)
    sharp, flat = (
        run(config, make_state(config), batches)[0] for config in (make_config(beta=0.1), make_config(beta=1e3))
    )
    assert_trees_equal(sharp.critic, flat.critic)
    assert not np.array_equal(sharp.actor.network.weights[0], flat.actor.network.weights[0])


def test_the_first_step_with_a_loss_that_is_not_finite_is_remembered():
    config = make_config()
    good = make_batches(1, 16)
    bad = good._replace(reward=good.reward.at[0, 3].set(jnp.nan))
    state, found = make_state(config), []
    for batches in (good, bad, good, bad):
        state, _ = run(config, state, batches)
        found.append(int(state.diverged_at))
    assert found == [-1, 2, 2, 2]


@pytest.mark.usefixtures("without_annotations")
@pytest.mark.parametrize("hole", ["value_target", "advantage", "weight"])
def test_a_hole_that_returns_a_column_is_refused(hole: str):
    whole: Callable[..., Any] = getattr(AWR, hole)
    broken = AWR._replace(**{hole: lambda *args: whole(*args)[:, None]})
    config = make_config()
    with pytest.raises(TypeError, match=rf"{hole} has shape \(16, 1\).*\(16,\)"):
        jax.eval_shape(make_update(broken, config), make_state(config), make_batches(1, 16))


# Closed forms.


def given_advantage(config: AWRConfig, networks: Networks, batch: Transition, target: Any, key: Any) -> Any:
    """Return the reward: data can name its own advantages."""
    return batch.reward


GIVEN = AWR._replace(advantage=given_advantage)
UNIFORM = AWR._replace(weight=lambda config, advantage: jnp.ones_like(advantage))


def fit(
    config: AWRConfig, state: TrainState, batches: Transition, steps: int, algorithm: Algorithm = GIVEN
) -> TrainState:
    """Return the state after ``steps`` updates with the same batch."""
    update = make_update(algorithm, config)
    return jax.jit(lambda state: jax.lax.fori_loop(0, steps, lambda _, s: update(s, batches)[0], state))(state)


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


@pytest.mark.parametrize("max_advantage", [20.0, 2.0], ids=["below the clamp", "clamped"])
def test_the_discrete_policy_becomes_the_behaviour_times_the_weight(max_advantage: float):
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 6, size=(OBS_DIM, 4))  # how often the behaviour took each action in each state
    advantage = rng.normal(size=(OBS_DIM, 4))
    state_of, action_of = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    batches = tabular(np.eye(OBS_DIM)[state_of], action_of[:, None], advantage[state_of, action_of])
    config = make_config(hidden=32, max_advantage=max_advantage)
    start = init_state(AWR, config, OBS_DIM, (4,), 1, seed=0)
    policy = jax.jit(lambda s: s.actor(jnp.eye(OBS_DIM)).logits)(fit(config, start, batches, 1500))
    weight = np.minimum(np.exp(advantage / config.beta), max_advantage)
    expected = counts * weight / (counts * weight).sum(axis=1, keepdims=True)
    assert (weight == max_advantage).any() == (max_advantage == 2.0)
    np.testing.assert_allclose(jax.nn.softmax(policy), expected, atol=2e-3)


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


@both_kinds_of_action
def test_an_endless_beta_is_behaviour_cloning(nvec: tuple[int, ...]):
    config = make_config(beta=1e12)
    start, batches = make_state(config, nvec), make_batches(1, 16, nvec=nvec)
    weighted, cloned = (fit(config, start, batches, 5, algorithm) for algorithm in (AWR, UNIFORM))
    assert_trees_equal(weighted.actor, cloned.actor)


# In a Trainer.


def train(env: gym.Env[Any, Any], **settings: Any) -> Trainer:
    trainer = Trainer("awr", env=env, config={"hidden": 4, "batch_size": 7, "learning_starts": 20} | settings)
    trainer.train(120, progress=False)
    return trainer


def test_the_update_is_traced_once_over_a_training():
    trainer = train(ObservedReward(), buffer_size=50)
    programs: Any = trainer._learner.programs
    # Jitted functions share their traces where the function is the same one, as `store` is for all trainers.
    stores = programs.store._cache_size()
    trainer.evaluate(2)
    trainer.train(30, log_interval=10, progress=False)
    assert trainer.gradient_steps == 131
    assert programs.learn._cache_size() == 1
    assert programs.store._cache_size() == stores


def test_several_updates_a_step_are_traced_once_and_counted():
    trainer = train(ObservedReward(), updates_per_step=3, n_critic_updates=2)
    assert trainer.gradient_steps == 3 * 101
    assert optax.tree_utils.tree_get(trainer.state.actor_opt, "count") == 3 * 101
    assert optax.tree_utils.tree_get(trainer.state.critic_opt, "count") == 2 * 3 * 101
    programs: Any = trainer._learner.programs
    assert programs.learn._cache_size() == 1
