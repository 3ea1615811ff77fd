"""Policies' distributions over actions. Discrete expectations are exact sums, decided here and not in members."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

_NEVER = -1e30  # logit of a choice that does not exist; finite, so that p log p is 0 and not nan


class Categorical(eqx.Module):
    """A product of K independent categorical distributions (K = 1 for Discrete, choices 0 and 1 for MultiBinary)."""

    logits: Float[Array, "B n_logits"]
    """The components' logits side by side."""
    nvec: tuple[int, ...] = eqx.field(static=True)

    def _log_probs(self) -> Float[Array, "B K n"]:
        """Normalised log-probabilities, padded to the widest component."""
        widest = max(self.nvec)
        if min(self.nvec) == widest:
            logits = self.logits.reshape(-1, len(self.nvec), widest)
        else:
            starts = np.cumsum((0, *self.nvec[:-1]))[:, None] + np.arange(widest)
            exists = np.arange(widest) < np.asarray(self.nvec)[:, None]
            logits = jnp.where(exists, self.logits[:, np.where(exists, starts, 0)], _NEVER)
        return jax.nn.log_softmax(logits)

    def log_prob(self, action: Int[Array, "B K"]) -> Float[Array, " B"]:
        """Return log pi(a|s)."""
        log_probs = self._log_probs()
        chosen = action[..., None] == jnp.arange(log_probs.shape[-1])
        return jnp.where(chosen, log_probs, 0.0).sum(axis=(1, 2))

    def entropy(self) -> Float[Array, " B"]:
        """Return the entropy in nats."""
        log_probs = self._log_probs()
        return -(jnp.exp(log_probs) * log_probs).sum(axis=(1, 2))

    def mode(self) -> Int[Array, "B K"]:
        """Return the most probable action."""
        return jnp.argmax(self._log_probs(), axis=-1).astype(jnp.int32)

    def sample(self, key: PRNGKeyArray) -> Int[Array, "B K"]:
        """Return a random action."""
        return jax.random.categorical(key, self._log_probs()).astype(jnp.int32)

    def penalty(self, bound_coef: float, logit_coef: float) -> Float[Array, " B"]:
        """Return ``logit_coef`` times half the squared logits; choices have no bounds."""
        return 0.5 * logit_coef * (self.logits**2).sum(axis=-1)

    def metrics(self) -> dict[str, Array]:
        return {}


class Gaussian(eqx.Module):
    """A diagonal Gaussian, neither squashed nor clipped, in units of half the action range around its centre."""

    mean: Float[Array, "B action_dim"]
    std: Float[Array, " action_dim"]

    def log_prob(self, action: Float[Array, "B action_dim"]) -> Float[Array, " B"]:
        """Return the log-density of ``action``."""
        z = (action - self.mean) / self.std
        return -(0.5 * z**2 + jnp.log(self.std) + 0.5 * math.log(2 * math.pi)).sum(axis=-1)

    def entropy(self) -> Float[Array, " B"]:
        """Return the differential entropy in nats."""
        per_state = (jnp.log(self.std) + 0.5 * math.log(2 * math.pi * math.e)).sum()
        return jnp.broadcast_to(per_state, self.mean.shape[:1])

    def mode(self) -> Float[Array, "B action_dim"]:
        """Return the mean."""
        return self.mean

    def sample(self, key: PRNGKeyArray) -> Float[Array, "B action_dim"]:
        """Return a random action."""
        return self.mean + self.std * jax.random.normal(key, self.mean.shape)

    def penalty(self, bound_coef: float, logit_coef: float) -> Float[Array, " B"]:
        """Return ``bound_coef`` times half the squared excess of the mean over the action range, [-1, 1] here."""
        return 0.5 * bound_coef * (jnp.maximum(jnp.abs(self.mean) - 1, 0) ** 2).sum(axis=-1)

    def metrics(self) -> dict[str, Array]:
        return {"policy/std": self.std.mean()}


Policy = Categorical | Gaussian
