"""Estimates of a policy before it runs, against values that are known."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from scipy import stats

from rlox import Dataset, Trainer
from rlox.core.distributions import Categorical, Gaussian
from rlox.core.fqe import FQEConfig
from rlox.core.transition import AT_BOUND, Transition
from rlox.errors import ConfigError, DatasetError
from rlox.policy.estimates import (
    Actions,
    behavior_statistics,
    discounted_returns,
    episode_numbers,
    fitted_q_evaluation,
    policy_actions,
    weighted_importance_sampling,
)

GAMMA = 0.9
SMALL = FQEConfig(gamma=GAMMA, hidden=16, n_critics=5, learning_rate=3e-3)


def chain(n_episodes: int = 300, length: int = 3) -> Transition:
    """Return episodes of a random agent that is paid 1 for every action 1; the observation is the step's number."""
    rng = np.random.default_rng(0)
    age = np.tile(np.arange(length), n_episodes)
    action = rng.integers(2, size=len(age))
    terminated = age == length - 1
    obs = age[:, None].astype(np.float32)
    return Transition(
        obs, action[:, None].astype(np.int32), action.astype(np.float32), obs + 1, terminated, np.zeros_like(terminated)
    )


def policy(probability_of_1: float) -> Any:
    """Return a policy as both choices, so that every test compiles the same program."""

    def act(obs: Any) -> Actions:
        choices = np.broadcast_to(np.array([0, 1], np.int32)[:, None, None], (2, len(obs), 1))
        probability = np.array([1 - probability_of_1, probability_of_1], np.float32)
        return Actions(choices, np.repeat(probability[:, None], len(obs), axis=1))

    return act


@pytest.mark.long
@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_fitted_q_evaluation_finds_the_value_of_a_policy_that_the_data_are_not_of(probability: float):
    estimate, td_error = fitted_q_evaluation(chain(), policy(probability), (2,), SMALL, gradient_steps=800, seed=0)
    assert estimate.value == pytest.approx(probability * (1 + GAMMA + GAMMA**2), abs=0.1)
    assert estimate.low <= estimate.value <= estimate.high
    assert td_error < 0.2


def test_returns_of_episodes_are_discounted_from_their_own_start():
    steps = chain(4)
    steps.truncated[7] = True
    episode = episode_numbers(steps.terminated, steps.truncated)
    assert episode.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 4, 4]
    expected = [
        sum(GAMMA**t * r for t, (_, r) in enumerate(rows))
        for _, rows in itertools.groupby(zip(episode, steps.reward, strict=True), key=lambda row: row[0])
    ]
    np.testing.assert_allclose(discounted_returns(steps.reward, episode, GAMMA), expected)


def test_weighted_importance_sampling_weighs_episodes_by_the_product_of_their_ratios():
    reward = np.array([1.0, 0.0, 2.0, 5.0])
    episode, ratio = np.array([0, 0, 1, 2], np.int32), np.array([2.0, 0.5, 3.0, 0.0])
    with np.errstate(divide="ignore"):
        estimate, share = weighted_importance_sampling(reward, episode, np.log(ratio), GAMMA, 0)
    assert estimate.value == pytest.approx((1 * 1 + 3 * 2) / 4)
    assert share == pytest.approx((1 + 3) ** 2 / (3 * (1 + 9)))
    assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 2.0


def test_where_no_episode_speaks_for_the_policy_the_weighted_estimate_is_nan():
    estimate, share = weighted_importance_sampling(
        np.ones(2), np.array([0, 1], np.int32), np.full(2, -np.inf), GAMMA, 0
    )
    assert np.isnan(estimate).all()
    assert share == 0


@pytest.mark.long
@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (0.9, 0.3), (-2.0, 1.0)])
def test_the_probability_of_clipped_actions_adds_up_to_one(mean: float, std: float):
    grid = np.linspace(-1 + 2 * AT_BOUND, 1 - 2 * AT_BOUND, 2_001)
    policy = Gaussian(jnp.full((len(grid), 1), mean), jnp.asarray([std]))
    inside = np.exp(policy.taken_log_prob(jnp.asarray(grid, jnp.float32)[:, None]))
    ends = Gaussian(jnp.full((2, 1), mean), jnp.asarray([std])).taken_log_prob(jnp.array([[-1.0], [1.0]]))
    assert np.trapezoid(inside, grid) + np.exp(ends).sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.long
def test_choices_are_taken_with_their_own_probabilities():
    policy = Categorical(jnp.log(jnp.array([[0.2, 0.8, 0.1, 0.6, 0.3], [0.5, 0.5, 0.3, 0.3, 0.4]])), (2, 3))
    found = policy.taken_log_prob(jnp.array([[1, 1], [0, 2]], jnp.int32))
    np.testing.assert_allclose(np.exp(found), [0.8 * 0.6, 0.5 * 0.4], rtol=1e-5)


@pytest.mark.long
def test_actions_at_a_bound_are_taken_with_the_probability_of_the_tail_beyond_it():
    policy = Gaussian(jnp.array([[0.5, -0.5]]), jnp.array([0.5, 0.25]))
    found = policy.taken_log_prob(jnp.array([[1.0, -1.0]]))
    assert float(np.exp(found[0])) == pytest.approx(stats.norm.cdf(-1) * stats.norm.cdf(-2), rel=1e-4)


def bandit(kind: str) -> Dataset:
    """Return one-step episodes of a uniform agent, with its log-probabilities."""
    rng = np.random.default_rng(0)
    discrete = kind == "discrete"
    action = rng.integers(2, size=400) if discrete else rng.uniform(-3, 3, size=(400, 1)).astype(np.float32)
    columns = {
        "observations": rng.normal(size=(400, 2)).astype(np.float32), "actions": action,
        "rewards": (action == 1).astype(np.float32) if discrete else -np.abs(action[:, 0] - 1),
        "terminals": np.ones(400, bool), "action_log_probs": np.full(400, -np.log(2 if discrete else 6)),
    }  # fmt: skip
    space = spaces.Discrete(2) if discrete else spaces.Box(-3, 3, (1,))
    return Dataset.from_arrays(columns, action_space=space)


def test_log_prob_is_per_unit_of_the_environment():
    trainer = Trainer("bc", dataset=bandit("continuous"), config={"hidden": 8, "initial_std": 0.5})
    found = trainer.log_prob(np.zeros((2, 2), np.float32), np.array([[0.0], [3.0]]))
    # The untrained mean is near 0, and the std is half of half the range, 1.5.
    assert found[0] == pytest.approx(-np.log(1.5 * np.sqrt(2 * np.pi)), abs=0.05)
    assert found[1] == pytest.approx(np.log(0.0228), abs=0.2)


@pytest.mark.long
@pytest.mark.parametrize(("kind", "deterministic"), [("discrete", True), ("continuous", False)])
def test_both_estimates_agree_on_a_bandit(kind: str, deterministic: bool):
    data = bandit(kind)
    trainer = Trainer("awr", dataset=data, config={"hidden": 16, "batch_size": 64, "learning_rate": 5e-3, "beta": 0.3})
    trainer.train_offline(300, progress=False)
    found = trainer.evaluate_offline(data, deterministic=deterministic, gradient_steps=250, progress=False)
    assert found["fqe/value"] == pytest.approx(found["wis/value"], abs=0.15)
    assert found["fqe/value"] > found["data/value"] + 0.2
    assert 0 < found["wis/effective_sample_size"] <= 1
    assert 0 < found["weight/effective_sample_size"] <= 1


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["bc", "marwil", "awac"])
def test_every_algorithm_is_evaluated_and_cloning_is_nearest_to_the_data(algorithm: str):
    data = bandit("continuous")
    trainer = Trainer(algorithm, dataset=data, config={"hidden": 8, "batch_size": 32})
    found = trainer.evaluate_offline(data, gradient_steps=5, progress=False)
    assert "wis/value" not in found  # a continuous mode has no ratio
    assert found["behavior/action_distance"] > 0
    assert (found["weight/effective_sample_size"] == pytest.approx(1)) == (algorithm == "bc")


@pytest.mark.long
def test_the_first_states_are_valued_by_the_policy_s_own_actions_there_and_later():
    def at_step(age: int) -> Any:
        def act(obs: Any) -> Actions:
            actions = policy(0.0)(obs)
            probability = np.stack([obs[:, 0] != age, obs[:, 0] == age]).astype(np.float32)
            return Actions(actions.action, probability)

        return act

    for age in (0, 1):
        estimate, _ = fitted_q_evaluation(chain(), at_step(age), (2,), SMALL, gradient_steps=800, seed=0)
        assert estimate.value == pytest.approx(GAMMA**age, abs=0.1)


@pytest.mark.long
def test_the_interval_is_as_wide_as_chance_makes_the_value():
    # The mean of n rewards of variance 1; the data's actions are half of each kind, and so are the policy's.
    n, settings = 200, FQEConfig(gamma=GAMMA, hidden=8, n_critics=20, learning_rate=1e-2)
    steps = chain(n, length=1)
    steps = steps._replace(reward=np.random.default_rng(1).normal(size=n).astype(np.float32))
    estimate, _ = fitted_q_evaluation(steps, policy(0.5), (2,), settings, gradient_steps=300, seed=0)
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 / np.sqrt(n), rel=0.5)


def test_the_interval_of_weighted_importance_sampling_is_the_bootstrap_s():
    n = 400
    reward = np.random.default_rng(0).normal(size=n)
    estimate, share = weighted_importance_sampling(reward, np.arange(n, dtype=np.int32), np.zeros(n), GAMMA, 0)
    assert (estimate.value, share) == pytest.approx((reward.mean(), 1))
    half = 1.96 * reward.std() / np.sqrt(n)
    assert (estimate.low, estimate.high) == pytest.approx(
        (estimate.value - half, estimate.value + half), abs=0.15 * half
    )


def test_the_interval_of_the_weighted_estimate_is_of_episodes_that_have_a_weight():
    log_ratio = np.where(np.arange(20) == 7, 0.0, -np.inf)
    estimate, share = weighted_importance_sampling(
        np.full(20, -100.0), np.arange(20, dtype=np.int32), log_ratio, GAMMA, 0
    )
    assert estimate == (-100, -100, -100)
    assert share == pytest.approx(1 / 20)


def test_extreme_ratios_leave_the_weighted_estimate_finite():
    log_ratio = np.array([2000.0, 1999.0, -2000.0])
    estimate, share = weighted_importance_sampling(
        np.array([1.0, 2.0, 3.0]), np.arange(3, dtype=np.int32), log_ratio, GAMMA, 0
    )
    second = np.exp(-1)
    assert estimate.value == pytest.approx((1 + 2 * second) / (1 + second))
    assert share == pytest.approx((1 + second) ** 2 / (3 * (1 + second**2)))


def test_the_distance_from_the_data_is_that_of_actions_as_they_are_taken():
    data = bandit("continuous")
    trainer = Trainer("bc", dataset=data, config={"hidden": 8, "actor_output_scale": 10.0})
    obs, action = data.columns["observations"][:], data.columns["actions"][:]
    taken = trainer.predict(obs)
    assert (np.abs(taken) == 3).mean() > 0.2, "no mode is beyond a bound"
    policy: Any = trainer.policy
    found = behavior_statistics(policy, data.transitions())
    assert found["behavior/action_distance"] == pytest.approx(np.abs(taken - action).mean() / 3, rel=1e-5)
    per_unit = trainer.log_prob(obs, action) + np.log(3)
    assert found["behavior/log_prob"] == pytest.approx(per_unit.mean(), rel=1e-4)


@pytest.mark.long
def test_choices_are_compared_component_by_component():
    rng = np.random.default_rng(0)
    action = rng.integers(0, [2, 3], size=(60, 2))
    columns = {"observations": rng.normal(size=(60, 2)), "actions": action, "rewards": np.zeros(60)}
    data = Dataset.from_arrays({**columns, "terminals": np.ones(60)}, action_space=spaces.MultiDiscrete([2, 3]))
    trainer = Trainer("bc", dataset=data, config={"hidden": 8, "actor_output_scale": 1.0})
    differs = trainer.predict(data.columns["observations"][:]) != action
    assert 0.1 < differs.mean() < 0.9
    policy: Any = trainer.policy
    found = behavior_statistics(policy, data.transitions())
    assert found["behavior/action_distance"] == pytest.approx(differs.mean())


@pytest.mark.long
@pytest.mark.parametrize(("kind", "deterministic"), [("discrete", True), ("continuous", False)])
def test_episodes_are_weighted_by_the_policy_s_and_the_data_s_probabilities(kind: str, deterministic: bool):
    data, rng = bandit(kind), np.random.default_rng(1)
    trainer = Trainer("bc", dataset=data, config={"hidden": 8, "actor_output_scale": 1.0, "gamma": GAMMA})
    obs, action = data.columns["observations"][:], data.columns["actions"][:]
    log_mu, reward = np.log(rng.uniform(0.2, 0.9, 400)), rng.normal(size=400).astype(np.float32)
    # Episodes of one, of two and of three steps.
    starts = np.flatnonzero(np.isin(np.arange(400) % 6, (0, 1, 3)))
    ends = np.isin(np.arange(400), [*starts[1:] - 1, 399])
    columns = {**data.columns, "action_log_probs": log_mu, "terminals": ends, "rewards": reward}
    columns["next_observations"] = obs
    del columns["timeouts"]
    logged = Dataset.from_arrays(columns, action_space=data.action_space)
    found = trainer.evaluate_offline(logged, deterministic=deterministic, gradient_steps=1, progress=False)
    with np.errstate(divide="ignore"):
        log_pi = np.log(trainer.predict(obs) == action) if deterministic else trainer.log_prob(obs, action)
    weight = np.exp(np.add.reduceat(log_pi - log_mu, starts))
    assert len(np.unique(weight)) > 50
    returns = np.array([part @ GAMMA ** np.arange(len(part)) for part in np.split(reward, starts[1:])])
    assert found["wis/value"] == pytest.approx((weight * returns).sum() / weight.sum(), rel=1e-3)
    assert found["data/value"] == pytest.approx(returns.mean(), rel=1e-4)


@pytest.mark.long
def test_a_part_of_an_episode_is_no_episode():
    n, rng = 100, np.random.default_rng(2)
    columns = {
        "observations": rng.normal(size=(3 * n + 5, 2)).astype(np.float32),
        "actions": rng.integers(2, size=3 * n + 5),
        "rewards": np.ones(3 * n + 5, np.float32),
        "terminals": np.arange(3 * n + 5) % n == n - 1,
        "action_log_probs": np.full(3 * n + 5, np.log(0.5)),
    }
    data = Dataset.from_arrays(columns, action_space=spaces.Discrete(2))
    trainer = Trainer("bc", dataset=data, config={"hidden": 8, "gamma": 1.0})
    for logged in (data, data[n // 2 :]):
        found = trainer.evaluate_offline(logged, deterministic=False, gradient_steps=1, progress=False)
        assert found["data/value"] == pytest.approx(n)
        assert found["wis/value"] == pytest.approx(n)


def test_a_cut_beginning_is_learned_from_and_is_no_first_state(monkeypatch: pytest.MonkeyPatch):
    tail = Transition(*(column[2:] for column in chain(12)))

    def value(**how: Any) -> Any:
        return fitted_q_evaluation(tail, policy(1.0), (2,), SMALL, gradient_steps=800, seed=0, **how)[0]

    found = value(cut=True)
    assert found.value == pytest.approx(1 + GAMMA + GAMMA**2, abs=0.06)
    assert value().value < found.value - 0.1
    given: dict[str, Any] = {}
    monkeypatch.setattr("rlox.policy.estimates.fitted_q_evaluation", lambda *_, **how: given.update(how) or (found, 0))
    data = bandit("discrete")
    columns = {**data.columns, "terminals": np.arange(len(data)) % 2 == 1}
    data = Dataset.from_arrays(columns, action_space=data.action_space)
    trainer = Trainer("bc", dataset=data, config={"hidden": 8})
    for logged, cut in ((data, False), (data[1:], True)):
        trainer.evaluate_offline(logged, gradient_steps=1, progress=False)
        assert given["cut"] is cut


@pytest.mark.parametrize("n", [1, 2])
def test_of_a_cut_episode_and_one_other_the_value_is_finite(n: int):
    tail = Transition(*(column[2:] for column in chain(n)))
    found, _ = fitted_q_evaluation(tail, policy(1.0), (2,), SMALL, gradient_steps=1, seed=0, cut=True)
    assert np.isfinite(found).all()


@pytest.mark.long
def test_a_policy_is_asked_in_pieces_about_every_step(monkeypatch: pytest.MonkeyPatch):
    trainer = Trainer("bc", dataset=bandit("discrete"), config={"hidden": 8, "actor_output_scale": 1.0})
    obs = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    monkeypatch.setattr("rlox.policy.estimates.PIECE", 7)
    policy: Any = trainer.policy
    modes = policy_actions(policy, True, 0)(obs)
    assert modes.action[0, :, 0].tolist() == trainer.predict(obs).tolist()
    assert modes.probability.tolist() == [[1] * 20]
    support = policy_actions(policy, False, 0)(obs)
    assert support.action[:, :, 0].tolist() == [[0] * 20, [1] * 20]
    np.testing.assert_allclose(np.log(support.probability[1]), trainer.log_prob(obs, np.ones(20, int)), atol=1e-5)


def test_bad_input_is_named():
    trainer = Trainer("bc", dataset=bandit("discrete"), config={"hidden": 8})
    with pytest.raises(ConfigError, match="gradient_steps=0"):
        trainer.evaluate_offline(bandit("discrete"), gradient_steps=0)
    wrong = {**bandit("discrete").columns, "actions": np.zeros((400, 3), int)}
    with pytest.raises(DatasetError, match=r"do not fit the policy, which takes .* an action has shape \(3,\)"):
        trainer.evaluate_offline(wrong)


@pytest.mark.long
def test_the_share_of_the_data_in_use_is_that_of_training():
    rng, name = np.random.default_rng(0), "weight/effective_sample_size"
    obs, after = rng.normal([300, -5], [10, 1], (2, 400, 2)).astype(np.float32)
    table = {"observations": obs, "next_observations": after, "actions": np.arange(400) % 2}
    table |= {"rewards": rng.normal(size=400), "terminals": np.zeros(400), "timeouts": np.ones(400)}
    data = Dataset.from_arrays(table)
    config = {"hidden": 8, "batch_size": 4096, "learning_rate": 1e-30, "normalize_obs": True}
    trainer = Trainer("awr", dataset=data, config=config)
    wanted = trainer.train_offline(1, progress=False)[name]
    found = trainer.evaluate_offline(data, gradient_steps=1, progress=False)[name]
    assert found == pytest.approx(wanted, rel=0.1)
