"""Running mean and standard deviation of observations."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.typing import NDArray

_MIN_STD = 0.02
_MOST = 2.0**23
"""Observations that a float32 counts one by one, with room to spare."""


class Normalizer(eqx.Module):
    """Whitens observations by the mean and standard deviation of all that it was shown."""

    count: Float[Array, ""]
    """Observations seen; beyond 2^23 of them, those seen count half, so that new ones still count."""
    mean: Float[Array, " obs_dim"]
    m2: Float[Array, " obs_dim"]
    """Sum of squared distances from the mean."""

    @classmethod
    def create(cls, obs_dim: int) -> Normalizer:
        """Return one that has seen nothing, and changes nothing."""
        return cls(jnp.zeros(()), jnp.zeros(obs_dim), jnp.zeros(obs_dim))

    @classmethod
    def fit(cls, obs: NDArray[Any]) -> Normalizer:
        """Return one that has seen ``(N, obs_dim)`` observations, as the replay stores them."""
        unit = 255 if obs.dtype == np.uint8 else 1
        mean = obs.mean(axis=0, dtype=np.float64) / unit
        m2 = sum(((chunk / unit - mean) ** 2).sum(axis=0) for chunk in np.array_split(obs, -(-len(obs) // 65536)))
        return cls(*(jnp.asarray(x, jnp.float32) for x in (len(obs), mean, m2)))

    def update(self, obs: Float[Array, "N obs_dim"], valid: Bool[Array, " N"]) -> Normalizer:
        """Return one that has seen ``obs`` too, where ``valid`` (Chan, Golub, LeVeque 1979)."""
        kept = jnp.where(self.count < _MOST, 1.0, 0.5)
        seen, seen_m2 = self.count * kept, self.m2 * kept
        mask = valid[:, None]
        n = valid.sum().astype(jnp.float32)
        mean = jnp.where(mask, obs, 0).sum(axis=0) / jnp.maximum(n, 1)
        m2 = (jnp.where(mask, obs - mean, 0) ** 2).sum(axis=0)
        count = seen + n
        share = n / jnp.maximum(count, 1)
        delta = mean - self.mean
        return Normalizer(count, self.mean + delta * share, seen_m2 + m2 + delta**2 * seen * share)

    def __call__(self, obs: Float[Array, "*lead obs_dim"]) -> Float[Array, "*lead obs_dim"]:
        """Return observations with mean 0 and standard deviation 1; entries that hardly vary are not blown up."""
        return jnp.where(self.count > 0, (obs - self.mean) / self.std, obs)

    @property
    def std(self) -> Float[Array, " obs_dim"]:
        """What observations are divided by: their standard deviation, or its floor."""
        return jnp.maximum(jnp.sqrt(self.m2 / jnp.maximum(self.count, 1)), _MIN_STD)


def as_float(obs: Array) -> Float[Array, "*lead obs_dim"]:
    """Return stored observations as the networks take them: bytes in [0, 1], anything else as it is, in float32."""
    return obs.astype(jnp.float32) / 255 if obs.dtype == jnp.uint8 else obs.astype(jnp.float32)


def normalize(normalizer: Normalizer | None, obs: Array) -> Float[Array, "*lead obs_dim"]:
    """Return stored observations as floats, whitened if there is a normaliser."""
    return as_float(obs) if normalizer is None else normalizer(as_float(obs))
