"""Multi-layer perceptrons over batches, and the actor: one of them with a distribution on top."""

from __future__ import annotations

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from rlox.core.distributions import Categorical, Gaussian


@jax.custom_vjp
def affine(
    x: Float[Array, "B n_in"], weight: Float[Array, "n_in n_out"], bias: Float[Array, " n_out"]
) -> Float[Array, "B n_out"]:
    """``x @ weight + bias``, with a backward pass in the operand layouts that CPUs multiply fastest."""
    return x @ weight + bias


def _affine_forward(x: Array, weight: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    return affine(x, weight, bias), (x, weight)


def _affine_backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array, Array]:
    x, weight = residuals
    # XLA's CPU products are slow with a transposed left operand (375 against 225 us at 256 cubed, one core).
    # The barriers keep the explicit transposes from being folded back into the product.
    if weight.shape[1] < weight.shape[0]:
        weight_grad = lax.optimization_barrier(lax.optimization_barrier(g.T) @ x).T
    else:
        weight_grad = lax.optimization_barrier(x.T) @ g
    return g @ weight.T, weight_grad, g.sum(axis=0)


affine.defvjp(_affine_forward, _affine_backward)


_FIRST_GAIN = 4.0


class MLP(eqx.Module):
    """Affine layers with ReLU between them, each optionally layer-normalised before it.

    Takes a whole batch at once: one product a layer, with weights stored ``(n_in, n_out)``.
    """

    weights: tuple[Float[Array, "n_in n_out"], ...]
    biases: tuple[Float[Array, " n_out"], ...]
    norms: tuple[eqx.nn.LayerNorm, ...]

    def __init__(self, sizes: tuple[int, ...], *, layer_norm: bool, rng: np.random.Generator):
        """Weights normal with variance 2 / n_in (He), the first layer's times 4; biases uniform in +-1 / sqrt(n_in).

        The first layer's gain puts the kinks of its units within a few tenths of the origin, where environments'
        observations differ. It was chosen by trial on CartPole-v1: see docs/benchmarks.md.

        Args:
            sizes: input width, hidden widths, output width.
            layer_norm: normalise before each activation.
            rng: where the numbers come from; NumPy's, since drawing them on the device compiles for seconds.
        """
        shapes = list(itertools.pairwise(sizes))
        gains = [_FIRST_GAIN] + [1.0] * (len(shapes) - 1)
        self.weights = tuple(
            jnp.asarray(gain * (2 / shape[0]) ** 0.5 * rng.standard_normal(shape), jnp.float32)
            for gain, shape in zip(gains, shapes, strict=True)
        )
        self.biases = tuple(
            jnp.asarray(rng.uniform(-1.0, 1.0, n_out) / n_in**0.5, jnp.float32) for n_in, n_out in shapes
        )
        self.norms = tuple(eqx.nn.LayerNorm(width) for width in sizes[1:-1]) if layer_norm else ()

    def __call__(self, x: Float[Array, "B n_in"]) -> Float[Array, "B n_out"]:
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = affine(x, weight, bias)
            if i < last:
                x = jax.nn.relu(jax.vmap(self.norms[i])(x) if self.norms else x)
        return x


def value(critic: MLP, obs: Float[Array, "B obs_dim"]) -> Float[Array, " B"]:
    """Return V(s) of a critic of kind ``v``."""
    return critic(obs)[:, 0]


class Actor(eqx.Module):
    """pi(a|s): a perceptron whose output parametrises a distribution over actions."""

    network: MLP
    log_std: Float[Array, " action_dim"] | None
    """Continuous actions: logarithm of the std above its floor, the same in every state."""
    nvec: tuple[int, ...] = eqx.field(static=True)
    """Discrete actions: the number of choices of each component; empty for continuous ones."""
    min_std: float = eqx.field(static=True)

    def __call__(self, obs: Float[Array, "B obs_dim"]) -> Categorical | Gaussian:
        out = self.network(obs)
        if self.log_std is None:
            return Categorical(out, self.nvec)
        return Gaussian(out, self.min_std + jnp.exp(self.log_std))
