"""From advantages to weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def exponential_weight(advantage: Float[Array, " B"], beta: float, max_advantage: float) -> Float[Array, " B"]:
    """Return ``min(exp(A / beta), max_advantage)`` (Peng et al. 2019, Eq. 9 and the clamp of section 5).

    An advantage so large that its exponential overflows is clamped like any other.
    """
    return jnp.minimum(jnp.exp(advantage / beta), max_advantage)


def softmax_weight(advantage: Float[Array, " B"], beta: float) -> Float[Array, " B"]:
    """Return ``B softmax(A / beta)`` over the batch, of mean 1 (Nair et al. 2020, the authors' code)."""
    return advantage.size * jax.nn.softmax(advantage / beta)


def whiten(advantage: Float[Array, " B"], where: Bool[Array, " B"] | None = None) -> Float[Array, " B"]:
    """Return advantages with mean 0 and standard deviation 1 over the samples ``where`` (1e-5 under the division)."""
    return (advantage - advantage.mean(where=where)) / (advantage.std(where=where) + 1e-5)


def effective_sample_size(weight: Float[Array, " B"], where: Bool[Array, " B"] | None = None) -> Float[Array, ""]:
    """Return ``(sum w)^2 / (B sum w^2)``, in (0, 1]: the share of the samples that the weights in effect use."""
    # Relative to the largest, since the squares of small weights would underflow.
    relative = weight / jnp.maximum(weight.max(where=where, initial=0.0), jnp.finfo(weight.dtype).tiny)
    n = weight.size if where is None else where.sum()
    return relative.sum(where=where) ** 2 / jnp.maximum(n * (relative**2).sum(where=where), 1.0)
