"""Multi-layer perceptrons over batches, plain, layer-normalised or batch-normalised."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from numpy.typing import NDArray

product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
"""Matrix product in float32: GPUs and TPUs round its operands to fewer bits unless they are told not to."""


@jax.custom_vjp
def affine(
    x: Float[Array, "B n_in"], weight: Float[Array, "n_in n_out"], bias: Float[Array, " n_out"]
) -> Float[Array, "B n_out"]:
    """``x @ weight + bias``, with a backward pass in the operand layouts that CPUs multiply fastest."""
    return product(x, weight) + bias


def _affine_forward(x: Array, weight: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    return affine(x, weight, bias), (x, weight)


def _affine_backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array, Array]:
    x, weight = residuals
    # XLA's CPU products are slow with a transposed left operand (375 against 225 us at 256 cubed, one core).
    # The barriers keep the explicit transposes from being folded back into the product.
    if weight.shape[1] < weight.shape[0]:
        weight_grad = lax.optimization_barrier(product(lax.optimization_barrier(g.T), x)).T
    else:
        weight_grad = product(lax.optimization_barrier(x.T), g)
    return product(g, weight.T), weight_grad, g.sum(axis=0)


affine.defvjp(_affine_forward, _affine_backward)


def polyak(copy: Any, network: Any, tau: float) -> Any:
    """Return a copy that is a step nearer to the network; None if there is none."""
    return None if copy is None else jax.tree.map(lambda old, new: old + tau * (new - old), copy, network)


def in_chunks(
    function: Callable[[Float[Array, "B n"]], Float[Array, " B"]], x: Float[Array, "N n"], size: int
) -> Float[Array, " N"]:
    """Return ``function(x)`` taken ``size`` rows at a time, so that what layers hand on stays in the caches."""
    missing = -len(x) % size
    chunks = jnp.pad(x, ((0, missing), (0, 0))).reshape(-1, size, x.shape[1])
    return lax.map(function, chunks).ravel()[: len(x)]


class MLP(eqx.Module):
    """Affine layers with ReLU between them, each optionally layer-normalised before it.

    Takes a whole batch at once: one product a layer, with weights stored ``(n_in, n_out)``.
    """

    weights: tuple[Float[Array, "n_in n_out"], ...]
    biases: tuple[Float[Array, " n_out"], ...]
    norms: tuple[eqx.nn.LayerNorm, ...]

    def __init__(
        self,
        sizes: tuple[int, ...],
        *,
        init: str,
        output_scale: float | None,
        layer_norm: bool,
        rng: np.random.Generator,
    ):
        """Draw the weights.

        Args:
            sizes: input width, hidden widths, output width.
            init: ``he``: weights normal with variance 2 / n_in, biases uniform in +-1 / sqrt(n_in). ``glorot``: weights
                uniform in +-sqrt(6 / (n_in + n_out)), biases 0.
            output_scale: last layer's weights uniform in +-this, its biases 0; None for the same as the other layers.
            layer_norm: normalise before each activation.
            rng: where the numbers come from; NumPy's, since drawing them on the device compiles for seconds.
        """
        shapes = list(itertools.pairwise(sizes))
        draw = {"he": _he, "glorot": _glorot}[init]
        layers = [draw(rng, *shape) for shape in shapes]
        if output_scale is not None:
            layers[-1] = rng.uniform(-output_scale, output_scale, shapes[-1]), np.zeros(sizes[-1])
        self.weights = tuple(jnp.asarray(weight, jnp.float32) for weight, _ in layers)
        self.biases = tuple(jnp.asarray(bias, jnp.float32) for _, bias in layers)
        self.norms = tuple(eqx.nn.LayerNorm(width) for width in sizes[1:-1]) if layer_norm else ()

    def __call__(self, x: Float[Array, "B n_in"]) -> Float[Array, "B n_out"]:
        return self.after_first(affine(x, self.weights[0], self.biases[0]))

    def after_first(self, x: Float[Array, "B n"]) -> Float[Array, "B n_out"]:
        """Return the outputs from what the first layer gives, before its activation."""
        for i, (weight, bias) in enumerate(zip(self.weights[1:], self.biases[1:], strict=True)):
            x = affine(jax.nn.relu(jax.vmap(self.norms[i])(x) if self.norms else x), weight, bias)
        return x


_Layer = tuple[NDArray[np.float64], NDArray[np.float64]]


def _he(rng: np.random.Generator, n_in: int, n_out: int) -> _Layer:
    return (2 / n_in) ** 0.5 * rng.standard_normal((n_in, n_out)), rng.uniform(-1, 1, n_out) / n_in**0.5


def _glorot(rng: np.random.Generator, n_in: int, n_out: int) -> _Layer:
    limit = (6 / (n_in + n_out)) ** 0.5
    return rng.uniform(-limit, limit, (n_in, n_out)), np.zeros(n_out)


_MOMENTUM, _VARIANCE_FLOOR = 0.99, 1e-3


class BatchNorm(eqx.Module):
    """``scale (x - mean) / std + offset``, of a batch's moments in training and of running ones elsewhere."""

    scale: Float[Array, " n"]
    offset: Float[Array, " n"]
    mean: Float[Array, " n"]
    """Running mean of the batches that were learned from."""
    variance: Float[Array, " n"]
    """Running variance of them."""

    def __init__(self, width: int):
        self.scale, self.offset = jnp.ones(width), jnp.zeros(width)
        self.mean, self.variance = jnp.zeros(width), jnp.ones(width)

    def of_batch(self, x: Float[Array, "B n"]) -> tuple[Float[Array, "B n"], BatchNorm]:
        """Return ``x`` normalised by its own moments, and this with its running moments a step nearer to them."""
        mean = x.mean(axis=0)
        variance = ((x - mean) ** 2).mean(axis=0)
        y = (x - mean) * (self.scale * lax.rsqrt(variance + _VARIANCE_FLOOR)) + self.offset
        seen = lax.stop_gradient((mean, variance))
        running = jax.tree.map(lambda old, new: old + (1 - _MOMENTUM) * (new - old), (self.mean, self.variance), seen)
        return y, eqx.tree_at(lambda norm: (norm.mean, norm.variance), self, running)

    def affine(self) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Return ``k, c`` such that ``k x + c`` is ``x`` normalised by the running moments."""
        k = self.scale * lax.rsqrt(self.variance + _VARIANCE_FLOOR)
        return k, self.offset - self.mean * k


class BatchNormMLP(eqx.Module):
    """A perceptron, the inputs of each layer of which are batch-normalised."""

    network: MLP
    norms: tuple[BatchNorm, ...]

    def __init__(self, network: MLP):
        self.network = network
        self.norms = tuple(BatchNorm(weight.shape[0]) for weight in network.weights)

    def __call__(self, x: Float[Array, "B n_in"]) -> Float[Array, "B n_out"]:
        return self.folded()(x)

    def in_training(self, x: Float[Array, "B n_in"]) -> tuple[Float[Array, "B n_out"], BatchNormMLP]:
        """Return the outputs by the moments of this batch, and the network with its running moments moved."""
        moved = []
        for i, (weight, bias) in enumerate(zip(self.network.weights, self.network.biases, strict=True)):
            x, norm = self.norms[i].of_batch(jax.nn.relu(x) if i else x)
            x = affine(x, weight, bias)
            moved.append(norm)
        return x, eqx.tree_at(lambda network: network.norms, self, tuple(moved))

    def folded(self) -> MLP:
        """Return the plain perceptron that it is by the running moments."""
        parts = [norm.affine() for norm in self.norms]
        layers = list(zip(parts, self.network.weights, self.network.biases, strict=True))
        weights = tuple(k[:, None] * weight for (k, _), weight, _ in layers)
        biases = tuple(bias + product(c, weight) for (_, c), weight, bias in layers)
        return eqx.tree_at(lambda network: (network.weights, network.biases), self.network, (weights, biases))
