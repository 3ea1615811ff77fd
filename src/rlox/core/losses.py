"""From errors to losses, from advantages to weights, and what is reported of both."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

Metrics = dict[str, Array]


def expectile_loss(error: Float[Array, "*lead B"], expectile: ArrayLike) -> Float[Array, ""]:
    """Return the mean of ``2 |expectile - 1[u < 0]| u^2``: at one half, of ``u^2`` (Newey and Powell 1987)."""
    return (2.0 * jnp.abs(expectile - (error < 0)) * error**2).mean()


def explained_variance(
    target: Float[Array, " B"], predicted: Float[Array, " B"], where: Bool[Array, " B"] | None = None
) -> Float[Array, ""]:
    """Return ``1 - var(target - predicted) / var(target)`` over the samples ``where``; 1 is a perfect critic."""
    return 1 - (target - predicted).var(where=where) / (target.var(where=where) + 1e-8)


def exponential_weight(
    advantage: Float[Array, " B"], beta: ArrayLike, max_advantage: ArrayLike
) -> tuple[Float[Array, " B"], Metrics]:
    """Return ``min(exp(A / beta), max_advantage)`` and which of them are clipped (Peng et al. 2019, Eq. 9, section 5).

    An advantage so large that its exponential overflows is clamped like any other.
    """
    weight = jnp.minimum(jnp.exp(advantage / beta), max_advantage)
    return weight, {"weight/clipped_fraction": weight >= max_advantage}


def softmax_weight(advantage: Float[Array, " B"], beta: ArrayLike) -> Float[Array, " B"]:
    """Return ``B softmax(A / beta)`` over the batch, of mean 1 (Nair et al. 2020, the authors' code)."""
    return advantage.size * jax.nn.softmax(advantage / beta)


def whiten(advantage: Float[Array, " B"], where: Bool[Array, " B"] | None = None) -> Float[Array, " B"]:
    """Return advantages with mean 0 and standard deviation 1 over the samples ``where`` (1e-5 added to the divisor)."""
    return (advantage - advantage.mean(where=where)) / (advantage.std(where=where) + 1e-5)


def effective_sample_size(
    weight: Float[Array, "*lead B"], where: Bool[Array, "*lead B"] | None = None
) -> Float[Array, ""]:
    """Return ``(sum w)^2 / (B sum w^2)``, in (0, 1]: the share of the samples that the weights in effect use."""
    # Relative to the largest, since the squares of small weights would underflow.
    relative = weight / jnp.maximum(weight.max(where=where, initial=0.0), jnp.finfo(weight.dtype).tiny)
    n = weight.size if where is None else where.sum()
    return relative.sum(where=where) ** 2 / jnp.maximum(n * (relative**2).sum(where=where), 1.0)


def describe_weights(
    advantage: Float[Array, " B"], weight: Float[Array, " B"], where: Bool[Array, " B"] | None = None
) -> Metrics:
    """Return the metrics of advantages and weights over the samples ``where``."""
    return {
        "advantage/mean": advantage.mean(where=where),
        "advantage/std": advantage.std(where=where),
        "weight/mean": weight.mean(where=where),
        "weight/max": weight.max(where=where, initial=0.0),
        "weight/effective_sample_size": effective_sample_size(weight, where),
    }
