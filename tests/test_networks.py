"""Networks: the affine layer's own backward pass, the perceptron by hand, the actor's distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlox.algorithms.awr import AWRConfig
from rlox.core.distributions import Categorical, Gaussian
from rlox.core.networks import MLP, Actor, affine, value
from rlox.core.update import init_state

KEY = jax.random.key(0)


def plain_affine(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    return x @ weight + bias


def affine_operands(batch: int, n_in: int, n_out: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    keys = jax.random.split(KEY, 3)
    shapes = ((batch, n_in), (n_in, n_out), (n_out,))
    x, weight, bias = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    return x, weight, bias


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("batch", "n_in", "n_out"),
    [(1, 4, 3), (1, 3, 4), (1, 1, 1), (6, 5, 5), (6, 5, 2), (6, 5, 1), (6, 2, 5), (6, 1, 5), (3, 3, 3)],
)
def test_the_backward_pass_of_affine_is_that_of_the_product(batch: int, n_in: int, n_out: int, compiled: bool):
    operands = affine_operands(batch, n_in, n_out)
    pull = jnp.sin(jnp.arange(batch * n_out, dtype=jnp.float32)).reshape(batch, n_out)

    def value_and_gradients(function):
        def run(operands, pull):
            out, backward = jax.vjp(function, *operands)
            return out, backward(pull)

        return (jax.jit(run) if compiled else run)(operands, pull)

    out, gradients = value_and_gradients(affine)
    expected_out, expected_gradients = value_and_gradients(plain_affine)
    np.testing.assert_allclose(out, expected_out, rtol=1e-5, atol=1e-6)
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        assert gradient.shape == expected.shape
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_affine_is_differentiated_under_vmap():
    x, weight, bias = affine_operands(6, 5, 2)
    weights = jnp.stack([weight, 2 * weight])

    def gradient(function):
        return jax.vmap(jax.grad(lambda w: (function(x, w, bias) ** 2).sum()))(weights)

    np.testing.assert_allclose(gradient(affine), gradient(plain_affine), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_perceptron_is_affine_layers_with_relu_between_them(layer_norm: bool):
    network = MLP((3, 8, 5, 2), layer_norm=layer_norm, key=KEY)
    x = np.asarray(jax.random.normal(KEY, (7, 3)))
    expected = x
    for i, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        expected = expected @ np.asarray(weight) + np.asarray(bias)
        if i < 2:
            if layer_norm:
                centred = expected - expected.mean(axis=1, keepdims=True)
                expected = centred / np.sqrt(centred.var(axis=1, keepdims=True) + 1e-5)
            expected = np.maximum(expected, 0)
    np.testing.assert_allclose(network(jnp.array(x)), expected, rtol=1e-4, atol=1e-5)


def test_initial_weights_and_biases_fill_the_documented_interval():
    network = MLP((100, 50, 40), layer_norm=False, key=KEY)
    for weight, bias in zip(network.weights, network.biases, strict=True):
        bound = len(weight) ** -0.5
        assert np.abs(weight).max() == pytest.approx(bound, rel=0.02)
        assert 0.8 * bound < np.abs(bias).max() <= bound
        assert np.asarray(weight).std() == pytest.approx(bound / 3**0.5, rel=0.05)


@pytest.mark.parametrize("sizes", [(3, 1), (3, 7, 1), (3, 4, 9, 6, 2)])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_any_depth_and_width_fits_the_annotations(sizes: tuple[int, ...], layer_norm: bool):
    # The annotations of a tuple are checked on one entry, drawn at random.
    for seed in range(10):
        network = MLP(sizes, layer_norm=layer_norm, key=jax.random.key(seed))
        assert network(jnp.zeros((4, 3))).shape == (4, sizes[-1])
        assert len(network.norms) == (len(sizes) - 2 if layer_norm else 0)


@pytest.mark.parametrize(
    ("settings", "widths"),
    [({}, [256, 256]), ({"hidden": 8}, [8, 8]), ({"hidden": 8, "hidden_sizes": (5, 6, 7)}, [5, 6, 7])],
)
def test_hidden_and_hidden_sizes_set_the_widths_of_actor_and_critic(settings: dict, widths: list[int]):
    state = init_state(AWRConfig(**settings), 3, (4,), 1, KEY)
    for network, n_out in ((state.actor.network, 4), (state.critic, 1)):
        assert [weight.shape for weight in network.weights] == list(zip([3, *widths], [*widths, n_out], strict=True))


def test_actor_and_critic_start_with_different_weights():
    state = init_state(AWRConfig(hidden=8), 3, (), 1, KEY)
    assert not np.array_equal(state.actor.network.weights[0], state.critic.weights[0])


@pytest.mark.parametrize("batch", [1, 4])
def test_a_value_is_one_number_a_sample(batch: int):
    critic = MLP((3, 8, 1), layer_norm=False, key=KEY)
    obs = jax.random.normal(KEY, (batch, 3))
    np.testing.assert_array_equal(value(critic, obs), critic(obs).ravel())


def test_discrete_actors_are_categorical():
    actor: Actor = init_state(AWRConfig(hidden=8), 3, (2, 5), 2, KEY).actor
    policy = actor(jnp.ones((4, 3)))
    assert isinstance(policy, Categorical)
    assert policy.nvec == (2, 5)
    assert policy.logits.shape == (4, 7)


def test_continuous_actors_start_with_the_initial_std_in_every_state():
    actor = init_state(AWRConfig(hidden=8, initial_std=0.7, min_std=0.2), 3, (), 2, KEY).actor
    policy = actor(jnp.ones((4, 3)))
    assert isinstance(policy, Gaussian)
    np.testing.assert_allclose(policy.std, [0.7, 0.7], rtol=1e-6)
    np.testing.assert_array_equal(policy.mean, actor.network(jnp.ones((4, 3))))


def test_the_std_never_falls_below_its_floor():
    actor = Actor(MLP((3, 2), layer_norm=False, key=KEY), jnp.full(2, -100.0), (), 0.2)
    np.testing.assert_allclose(actor(jnp.ones((4, 3))).std, [0.2, 0.2])  # pyright: ignore[reportAttributeAccessIssue]
