"""Distributions against enumeration over all actions and against SciPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy import stats

from rlox.core.distributions import Categorical, Gaussian

categorical_log_prob = jax.jit(Categorical.log_prob)
gaussian_log_prob = jax.jit(Gaussian.log_prob)
several_shapes = pytest.mark.parametrize("nvec", [(3,), (2, 2), (2, 3), (4, 1, 2)])


def categorical(nvec: tuple[int, ...], batch: int = 5) -> Categorical:
    logits = np.random.default_rng(sum(nvec)).normal(size=(batch, sum(nvec)))
    return Categorical(jnp.array(logits, jnp.float32), nvec)


def all_actions(nvec: tuple[int, ...]) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, nvec)))


def enumerate_probabilities(policy: Categorical) -> np.ndarray:
    """Return the joint probability ``(B, number of actions)`` of each of ``all_actions``."""
    logits = np.asarray(policy.logits, np.float64)
    parts = np.split(logits, np.cumsum(policy.nvec)[:-1], axis=1)
    marginals = [np.exp(part) / np.exp(part).sum(axis=1, keepdims=True) for part in parts]
    return np.stack(
        [
            np.prod([p[:, a] for p, a in zip(marginals, action, strict=True)], axis=0)
            for action in all_actions(policy.nvec)
        ],
        axis=1,
    )


@several_shapes
def test_categorical_log_prob_is_that_of_the_product_of_softmaxes(nvec: tuple[int, ...]):
    policy = categorical(nvec)
    expected = np.log(enumerate_probabilities(policy))
    for i, action in enumerate(all_actions(nvec)):
        log_prob = categorical_log_prob(policy, np.tile(action, (5, 1)))
        np.testing.assert_allclose(log_prob, expected[:, i], rtol=1e-5, atol=1e-6)


@several_shapes
def test_categorical_entropy_is_the_sum_over_all_actions(nvec: tuple[int, ...]):
    policy = categorical(nvec)
    joint = enumerate_probabilities(policy)
    np.testing.assert_allclose(
        jax.jit(Categorical.entropy)(policy), -(joint * np.log(joint)).sum(axis=1), rtol=1e-5, atol=1e-6
    )


@several_shapes
def test_categorical_mode_is_the_likeliest_action(nvec: tuple[int, ...]):
    policy = categorical(nvec)
    likeliest = [all_actions(nvec)[i] for i in enumerate_probabilities(policy).argmax(axis=1)]
    assert jax.jit(Categorical.mode)(policy).tolist() == [list(action) for action in likeliest]


@several_shapes
def test_categorical_samples_follow_the_probabilities(nvec: tuple[int, ...]):
    n = 4000
    one = categorical(nvec, batch=1)
    samples = jax.jit(Categorical.sample)(Categorical(jnp.tile(one.logits, (n, 1)), nvec), jax.random.key(0)).tolist()
    counts = [samples.count(list(action)) for action in all_actions(nvec)]
    assert sum(counts) == n, "a choice that does not exist was drawn"
    expected = n * enumerate_probabilities(one)[0]
    assert stats.chisquare(counts, expected * n / expected.sum()).pvalue > 1e-3


def test_categorical_stays_finite_where_a_choice_is_all_but_impossible():
    logits = jnp.array([[0.0, 1000.0, -1000.0, 0.0, 500.0]])
    action = jnp.array([[0, 0]])

    def total(logits: jax.Array) -> jax.Array:
        policy = Categorical(logits, (3, 2))
        return (policy.log_prob(action) + policy.entropy()).sum()

    value, grad = jax.jit(jax.value_and_grad(total))(logits)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_per_sample_numbers_have_one_axis(batch: int):
    discrete = categorical((3, 3, 3), batch)
    continuous = Gaussian(jnp.zeros((batch, 3)), jnp.ones(3))
    for policy in (discrete, continuous):
        action = jax.eval_shape(policy.sample, jax.random.key(0))
        assert action.shape == jax.eval_shape(policy.mode).shape == (batch, 3)
        assert jax.eval_shape(policy.log_prob, action).shape == jax.eval_shape(policy.entropy).shape == (batch,)


def test_gaussian_log_prob_is_scipys():
    rng = np.random.default_rng(0)
    mean, std, action = rng.normal(size=(6, 3)), np.array([0.1, 1.0, 3.0]), rng.uniform(-4, 4, size=(6, 3))
    policy = Gaussian(jnp.array(mean, jnp.float32), jnp.array(std, jnp.float32))
    log_prob = gaussian_log_prob(policy, jnp.array(action, jnp.float32))
    np.testing.assert_allclose(log_prob, stats.norm.logpdf(action, mean, std).sum(axis=1), rtol=1e-5)


def test_gaussian_entropy_is_scipys():
    std = jnp.array([0.1, 1.0, 3.0])
    expected = stats.norm(0, np.asarray(std)).entropy().sum()
    np.testing.assert_allclose(Gaussian(jnp.zeros((4, 3)), std).entropy(), np.full(4, expected), rtol=1e-5)


def test_gaussian_samples_have_its_mean_and_std():
    n, mean, std = 20_000, jnp.array([-1.0, 2.0]), jnp.array([0.5, 2.0])
    samples = Gaussian(jnp.tile(mean, (n, 1)), std).sample(jax.random.key(0))
    np.testing.assert_allclose(samples.mean(axis=0), mean, atol=4 * float(std.max()) / n**0.5)
    np.testing.assert_allclose(samples.std(axis=0), std, rtol=0.03)
    assert abs(np.corrcoef(np.asarray(samples).T)[0, 1]) < 0.03


def test_gaussian_is_neither_squashed_nor_clipped():
    policy = Gaussian(jnp.array([[5.0]]), jnp.array([1.0]))
    assert policy.mode().tolist() == [[5.0]]
    assert float(gaussian_log_prob(policy, jnp.array([[5.0]]))[0]) == pytest.approx(stats.norm.logpdf(0.0))


def test_gaussian_log_prob_is_finite_at_the_bounds_of_the_action_space():
    policy = Gaussian(jnp.zeros((2, 1)), jnp.array([0.05]))
    assert np.isfinite(gaussian_log_prob(policy, jnp.array([[-1.0], [1.0]]))).all()


def test_means_outside_the_action_range_are_penalised_on_both_sides():
    policy = Gaussian(jnp.array([[-2.0, 0.0], [0.0, 1.0], [2.0, -3.0]]), jnp.ones(2))
    assert policy.penalty(10.0, 7.0).tolist() == [5.0, 0.0, 25.0]


def test_large_logits_are_penalised():
    policy = Categorical(jnp.array([[1.0, -2.0, 0.0], [0.0, 0.0, 3.0]]), (3,))
    assert policy.penalty(10.0, 4.0).tolist() == [10.0, 18.0]


def test_an_action_of_the_wrong_shape_is_refused_by_the_annotations():
    with pytest.raises(TypeCheckError):
        Gaussian(jnp.zeros((4, 1)), jnp.ones(1)).log_prob(jnp.zeros(4))
