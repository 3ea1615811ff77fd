"""Weights: the exponential and its clamp, whitening, and the effective sample size."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlox.core.losses import effective_sample_size, exponential_weight, whiten

advantages = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=8)
betas = st.floats(0.01, 100)


@pytest.mark.parametrize("beta", [0.05, 1.0, 10.0])
def test_beta_divides_the_advantage(beta: float):
    advantage = jnp.array([-1.0, 0.0, 0.1])
    expected = np.exp(np.array([-1.0, 0.0, 0.1]) / beta)
    np.testing.assert_allclose(exponential_weight(advantage, beta, 1e9)[0], expected, rtol=1e-5)


def test_the_weight_is_clamped_and_not_the_advantage():
    weight = exponential_weight(jnp.array([2.9, 3.1, 19.0]), 1.0, 20.0)[0]
    np.testing.assert_allclose(weight, [np.exp(2.9), 20.0, 20.0], rtol=1e-6)


def test_an_exponential_that_overflows_is_clamped():
    assert exponential_weight(jnp.array([1e6]), 0.01, 20.0)[0].tolist() == [20.0]


@pytest.mark.long
@given(advantages, betas)
def test_weights_lie_between_zero_and_the_clamp_in_the_order_of_the_advantages(advantage: list[float], beta: float):
    weight = np.asarray(exponential_weight(jnp.array(sorted(advantage)), beta, 20.0)[0])
    assert (weight >= 0).all()
    assert (weight <= 20).all()
    assert (np.diff(weight) >= 0).all()


def test_whitened_advantages_have_mean_zero_and_std_one():
    white = np.asarray(whiten(jnp.array([3.0, 5.0, 10.0, -2.0])))
    assert white.mean() == pytest.approx(0, abs=1e-6)
    assert white.std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("advantage", [[7.0, 7.0, 7.0], [7.0]])
def test_equal_advantages_are_whitened_to_zero(advantage: list[float]):
    assert whiten(jnp.array(advantage)).tolist() == [0.0] * len(advantage)


def test_equal_weights_use_the_whole_batch():
    assert float(effective_sample_size(jnp.full(8, 3.0))) == pytest.approx(1.0)


def test_a_single_weight_uses_one_sample():
    assert float(effective_sample_size(jnp.array([0.0, 20.0, 0.0, 0.0]))) == pytest.approx(1 / 4)


def test_the_effective_sample_size_of_weights_that_are_all_zero_is_zero():
    assert float(effective_sample_size(jnp.zeros(4))) == 0.0


@pytest.mark.parametrize("scale", [1e-16, 1e-6, 1.0, 1e6])
def test_the_effective_sample_size_does_not_depend_on_the_scale_of_the_weights(scale: float):
    weight = jnp.array([1.0, 2.0, 3.0, 4.0])
    assert float(effective_sample_size(scale * weight)) == pytest.approx(100 / 120, rel=1e-4)
