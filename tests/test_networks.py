"""Networks: the affine layer's own backward pass, the perceptron by hand, the actor's distributions."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlox.algorithms import ALGORITHMS
from rlox.algorithms.awr import AWRConfig
from rlox.core.distributions import Categorical, Gaussian
from rlox.core.layers import MLP, BatchNormMLP, affine
from rlox.core.networks import Actor, Critic
from rlox.core.state import TrainState
from rlox.core.update import init_state

AWR = ALGORITHMS["awr"]


def plain_affine(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    return x @ weight + bias


def numbers(*shape: int) -> jax.Array:
    return jnp.array(np.random.default_rng(0).normal(size=shape), jnp.float32)


def perceptron(*sizes: int, layer_norm: bool = False) -> MLP:
    return MLP(sizes, init="he", output_scale=None, layer_norm=layer_norm, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("batch", "n_in", "n_out"),
    [(1, 4, 3), (1, 3, 4), (1, 1, 1), (6, 5, 5), (6, 5, 2), (6, 5, 1), (6, 2, 5), (6, 1, 5), (3, 3, 3)],
)
def test_the_backward_pass_of_affine_is_that_of_the_product(batch: int, n_in: int, n_out: int):
    operands = numbers(batch, n_in), numbers(n_in, n_out), numbers(n_out)
    pull = numbers(batch, n_out)

    @jax.jit
    def both():
        results = []
        for function in (affine, plain_affine):
            out, backward = jax.vjp(function, *operands)
            results.append((out, *backward(pull)))
        return results

    for own, expected in zip(*both(), strict=True):
        assert own.shape == expected.shape
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-5)


def test_affine_is_differentiated_under_vmap():
    x, weights, bias = numbers(6, 5), numbers(3, 5, 2), numbers(2)

    @jax.jit
    def both():
        losses = [lambda w, f=function: (f(x, w, bias) ** 2).sum() for function in (affine, plain_affine)]
        return [jax.vmap(jax.grad(loss))(weights) for loss in losses]

    own, expected = both()
    np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_perceptron_is_affine_layers_with_relu_between_them(layer_norm: bool):
    network = perceptron(3, 8, 5, 2, layer_norm=layer_norm)
    x = numbers(7, 3)
    expected = np.asarray(x)
    for i, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        expected = expected @ np.asarray(weight) + np.asarray(bias)
        if i < 2:
            if layer_norm:
                centred = expected - expected.mean(axis=1, keepdims=True)
                expected = centred / np.sqrt(centred.var(axis=1, keepdims=True) + 1e-5)
            expected = np.maximum(expected, 0)
    np.testing.assert_allclose(jax.jit(MLP.__call__)(network, x), expected, rtol=1e-4, atol=1e-5)


def test_batch_normalisation_is_folded_into_the_layers():
    plain, rng = perceptron(3, 8, 5, 2), np.random.default_rng(1)
    network, x = BatchNormMLP(plain), numbers(7, 3)
    expected = np.asarray(x)
    for i, weight in enumerate(plain.weights):
        scale, offset, mean, std = rng.uniform(0.5, 2, size=(4, len(weight)))
        norm: Any = network.norms[i]
        moved = tuple(jnp.array(part, jnp.float32) for part in (scale, offset, mean, std**2))
        norm = eqx.tree_at(lambda one: (one.scale, one.offset, one.mean, one.variance), norm, moved)
        network = eqx.tree_at(lambda one, i=i: one.norms[i], network, norm)
        expected = np.maximum(expected, 0) if i else expected
        expected = scale * (expected - mean) / np.sqrt(std**2 + 1e-3) + offset
        expected = expected @ np.asarray(weight) + np.asarray(plain.biases[i])
    np.testing.assert_allclose(network(x), expected, rtol=1e-3, atol=1e-4)


def test_initial_weights_and_biases_have_the_documented_scale():
    network = perceptron(100, 80, 60)
    for weight, bias in zip(network.weights, network.biases, strict=True):
        n_in, values = len(weight), np.asarray(weight)
        assert values.std() == pytest.approx((2 / n_in) ** 0.5, rel=0.05)
        assert values.mean() == pytest.approx(0, abs=4 * float(values.std()) / values.size**0.5)
        assert 0.8 < np.abs(bias).max() * n_in**0.5 <= 1


@pytest.mark.parametrize("sizes", [(3, 1), (3, 7, 1), (3, 4, 9, 6, 2)])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_any_depth_and_width_fits_the_annotations(sizes: tuple[int, ...], layer_norm: bool):
    # The annotations of a tuple are checked on one entry, drawn at random.
    for _ in range(20):
        network = perceptron(*sizes, layer_norm=layer_norm)
        assert jax.eval_shape(MLP.__call__, network, numbers(4, 3)).shape == (4, sizes[-1])
        assert len(network.norms) == (len(sizes) - 2 if layer_norm else 0)


@pytest.mark.parametrize(
    ("settings", "widths"),
    [({}, [256, 256]), ({"hidden": 8}, [8, 8]), ({"hidden": (5, 6, 7)}, [5, 6, 7])],
)
def test_hidden_sets_the_widths_of_actor_and_critic(settings: dict, widths: list[int]):
    state = init_state(AWR, AWRConfig(**settings), 3, (4,), 1, seed=0)
    for network, n_out in ((state.actor.network, 4), (state.critic.network, 1)):
        assert [weight.shape for weight in network.weights] == list(zip([3, *widths], [*widths, n_out], strict=True))


def test_actor_and_critic_start_with_different_weights():
    state = initial_state(())
    assert not np.array_equal(state.actor.network.weights[0], state.critic.network.weights[0])


@pytest.mark.parametrize("batch", [1, 4])
def test_a_value_is_one_number_a_sample(batch: int):
    critic, obs = initial_state(()).critic, numbers(batch, 3)
    np.testing.assert_allclose(
        jax.jit(Critic.__call__)(critic, obs), jax.jit(MLP.__call__)(critic.network, obs).ravel()
    )


@functools.cache
def initial_state(nvec: tuple[int, ...]) -> TrainState:
    config = AWRConfig(hidden=8, initial_std=0.7, min_std=0.2)
    return init_state(AWR, config, 3, nvec, 2, seed=0)


def test_discrete_actors_are_categorical():
    policy = jax.jit(Actor.__call__)(initial_state((2, 5)).actor, numbers(4, 3))
    assert isinstance(policy, Categorical)
    assert policy.nvec == (2, 5)
    assert policy.logits.shape == (4, 7)


def test_continuous_actors_start_with_the_initial_std_in_every_state():
    actor, obs = initial_state(()).actor, numbers(4, 3)
    policy = jax.jit(Actor.__call__)(actor, obs)
    assert isinstance(policy, Gaussian)
    np.testing.assert_allclose(policy.std, [0.7, 0.7], rtol=1e-6)
    np.testing.assert_allclose(policy.mean, jax.jit(MLP.__call__)(actor.network, obs), rtol=1e-6)


def test_the_std_never_falls_below_its_floor():
    actor = eqx.tree_at(lambda actor: actor.log_std, initial_state(()).actor, jnp.full(2, -100.0))
    policy = jax.jit(Actor.__call__)(actor, numbers(4, 3))
    assert isinstance(policy, Gaussian)
    np.testing.assert_allclose(policy.std, [0.2, 0.2])


def test_a_fixed_std_is_no_parameter():
    state = init_state(AWR, AWRConfig(hidden=8, initial_std=0.4, learn_std=False), 3, (), 2, seed=0)
    policy = jax.jit(Actor.__call__)(state.actor, numbers(4, 3))
    assert isinstance(policy, Gaussian)
    np.testing.assert_allclose(policy.std, [0.4, 0.4])
    assert state.actor.log_std is None


def test_v_and_q_have_the_widths_of_the_settings():
    config: Any = ALGORITHMS["iql"].config(hidden=(6, 5))
    state = init_state(ALGORITHMS["iql"], config, 3, (4,), 1, seed=0)
    assert [weight.shape for weight in state.actor.network.weights] == [(3, 6), (6, 5), (5, 4)]
    assert [weight.shape for weight in state.critic.v.network.weights] == [(3, 6), (6, 5), (5, 1)]
    for network in state.critic.q.networks:
        assert [weight.shape for weight in network.weights] == [(3, 6), (6, 5), (5, 4)]


def test_as_many_q_functions_as_asked_start_with_different_weights():
    kind: Any = ALGORITHMS["awac"].config
    config = kind(hidden=8, n_critics=3)
    networks = init_state(ALGORITHMS["awac"], config, 3, (), 2, seed=0).critic.networks
    assert [network.weights[0].shape for network in networks] == [(5, 8)] * 3
    assert len({float(network.weights[0][0, 0]) for network in networks}) == 3


def test_glorot_weights_are_uniform_with_biases_of_zero_and_outputs_as_small_as_asked():
    config = AWRConfig(hidden=(200, 100), network_init="glorot", actor_output_scale=0.01)
    network = init_state(AWR, config, 50, (4,), 1, seed=0).actor.network
    for weight, limit in zip(network.weights, [(6 / 250) ** 0.5, (6 / 300) ** 0.5, 0.01], strict=True):
        assert 0.95 * limit < np.abs(weight).max() <= limit * 1.000001
        assert np.asarray(weight).std() == pytest.approx(limit / 3**0.5, rel=0.1)
    assert all(not np.any(bias) for bias in network.biases)


def test_the_critics_network_predicts_in_units_of_the_value_scale():
    plain, scaled = (init_state(AWR, AWRConfig(hidden=8, value_scale=k), 3, (), 2, seed=0).critic for k in (1.0, 100.0))
    obs = numbers(4, 3)
    np.testing.assert_allclose(jax.jit(Critic.__call__)(scaled, obs), 100 * jax.jit(Critic.__call__)(plain, obs))


@pytest.mark.parametrize("nvec", [(), (2, 3)])
def test_the_values_of_several_actions_are_those_of_each(nvec: tuple[int, ...]):
    kind: Any = ALGORITHMS["mpo"].config
    config = kind(hidden=(9, 8), value_scale=2.0)
    critic = init_state(ALGORITHMS["mpo"], config, 3, nvec, 2, seed=0).critic
    rng = np.random.default_rng(0)
    obs = jnp.array(rng.normal(size=(5, 3)), jnp.float32)
    action = jnp.array(rng.integers(2, size=(4, 5, 2)) if nvec else 2 * rng.normal(size=(4, 5, 2)))
    action = action if nvec else action.astype(jnp.float32)
    found = jax.jit(type(critic).of_several)(critic, obs, action)
    each = np.stack([critic(obs, one) for one in action], axis=1)
    np.testing.assert_allclose(found, each, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "n"), [("awr", 2), ("iql", 4), ("mpo", 3)])
def test_layer_normalisation_reaches_actor_and_critics(name: str, n: int):
    kind: Any = ALGORITHMS[name].config
    config = kind(hidden=(6, 5), layer_norm=True, **({"batch_norm": False} if name == "mpo" else {}))
    state = init_state(ALGORITHMS[name], config, 3, (4,), 1, seed=0)
    parts = jax.tree.leaves((state.actor, state.critic), is_leaf=lambda part: isinstance(part, MLP))
    assert [len(part.norms) for part in parts if isinstance(part, MLP)] == [2] * n
