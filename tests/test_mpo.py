"""MPO: what its policy becomes in closed form, what it adapts, and its limits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probes import AIMS, ActionReward, Counting, Diary, ObservedActionReward
from rlox import Trainer
from rlox.algorithms import ALGORITHMS
from rlox.algorithms.bc import BCConfig
from rlox.algorithms.mpo import MPO, MPOConfig, NextActions, backup, solve_beta
from rlox.core.config import ActionKind, silenced
from rlox.core.distributions import Categorical, Gaussian
from rlox.core.state import TrainState
from rlox.core.transition import Transition
from rlox.core.update import init_state, make_update
from rlox.errors import ConfigError
from rlox.runs.meanings import meaning

N_STATES, N_ACTIONS = 3, 4
SMALL: dict[str, Any] = {
    "hidden": 32,
    "batch_size": 48,
    "n_states": 48,
    "learning_rate": 1e-2,
    "tau": 0.1,
    "gamma": 0.0,
}


def pays() -> np.ndarray:
    """Return what each action pays in each state."""
    return np.random.default_rng(0).normal(size=(N_STATES, N_ACTIONS))


def discrete_steps() -> Transition:
    """Return one step of each action in each state, four times over; every episode ends there."""
    state, action = (np.tile(index.ravel(), 4) for index in np.indices((N_STATES, N_ACTIONS)))
    return steps(np.eye(N_STATES)[state], action[:, None].astype(np.int32), pays()[state, action])


def steps(obs: Any, action: Any, reward: Any) -> Transition:
    n = len(reward)
    every = Transition(
        obs=jnp.array(obs, jnp.float32),
        action=jnp.array(action),
        reward=jnp.array(reward, jnp.float32),
        next_obs=jnp.zeros(np.shape(obs), jnp.float32),
        terminated=jnp.ones(n, bool),
        truncated=jnp.zeros(n, bool),
    )
    return jax.tree.map(lambda column: column[None], every)


def fit(config: MPOConfig, state: TrainState, batches: Transition, n: int) -> tuple[TrainState, dict[str, float]]:
    """Take ``n`` updates with the same steps."""
    update = make_update(MPO, config)

    def once(state: TrainState, key: Any) -> Any:
        return update(state, batches, key)

    state, metrics = jax.jit(lambda state: jax.lax.scan(once, state, jax.random.split(state.key, n)))(state)
    return state, {name: float(values[-1]) for name, values in metrics.items()}


def start(config: MPOConfig, nvec: tuple[int, ...] = (N_ACTIONS,), action_dim: int = 1) -> TrainState:
    return init_state(MPO, config, N_STATES, nvec, action_dim, seed=0)


def probabilities(state: TrainState) -> Any:
    policy: Any = state.actor(jnp.eye(N_STATES))
    return jax.nn.softmax(policy.logits)


@pytest.mark.long
def test_the_policy_becomes_the_exponential_of_q_over_lambda_beta():
    config = MPOConfig(**SMALL, beta=0.5, initial_lambda=0.8, target_entropy=None)
    near, _ = fit(config, start(config), discrete_steps(), 2000)
    # Adam's last steps at the larger rate leave the critic a little off.
    found = probabilities(fit(replace(config, learning_rate=1e-3), near, discrete_steps(), 1000)[0])
    likely = np.exp(pays() / (0.8 * 0.5))
    np.testing.assert_allclose(found, likely / likely.sum(axis=1, keepdims=True), atol=0.02)


@pytest.mark.long
def test_an_action_that_was_all_but_given_up_comes_back_if_it_pays():
    config = MPOConfig(**SMALL, beta=0.5, initial_lambda=0.8, target_entropy=None)
    state, best = start(config), pays().argmax(axis=1)
    biases = state.actor.network.biases
    away = jnp.zeros(N_ACTIONS).at[best[0]].set(-12.0)
    network = eqx_replace(state.actor.network, biases=(*biases[:-1], away))
    state = state._replace(actor=eqx_replace(state.actor, network=network))
    assert probabilities(state)[0, best[0]] < 1e-4
    assert probabilities(fit(config, state, discrete_steps(), 2500)[0])[0].argmax() == best[0]


@pytest.mark.long
def test_a_bad_action_that_was_given_up_gets_no_weight():
    config = MPOConfig(**SMALL, beta=0.5, initial_lambda=0.8, target_entropy=None)
    state = start(config)
    logits = jnp.zeros(N_ACTIONS).at[1].set(-200.0)
    network = eqx_replace(state.actor.network, biases=(*state.actor.network.biases[:-1], logits))
    state = state._replace(actor=eqx_replace(state.actor, network=network))
    batch = jax.tree.map(lambda column: column[0], discrete_steps())
    fit = MPO.actor_target(MPO, config, state.networks(), batch, jnp.zeros(48), jax.random.key(0))
    assert float(fit.weight[1].max()) < 1e-6
    np.testing.assert_allclose(fit.weight.sum(axis=0), 1, rtol=1e-5)
    assert all(np.isfinite(value) for value in fit.metrics.values())


class Disagreeing:
    """Two critics that value what is paid, each off by as much in the other direction, and more in later states."""

    def __init__(self, by: float):
        self.by = by

    def __call__(self, obs: Any, action: Any) -> Any:
        value = (obs @ jnp.array(pays()) * jax.nn.one_hot(action[..., 0].astype(int), N_ACTIONS)).sum(axis=-1)
        off = self.by * (obs @ jnp.arange(N_STATES, dtype=jnp.float32))
        return jnp.stack([value + off, value - off])

    of_several = __call__


@pytest.mark.long
def test_the_mean_of_q_weighs_the_replays_actions_too():
    config = MPOConfig(**SMALL, q_of="mean", replay_share=1.0)
    batch = jax.tree.map(lambda column: column[0], discrete_steps())
    weights = []
    for by in (0.0, 3.0):
        networks = start(config).networks()._replace(critic=Disagreeing(by))
        weights.append(MPO.actor_target(MPO, config, networks, batch, jnp.zeros(48), jax.random.key(0)).weight)
    np.testing.assert_allclose(*weights, rtol=1e-4, atol=1e-6)


def eqx_replace(module: Any, **fields: Any) -> Any:
    """Return a module with other leaves in some of its fields."""
    import equinox as eqx

    for name, value in fields.items():
        module = eqx.tree_at(lambda m, name=name: getattr(m, name), module, value)
    return module


def continuous_steps(n: int = 48) -> Transition:
    """Return steps whose reward falls with the distance from a place that depends on the state."""
    rng = np.random.default_rng(1)
    obs = np.eye(N_STATES)[rng.integers(N_STATES, size=n)]
    action = rng.uniform(-1, 1, size=(n, 2)).astype(np.float32)
    return steps(obs, action, -4 * ((action - best_actions(obs)) ** 2).sum(axis=1))


def best_actions(obs: Any) -> Any:
    return np.asarray(obs) @ np.array([[0.5, -0.5], [0.0, 0.3], [-0.4, 0.1]])


@pytest.mark.long
@pytest.mark.parametrize("target_std", [0.15, 0.3])
def test_the_entropy_is_held_at_its_target(target_std: float):
    config = MPOConfig(**SMALL, target_std=target_std, lambda_learning_rate=0.02)
    state, metrics = fit(config, start(config, (), 2), continuous_steps(480), 1500)
    policy: Any = state.actor(jnp.eye(N_STATES))
    assert np.exp(np.log(policy.std).mean()) == pytest.approx(target_std, rel=0.15)
    assert np.abs(policy.mean - best_actions(np.eye(N_STATES))).max() < 0.2
    assert 0 < metrics["weight/lambda"] < 1


@pytest.mark.long
def test_without_the_price_the_std_falls_to_its_floor():
    config = MPOConfig(**SMALL, initial_lambda=0.0, target_std=None, epsilon=0.3)
    policy: Any = fit(config, start(config, (), 2), continuous_steps(480), 1500)[0].actor(jnp.eye(N_STATES))
    assert float(policy.std.max()) < 1.3 * config.min_std


@pytest.mark.long
def test_the_discrete_entropy_is_held_at_its_share_of_the_largest():
    config = MPOConfig(**SMALL, target_entropy=0.6, lambda_learning_rate=0.02)
    metrics = fit(config, start(config), discrete_steps(), 1500)[1]
    assert metrics["policy/entropy"] == pytest.approx(0.6 * np.log(N_ACTIONS), rel=0.1)


@pytest.mark.long
def test_the_price_is_at_most_one():
    config = MPOConfig(**SMALL, target_entropy=1.0, initial_lambda=0.9, lambda_learning_rate=1.0)
    assert fit(config, start(config), discrete_steps(), 20)[1]["weight/lambda"] == 1.0


@pytest.mark.long
def test_a_price_at_its_floor_rises_as_soon_as_entropy_is_short():
    config = MPOConfig(**SMALL, target_entropy=0.0, lambda_learning_rate=1.0)
    state, batch = fit(config, start(config), discrete_steps(), 100)[0], discrete_steps()
    assert float(state.extra.log_lambda) == pytest.approx(np.log(1e-5))
    again = replace(config, target_entropy=1.0)
    assert fit(again, state, batch, 40)[1]["weight/lambda"] > 0.1


@pytest.mark.long
def test_a_price_without_a_target_stays_whatever_it_is():
    for price in (0.0, 1e-7):
        config = MPOConfig(**SMALL, target_entropy=None, initial_lambda=price)
        extra: Any = fit(config, start(config), discrete_steps(), 5)[0].extra
        assert float(jnp.exp(extra.log_lambda)) == pytest.approx(price)


@pytest.mark.long
@pytest.mark.parametrize(("bound", "end"), [(1e-9, 1e5), (1e9, 1e-5)])
def test_the_weight_of_the_copy_stays_where_it_can_come_back_from(bound: float, end: float):
    settings: dict[str, Any] = {
        "anchor_tau": 0.5,
        "anchor_coef": 1.0,
        "epsilon_mean": bound,
        "anchor_learning_rate": 20.0,
    }
    config = MPOConfig(**SMALL, **settings)
    networks, other = start(config, (), 2).networks(), init_state(MPO, config, N_STATES, (), 2, seed=1)
    networks = networks._replace(extra=networks.extra._replace(anchor=other.actor))
    steps = jax.tree.map(lambda column: column[0], continuous_steps())
    extra: Any = MPO.actor_target(MPO, config, networks, steps, jnp.zeros(48), jax.random.key(0)).extra
    # Of the two parts, the one without a bound stays.
    np.testing.assert_allclose(jnp.exp(extra.log_alpha), [end, 1.0], rtol=1e-4)


@pytest.mark.long
def test_what_it_reports_is_explained():
    settings: dict[str, Any] = {"anchor_tau": 0.5, "anchor_coef": 1.0, "replay_share": 0.5}
    config = MPOConfig(**SMALL, **settings)
    reported = fit(config, start(config, (), 2), continuous_steps(), 2)[1]
    told = (Path(__file__).parent.parent / "docs" / "algorithms" / "mpo.md").read_text().partition("## Metrics")[2]
    assert [name for name in reported if not meaning(name).reading or f"`{name}`" not in told] == []


def test_of_the_replays_actions_one_may_have_all_the_weight():
    config, batch = MPOConfig(**SMALL, beta=1e-3, replay_share=0.5), discrete_steps()
    networks = start(config).networks()._replace(critic=Disagreeing(0.0))
    steps = jax.tree.map(lambda column: column[0], batch)
    found = MPO.actor_target(MPO, config, networks, steps, jnp.zeros(48), jax.random.key(0))
    # The best of twelve pairs of state and action, which are there four times.
    assert float(found.metrics["weight/replay_effective_sample_size"]) == pytest.approx(1 / 12, rel=1e-3)


@pytest.mark.long
def test_one_choice_is_no_reason_to_fail():
    config = MPOConfig(**SMALL)
    batch = discrete_steps()._replace(action=jnp.zeros((1, 48, 1), jnp.int32))
    assert all(np.isfinite(value) for value in fit(config, start(config, (1,)), batch, 3)[1].values())


@pytest.mark.parametrize("epsilon", [0.03, 0.3])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_beta_keeps_to_the_bound_whatever_the_scale(epsilon: float, scale: float):
    rng = np.random.default_rng(0)
    q = jnp.array(5e4 + scale * rng.normal(size=(8, 20)))
    beta = jax.jit(solve_beta, static_argnums=2)(q, jnp.full((8, 20), 1 / 8), epsilon)
    weight = jax.nn.softmax((q - q.max(axis=0)) / beta, axis=0)
    if scale > 1:  # float32 has no digits left of the smaller ones
        assert float((weight * jnp.log(8 * weight)).sum(axis=0).mean()) == pytest.approx(epsilon, rel=1e-2)
    assert np.isfinite(weight).all()


def test_beta_is_finite_where_all_actions_are_worth_the_same():
    q = jnp.full((8, 20), 3.0)
    beta = solve_beta(q, jnp.full((8, 20), 1 / 8), 0.1)
    assert np.isfinite(jax.nn.softmax(q / beta, axis=0)).all()


@pytest.mark.parametrize("epsilon", [0.001, 1.5])
def test_beta_is_found_where_states_differ_far_more_than_actions(epsilon: float):
    rng = np.random.default_rng(0)
    q = jnp.array(0.01 * rng.normal(size=(8, 20)) + 1e3 * rng.normal(size=20))
    beta = solve_beta(q, jnp.full((8, 20), 1 / 8), epsilon)
    weight = jax.nn.softmax((q - q.max(axis=0)) / beta, axis=0)
    kl = (weight * (jnp.log(weight) + jnp.log(8.0))).sum(axis=0).mean()
    assert float(kl) == pytest.approx(epsilon, rel=0.05)


def test_beta_stays_in_proportion_where_the_policy_is_sure_of_the_best_action():
    q = jnp.array([[1.0], [0.0]])
    assert 0.1 < float(solve_beta(q, jnp.array([[1.0], [0.0]]), 0.1)) < 2


@pytest.mark.long
def test_the_std_stays_between_its_floor_and_its_ceiling():
    config = MPOConfig(hidden=8, initial_std=0.3, min_std=0.1, max_std=0.6)
    actor = start(config, (), 2).actor
    stds: list[Any] = []
    for raw in (-50.0, None, 50.0):
        moved = actor if raw is None else eqx_replace(actor, log_std=jnp.full(2, raw))
        policy: Any = moved(jnp.zeros((1, N_STATES)))
        stds.append(policy.std)
    np.testing.assert_allclose(np.concatenate(stds), [[0.1] * 2, [0.3] * 2, [0.6] * 2], rtol=0.02)


# Its own actions, in pairs.


@pytest.mark.long
def test_actions_in_pairs_have_the_policys_mean_and_std_exactly():
    policy = Gaussian(jnp.array([[1.0, -2.0], [0.0, 3.0]]), jnp.array([[0.5, 0.1], [0.2, 2.0]]))
    action, share = policy.balanced(jax.random.key(0), 6)
    np.testing.assert_allclose(action.mean(axis=0), policy.mean, atol=1e-6)
    np.testing.assert_allclose(action.std(axis=0), policy.std, rtol=1e-5)
    np.testing.assert_allclose(share, 1 / 6)


@pytest.mark.long
def test_equal_weights_on_actions_in_pairs_leave_the_policy_where_it_is():
    policy = Gaussian(jnp.array([[0.3, -0.2]]), jnp.array([[0.5, 0.1]]))
    action, _ = policy.balanced(jax.random.key(3), 4)

    def loss(mean: Any, std: Any) -> Any:
        return -Gaussian(mean, std).log_prob(action).mean()

    np.testing.assert_allclose(jax.grad(loss, argnums=(0, 1))(policy.mean, policy.std), 0, atol=1e-5)


@pytest.mark.long
def test_actions_in_pairs_spread_as_the_policy_does_over_many_states():
    n = 4000
    action, _ = Gaussian(jnp.zeros((n, 1)), jnp.ones(1)).balanced(jax.random.key(1), 64)
    inside = [float((jnp.abs(action) < width).mean()) for width in (0.5, 1.0, 2.0)]
    np.testing.assert_allclose(inside, [0.383, 0.683, 0.954], atol=0.01)


@pytest.mark.long
def test_divergence_is_that_of_the_densities():
    near, far = Gaussian(jnp.array([[0.2]]), jnp.array([[0.5]])), Gaussian(jnp.array([[0.5]]), jnp.array([[0.4]]))
    grid = np.linspace(-6, 6, 20001)[:, None, None]
    for mean, part in ((0.2, 0), (0.5, 1)):
        other = Gaussian(jnp.array([[mean]]), jnp.array([[0.4 if part == 0 else 0.5]]))
        at_far = far.log_prob(jnp.array(grid, jnp.float32))
        gap = np.exp(at_far) * (at_far - other.log_prob(jnp.array(grid, jnp.float32)))
        expected = np.trapezoid(np.asarray(gap)[:, 0], grid[:, 0, 0])
        assert float(near.divergence(far)[part, 0]) == pytest.approx(expected, rel=1e-3)
    p, q = Categorical(jnp.array([[0.0, 1.0, 2.0, -1.0, 0.5]]), (3, 2)), Categorical(jnp.zeros((1, 5)), (3, 2))
    actions, share = q.support(jax.random.key(0), 1)
    expected = (share * (q.log_prob(actions) - p.log_prob(actions))).sum()
    assert float(p.divergence(q)[0, 0]) == pytest.approx(float(expected), rel=1e-5)


# In an environment.

CONFIG: dict[str, Any] = {
    "hidden": 32, "learning_starts": 100, "batch_size": 64, "n_states": 64, "learning_rate": 3e-3, "gamma": 0.5,
    "actor_tau": 0.1, "buffer_size": 1000,
}  # fmt: skip


@pytest.mark.long
def test_it_takes_the_action_that_pays_in_each_state():
    trainer = Trainer("mpo", env=ObservedActionReward("discrete"), config=CONFIG, seed=1)
    trainer.train(900, progress=False)
    assert trainer.predict(np.array([[-1.0], [1.0]], np.float32)).tolist() == [0, 1]


@pytest.mark.long
def test_it_aims_at_the_continuous_action_that_pays_in_each_state():
    trainer = Trainer("mpo", env=ObservedActionReward("continuous"), config=CONFIG, seed=1)
    metrics = trainer.train(1000, progress=False)
    found = trainer.predict(np.array([[-1.0], [1.0]], np.float32))
    np.testing.assert_allclose(found, [[AIMS[0]], [AIMS[1]]], atol=0.25)
    assert {"weight/beta", "weight/lambda", "weight/kl"} <= set(metrics)


@pytest.mark.long
def test_what_it_adapts_waits_with_the_actor():
    config = MPOConfig(**SMALL)
    state, update = start(config), make_update(MPO, config)
    after = jax.jit(update)(state, discrete_steps(), state.key, jnp.array(True))[0]
    assert float(after.extra.log_lambda) == float(state.extra.log_lambda)
    for one, other in zip(*(jax.tree.leaves(each.averaged_actor) for each in (after, state)), strict=True):
        np.testing.assert_array_equal(one, other)
    first, second = (jax.tree.leaves(each.critic)[0] for each in (after, state))
    assert not np.array_equal(first, second)


def test_other_algorithms_have_nothing_of_it():
    for name in ("awr", "awac", "iql"):
        config: Any = ALGORITHMS[name].config(hidden=8)
        assert init_state(ALGORITHMS[name], config, 3, (), 1, 0).extra is None


@pytest.mark.long
@pytest.mark.parametrize("settings", [{"n_envs": 4}, {"updates_per_step": 2}])
def test_one_call_makes_all_updates_of_a_step(settings: dict[str, int]):
    trainer = Trainer("mpo", env=lambda: ActionReward("continuous"), config=CONFIG | settings, seed=1)
    metrics = trainer.train(200, progress=False)
    n = settings.get("updates_per_step", 1)
    assert metrics["gradient_steps"] == pytest.approx(n * (metrics["env_steps"] - 100) / 3, abs=4 * n)


@pytest.mark.long
@pytest.mark.parametrize(
    ("length", "random_episodes", "n_envs", "begins"),
    # Of two at once, each has taken half of the steps.
    [(5, 3, 1, 20), (25, 3, 1, 75), (60, 3, 1, 100), (25, 0, 1, 20), (15, 3, 2, 60)],
)
def test_learning_waits_for_a_few_episodes_within_reason(length: int, random_episodes: int, n_envs: int, begins: int):
    config = {
        "hidden": 4, "batch_size": 8, "n_states": 8, "learning_starts": 20, "random_episodes": random_episodes,
        "train_freq": 1, "n_critic_updates": 1, "n_envs": n_envs,
    }  # fmt: skip
    trainer = Trainer("mpo", env=lambda: Counting(length), config=config)
    trainer.train(begins - n_envs, progress=False)
    assert trainer.gradient_steps == 0
    trainer.train(n_envs, progress=False)
    assert trainer.gradient_steps == n_envs


def test_its_own_actions_alone_are_doubted_on_data():
    (told,) = MPOConfig().doubts_on_data()
    assert told.startswith("replay_share=0 fits the policy to actions that the data do not have")
    assert MPOConfig(replay_share=0.5).doubts_on_data() == []
    with pytest.warns(UserWarning, match="replay_share=0"):
        Trainer("mpo", dataset="cartpole-random", config={"hidden": 4})


@pytest.mark.long
def test_learning_from_data_first_waits_for_no_episodes():
    config = {"hidden": 4, "batch_size": 8, "n_states": 8, "learning_starts": 20, "train_freq": 1}
    data = Trainer("mpo", env=Counting(25), config=config).record(50)
    trainer = Trainer("mpo", env=Counting(25), dataset=data, config=config | {"replay_share": 0.5})
    before = trainer.train_offline(10, progress=False)["gradient_steps"]
    trainer.train(20, progress=False)
    assert trainer.gradient_steps == before + 1


@pytest.mark.long
def test_the_soft_maximum_has_no_entropy_besides():
    config = MPOConfig(**SMALL, backup="logsumexp", beta=1.0)
    q, batch = jnp.ones((2, 3, 48)), jax.tree.map(lambda column: column[0], discrete_steps())
    found = [
        backup(config, batch, q, NextActions(jnp.zeros((3, 48, 1)), jnp.full((3, 48), 1 / 3), jnp.full(48, bonus)))
        for bonus in (0.0, 5.0)
    ]
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.long
def test_how_much_of_the_data_its_own_actions_use_is_not_told():
    with Trainer("mpo", env=ObservedActionReward(), config={"hidden": 4, "learning_starts": 8}) as trainer:
        trainer.train(20, progress=False)
        data = trainer.record(50)
        assert "weight/effective_sample_size" not in trainer.evaluate_offline(data, gradient_steps=20, progress=False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_action_samples": 5}, ["n_action_samples=5", "even"]),
        ({"n_states": 300}, ["n_states=300", "batch_size=256"]),
        ({"backup": "logsumexp"}, ["backup='logsumexp'", "set beta"]),
        ({"anchor_coef": 1.0}, ["anchor_coef=1", "anchor_tau"]),
        ({"n_action_samples": 2}, ["n_action_samples=2", "at least 4"]),
        ({"replay_share": 1.5}, ["replay_share=1.5", "at most 1"]),
        ({"target_entropy": 1.1}, ["target_entropy=1.1", "at most 1"]),
        ({"initial_lambda": 2.0}, ["initial_lambda=2.0", "at most 1"]),
        ({"anchor_coef": -1.0}, ["anchor_coef=-1.0", "at least 0"]),
        ({"epsilon_mean": 0.1}, ["epsilon_mean=0.1", "anchor_tau"]),
        ({"epsilon_std": 0.1}, ["epsilon_std=0.1", "anchor_tau"]),
        ({"epsilon_mean": 0.1, "anchor_tau": 0.1}, ["anchor_coef"]),
        ({"initial_std": 0.9}, ["initial_std=0.9", "max_std=0.8"]),
        ({"epsilon": 0.0}, ["epsilon=0.0", "greater than 0"]),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], words: list[str]):
    with pytest.raises(ConfigError) as error:
        MPOConfig(**settings)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("actions", "target"), [("continuous", "target_std"), ("discrete", "target_entropy")])
def test_a_price_of_0_is_refused_if_these_actions_have_a_target(actions: ActionKind, target: str):
    with pytest.raises(ConfigError, match=f"initial_lambda=0 stays 0.* or {target}=None"):
        MPOConfig(initial_lambda=0.0).check_actions(actions)
    without: Any = {target: None}
    MPOConfig(initial_lambda=0.0, **without).check_actions(actions)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_std": 0.9}, ["target_std=0.9", "max_std=0.8"]),
        ({"target_std": 0.04}, ["target_std=0.04", "min_std=0.05"]),
        ({"learn_std": False}, ["target_std=0.15", "initial_std=0.5", "target_std=None"]),
        ({"n_action_samples": 4, "epsilon": 1.4}, ["epsilon=1.4", "n_action_samples=4", "1.39"]),
    ],
)
def test_what_the_policy_cannot_reach_is_refused_where_actions_are_continuous(
    settings: dict[str, Any], words: list[str]
):
    with pytest.raises(ConfigError) as error:
        MPOConfig(**settings).check_actions("continuous")
    assert all(word in str(error.value) for word in words)
    MPOConfig(**settings).check_actions("discrete")
    MPOConfig(**settings | {"target_std": None, "beta": 1.0}).check_actions("continuous")


def test_targets_that_can_be_reached_are_taken():
    MPOConfig(target_std=0.9, max_std=None).check_actions("continuous")
    MPOConfig(learn_std=False, initial_std=0.15).check_actions("continuous")


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"soft": True, "backup": "logsumexp", "beta": 1.0}, "soft"), ({"epsilon": 0.2, "beta": 1.0}, "epsilon")],
)
def test_a_switch_that_another_one_rules_out_is_said_to_have_no_effect(settings: dict[str, Any], name: str):
    (told,) = silenced(MPOConfig(**settings), actions="continuous", dataset=False)
    assert told.startswith(f"{name}=")


@pytest.mark.parametrize(
    "settings",
    [{"n_target_samples": 4}, {"epsilon_std": 0.1, "anchor_tau": 0.1, "anchor_coef": 1.0}, {"bound_coef": 5.0}],
)
def test_settings_of_continuous_actions_have_no_effect_on_choices(settings: dict[str, Any]):
    (told,) = silenced(MPOConfig(**settings), actions="discrete", dataset=False)
    assert told.startswith(next(iter(settings)))


@pytest.mark.parametrize(
    ("settings", "name", "kind"),
    [
        ({"lambda_learning_rate": 0.5, "target_std": None}, "lambda_learning_rate", "continuous"),
        ({"lambda_learning_rate": 0.5, "target_entropy": None}, "lambda_learning_rate", "discrete"),
        ({"target_std": 0.3, "replay_share": 1.0}, "target_std", "continuous"),
        ({"anchor_learning_rate": 0.5}, "anchor_learning_rate", "continuous"),
        ({"q_of": "mean", "n_critics": 1}, "q_of", "continuous"),
    ],
)
def test_what_other_settings_leave_without_effect_is_said(settings: dict[str, Any], name: str, kind: ActionKind):
    told = silenced(MPOConfig(**settings), actions=kind, dataset=True)
    assert any(sentence.startswith(f"{name}=") and "no effect" in sentence for sentence in told)


def test_what_has_an_effect_is_not_said_to_have_none():
    bounds = {"anchor_tau": 0.1, "anchor_coef": 1.0, "epsilon_std": 0.1, "anchor_learning_rate": 0.5}
    settings: dict[str, Any]
    for settings in (bounds, {"target_std": 0.3, "replay_share": 0.5}, {"lambda_learning_rate": 0.5},
                     {"target_std": 0.3, "replay_share": 1.0, "soft": True}, {"q_of": "mean"}):  # fmt: skip
        assert not silenced(MPOConfig(**settings), actions="continuous", dataset=True)


def test_bc_says_that_it_has_no_critic():
    (told,) = silenced(BCConfig(critic_learning_rate=0.5), actions="discrete", dataset=True)
    assert told == "critic_learning_rate=0.5 has no effect in bc, without a critic."


def test_a_bound_that_choices_cannot_reach_is_refused():
    with pytest.raises(ConfigError, match=r"epsilon=0\.8 cannot be reached: weights of 2 actions .* = 0\.693"):
        Trainer("mpo", ObservedActionReward(), config={"epsilon": 0.8})
    Trainer("mpo", ObservedActionReward(), config={"epsilon": 0.6})


def test_settings_of_a_run_that_goes_on_are_checked_as_those_of_a_new_one(tmp_path: Path):
    with Trainer("mpo", ObservedActionReward("continuous"), config={"hidden": 4}) as trainer:
        trainer.save(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"target_std=5"):
        Trainer.load(tmp_path / "run", env=ObservedActionReward("continuous"), config={"target_std": 5.0})


def test_a_price_at_its_cap_falls_as_soon_as_the_entropy_is_back():
    config = MPOConfig(**SMALL, target_entropy=1.0, initial_lambda=1.0, lambda_learning_rate=1.0)
    state, metrics = fit(config, start(config), discrete_steps(), 20)
    extra: Any = state.extra
    assert metrics["weight/lambda"] == 1.0
    assert float(extra.log_lambda) <= 0.0


def test_the_policy_is_fitted_to_actions_in_pairs():
    config = MPOConfig(**SMALL)
    networks, batch = start(config, (), 2).networks(), jax.tree.map(lambda column: column[0], continuous_steps())
    found = MPO.actor_target(MPO, config, networks, batch, jnp.zeros(48), jax.random.key(0))
    policy: Any = networks.actor(batch.obs)
    np.testing.assert_allclose(found.action.mean(axis=0), policy.mean, atol=1e-5)
    np.testing.assert_allclose(found.action.std(axis=0), np.broadcast_to(policy.std, policy.mean.shape), rtol=1e-4)


def test_actions_are_random_as_long_as_episodes_are_waited_for():
    env = Diary(length=1000)
    config = {"hidden": 4, "batch_size": 8, "n_states": 8, "learning_starts": 20, "random_episodes": 1}
    with Trainer("mpo", env, config=config | {"learn_std": False, "initial_std": 1e-3, "target_std": None}) as trainer:
        trainer.train(99, progress=False)
        assert trainer.gradient_steps == 0
    assert np.std(env.actions[20:]) > 1


@pytest.mark.parametrize("epsilon", [0.4, 0.6])
def test_beta_keeps_to_bounds_for_which_two_choices_have_to_be_even(epsilon: float):
    q = jnp.array([[1.0], [0.0]])
    weight = np.asarray(jax.nn.softmax(q / solve_beta(q, jnp.array([[0.9], [0.1]]), epsilon), axis=0))
    assert float((weight * np.log(2 * weight)).sum()) == pytest.approx(epsilon, rel=1e-3)


@pytest.mark.parametrize(("name", "value"), [("anchor_coef", 5.0), ("initial_lambda", 0.9)])
def test_where_an_adapted_number_began_cannot_be_changed_later(name: str, value: float, tmp_path: Path):
    config = {"hidden": 4, "anchor_tau": 0.1, "anchor_coef": 1.0}
    with Trainer("mpo", ObservedActionReward(), config=config) as trainer:
        trainer.save(tmp_path / "run")
    with pytest.raises(ConfigError, match=name):
        Trainer.load(tmp_path / "run", env=ObservedActionReward(), config={name: value})
