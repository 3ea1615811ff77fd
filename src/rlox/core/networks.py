"""Multi-layer perceptrons over batches; actor and critic, each one of them with a meaning on top."""

from __future__ import annotations

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

from rlox.core.distributions import Categorical, Gaussian, joint_actions


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


class QFunction(eqx.Module):
    """Q(s, a), an ensemble: perceptrons of observation and action, or with discrete actions an output for each.

    Continuous actions are clipped to the range before, as they are where they are taken.
    """

    networks: tuple[MLP, ...]
    nvec: tuple[int, ...] = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def __init__(self, config: Any, obs_dim: int, nvec: tuple[int, ...], action_dim: int, rng: np.random.Generator):
        n_in, n_out = (obs_dim, len(joint_actions(nvec))) if nvec else (obs_dim + action_dim, 1)
        sizes = (n_in, *config.widths, n_out)
        self.networks = tuple(
            MLP(sizes, init=config.network_init, output_scale=None, layer_norm=config.layer_norm, rng=rng)
            for _ in range(config.n_critics)
        )
        self.nvec, self.scale = nvec, config.value_scale

    def __call__(self, obs: Float[Array, "B obs_dim"], action: Array) -> Float[Array, "E *lead B"]:
        """Return each network's value of actions ``(*lead, B, action_dim)``, several of them in each observation."""
        if self.nvec:
            place = jnp.ravel_multi_index(tuple(jnp.moveaxis(action, -1, 0)), self.nvec, mode="clip")
            outputs = [network(obs) for network in self.networks]
            values = [out[jnp.arange(len(obs)), place] for out in outputs]
        else:
            lead = action.shape[:-1]
            inputs = jnp.concatenate([jnp.broadcast_to(obs, (*lead, obs.shape[-1])), jnp.clip(action, -1, 1)], axis=-1)
            values = [network(inputs.reshape(-1, inputs.shape[-1])).reshape(lead) for network in self.networks]
        return self.scale * jnp.stack(values)

    def of_several(self, obs: Float[Array, "B obs_dim"], action: Array) -> Float[Array, "E M B"]:
        """Return what a call does of actions ``(M, B, action_dim)``, in less time where they are many and continuous.

        The first layer sees the observations once, and one action in each observation at a time stays in the caches.
        """
        if self.nvec:
            return self(obs, action)
        n = obs.shape[-1]

        def values(network: MLP) -> Float[Array, "M B"]:
            weight = network.weights[0]
            seen = affine(obs, weight[:n], network.biases[0])
            return lax.map(lambda one: network.after_first(seen + one @ weight[n:])[:, 0], jnp.clip(action, -1, 1))

        return self.scale * jnp.stack([values(network) for network in self.networks])


class Critic(eqx.Module):
    """V(s): a perceptron whose output is a value in units of ``scale``."""

    network: MLP
    scale: float = eqx.field(static=True)

    def __init__(self, config: Any, obs_dim: int, nvec: tuple[int, ...], action_dim: int, rng: np.random.Generator):
        sizes = (obs_dim, *config.widths, 1)
        self.network = MLP(sizes, init=config.network_init, output_scale=None, layer_norm=config.layer_norm, rng=rng)
        self.scale = config.value_scale

    def __call__(self, obs: Float[Array, "B obs_dim"]) -> Float[Array, " B"]:
        value = self.network(obs)[:, 0]
        return value if self.scale == 1 else self.scale * value


class Actor(eqx.Module):
    """pi(a|s): a perceptron whose output parametrises a distribution over actions."""

    network: MLP
    log_std: Float[Array, " action_dim"] | None
    """Continuous actions with a learned std: logarithm of it above its floor, the same in every state."""
    nvec: tuple[int, ...] = eqx.field(static=True)
    """Discrete actions: the number of choices of each component; empty for continuous ones."""
    min_std: float = eqx.field(static=True)
    """The std's floor; the std itself where it is not learned."""
    max_std: float | None = eqx.field(static=True)
    """The std's ceiling, if it has one."""
    state_std: bool = eqx.field(static=True)
    """Whether the network puts out a logarithm, relative to `log_std`, for each state."""

    def __init__(self, config: Any, obs_dim: int, nvec: tuple[int, ...], action_dim: int, rng: np.random.Generator):
        self.state_std = not nvec and config.learn_std and config.state_dependent_std
        n_out = sum(nvec) if nvec else action_dim * (1 + self.state_std)
        sizes = (obs_dim, *config.widths, n_out)
        self.network = MLP(
            sizes,
            init=config.network_init,
            output_scale=config.actor_output_scale,
            layer_norm=config.layer_norm,
            rng=rng,
        )
        self.nvec = nvec
        learned = not nvec and config.learn_std
        self.min_std = config.min_std if config.learn_std else config.initial_std
        self.max_std = config.max_std if learned else None
        above = self._raw(config.initial_std) if learned else 0.0
        self.log_std = jnp.full(action_dim, above, jnp.float32) if learned else None

    @property
    def action_dim(self) -> int:
        """Number of action components."""
        return len(self.nvec) or self.network.biases[-1].shape[0] // (1 + self.state_std)

    def __call__(self, obs: Float[Array, "B obs_dim"]) -> Categorical | Gaussian:
        out = self.network(obs)
        if self.nvec:
            return Categorical(out, self.nvec)
        if self.log_std is None:
            return Gaussian(out, jnp.full(out.shape[1], self.min_std))
        mean, relative = jnp.split(out, 2, axis=1) if self.state_std else (out, 0.0)
        if self.max_std is None:
            return Gaussian(mean, self.min_std + jnp.exp(self.log_std + relative))
        share = jax.nn.sigmoid(self.log_std + relative)
        return Gaussian(mean, self.min_std + (self.max_std - self.min_std) * share)

    def _raw(self, std: float) -> float:
        """Return the parameter of a std: log of what it is above its floor, over what it is below its ceiling."""
        below = 1.0 if self.max_std is None else self.max_std - std
        return float(np.log((std - self.min_std) / below))
