"""Distributions against enumeration over all actions and against SciPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy import stats

from rlox.core.distributions import Categorical, Gaussian

several_shapes = pytest.mark.parametrize("nvec", [(3,), (2, 2), (2, 3), (4, 1, 2)])


def categorical(nvec: tuple[int, ...], batch: int = 5, scale: float = 1.0) -> Categorical:
    return Categorical(scale * jax.random.normal(jax.random.key(sum(nvec)), (batch, sum(nvec))), nvec)


def all_actions(nvec: tuple[int, ...]) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, nvec)))


def enumerate_probabilities(policy: Categorical) -> np.ndarray:
    """Return the joint probability ``(B, number of actions)`` of each of ``all_actions``."""
    logits = np.asarray(policy.logits, np.float64)
    parts = np.split(logits, np.cumsum(policy.nvec)[:-1], axis=1)
    marginals = [np.exp(part) / np.exp(part).sum(axis=1, keepdims=True) for part in parts]
    return np.stack(
        [np.prod([p[:, a] for p, a in zip(marginals, action, strict=True)], axis=0) for action in all_actions(policy.nvec)],
        axis=1,
    )


@several_shapes
def test_categorical_log_prob_is_that_of_the_product_of_softmaxes(nvec: tuple[int, ...]):
    policy = categorical(nvec)
    expected = np.log(enumerate_probabilities(policy))
    for i, action in enumerate(all_actions(nvec)):
        log_prob = policy.log_prob(jnp.tile(jnp.array(action), (5, 1)))
        np.testing.assert_allclose(log_prob, expected[:, i], rtol=1e-5, atol=1e-6)


@several_shapes
def test_categorical_entropy_is_the_sum_over_all_actions(nvec: tuple[int, ...]):
    policy = categorical(nvec)
    joint = enumerate_probabilities(policy)
    np.testing.assert_allclose(policy.entropy(), -(joint * np.log(joint)).sum(axis=1), rtol=1e-5, atol=1e-6)


@several_shapes
def test_categorical_mode_is_the_likeliest_action(nvec: tuple[int, ...]):
    policy = categorical(nvec)
    likeliest = [all_actions(nvec)[i] for i in enumerate_probabilities(policy).argmax(axis=1)]
    assert policy.mode().tolist() == [list(action) for action in likeliest]


@several_shapes
def test_categorical_samples_follow_the_probabilities(nvec: tuple[int, ...]):
    n = 4000
    logits = jnp.tile(categorical(nvec).logits[:1], (n, 1))
    samples = Categorical(logits, nvec).sample(jax.random.key(0)).tolist()
    counts = [samples.count(list(action)) for action in all_actions(nvec)]
    assert sum(counts) == n, "a choice that does not exist was drawn"
    expected = n * enumerate_probabilities(Categorical(logits[:1], nvec))[0]
    assert stats.chisquare(counts, expected * n / expected.sum()).pvalue > 1e-3


def test_categorical_stays_finite_where_a_choice_is_all_but_impossible():
    logits = jnp.array([[0.0, 1000.0, -1000.0, 0.0, 500.0]])
    action = jnp.array([[0, 0]])

    def total(logits: jax.Array) -> jax.Array:
        policy = Categorical(logits, (3, 2))
        return (policy.log_prob(action) + policy.entropy()).sum()

    value, grad = jax.value_and_grad(total)(logits)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_per_sample_numbers_have_one_axis(batch: int):
    discrete = categorical((3, 3, 3), batch)
    continuous = Gaussian(jnp.zeros((batch, 3)), jnp.ones(3))
    for policy in (discrete, continuous):
        action = policy.sample(jax.random.key(0))
        assert action.shape == policy.mode().shape == (batch, 3)
        assert policy.log_prob(action).shape == policy.entropy().shape == (batch,)


def test_gaussian_log_prob_is_scipys():
    mean, std = jax.random.normal(jax.random.key(0), (6, 3)), jnp.array([0.1, 1.0, 3.0])
    action = jax.random.uniform(jax.random.key(1), (6, 3), minval=-4, maxval=4)
    expected = stats.norm(np.asarray(mean), np.asarray(std)).logpdf(np.asarray(action)).sum(axis=1)
    np.testing.assert_allclose(Gaussian(mean, std).log_prob(action), expected, rtol=1e-5)


def test_gaussian_entropy_is_scipys():
    std = jnp.array([0.1, 1.0, 3.0])
    expected = stats.norm(0, np.asarray(std)).entropy().sum()
    np.testing.assert_allclose(Gaussian(jnp.zeros((4, 3)), std).entropy(), np.full(4, expected), rtol=1e-5)


def test_gaussian_samples_have_its_mean_and_std():
    n, mean, std = 20_000, jnp.array([-1.0, 2.0]), jnp.array([0.5, 2.0])
    samples = Gaussian(jnp.tile(mean, (n, 1)), std).sample(jax.random.key(0))
    np.testing.assert_allclose(samples.mean(axis=0), mean, atol=4 * float(std.max()) / n**0.5)
    np.testing.assert_allclose(samples.std(axis=0), std, rtol=0.03)


def test_gaussian_is_neither_squashed_nor_clipped():
    policy = Gaussian(jnp.array([[5.0]]), jnp.array([1.0]))
    assert policy.mode().tolist() == [[5.0]]
    assert float(policy.log_prob(jnp.array([[5.0]]))[0]) == pytest.approx(stats.norm.logpdf(0.0))


def test_gaussian_log_prob_is_finite_at_the_bounds_of_the_action_space():
    policy = Gaussian(jnp.zeros((2, 1)), jnp.array([0.05]))
    assert np.isfinite(policy.log_prob(jnp.array([[-1.0], [1.0]]))).all()


def test_an_action_of_the_wrong_shape_is_refused_by_the_annotations():
    with pytest.raises(TypeCheckError):
        Gaussian(jnp.zeros((4, 2)), jnp.ones(2)).log_prob(jnp.zeros((4, 1)))
