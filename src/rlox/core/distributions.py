"""Distributions over actions. Discrete expectations are exact sums, decided here and not in the algorithms."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from numpy.typing import NDArray

from rlox.core.transition import AT_BOUND
from rlox.errors import ConfigError

MAX_JOINT_ACTIONS = 4096
_NEVER = -1e30  # logit of a choice that does not exist; finite, so that p log p is 0 and not nan


def joint_actions(nvec: tuple[int, ...]) -> NDArray[np.int32]:
    """Return all combinations of the components' choices, ``(M, K)``, the last component changing fastest.

    Raises:
        ConfigError: more than 4,096, over which exact sums would take too long.
    """
    if math.prod(nvec) > MAX_JOINT_ACTIONS:
        raise ConfigError(
            f"The action space has {math.prod(nvec):,} joint actions, but a Q function has an output for each, at most "
            f"{MAX_JOINT_ACTIONS:,}: use awr, marwil or bc, which need none."
        )
    return np.stack(np.unravel_index(np.arange(math.prod(nvec)), nvec), axis=1).astype(np.int32)


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

    def log_prob(self, action: Int[Array, "*M B K"]) -> Float[Array, "*M B"]:
        """Return log pi(a|s); ``M`` actions in each state have a leading axis."""
        log_probs = self._log_probs()
        chosen = action[..., None] == jnp.arange(log_probs.shape[-1])
        return jnp.where(chosen, log_probs, 0.0).sum(axis=(-2, -1))

    def taken_log_prob(self, action: Int[Array, "*M B K"]) -> Float[Array, "*M B"]:
        """Return log pi(a|s): choices are taken as they are."""
        return self.log_prob(action)

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

    def support(self, key: PRNGKeyArray, n_samples: int) -> tuple[Int[Array, "M B K"], Float[Array, "M B"]]:
        """Return every joint action and its probability, so that expectations are exact sums."""
        actions = joint_actions(self.nvec)
        log_probs = self._log_probs()
        chosen = log_probs[:, np.arange(len(self.nvec)), actions].sum(axis=-1)
        return jnp.broadcast_to(jnp.asarray(actions)[:, None], (len(actions), *log_probs.shape[:2])), jnp.exp(chosen.T)

    def balanced(self, key: PRNGKeyArray, n_samples: int) -> tuple[Int[Array, "M B K"], Float[Array, "M B"]]:
        """Return every joint action and its probability."""
        return self.support(key, n_samples)

    def divergence(self, other: Categorical) -> Float[Array, "1 B"]:
        """Return ``KL(other || self)``."""
        log_probs, others = self._log_probs(), other._log_probs()
        return (jnp.exp(others) * (others - log_probs)).sum(axis=(1, 2))[None]

    def penalty(self, bound_coef: float, logit_coef: float) -> Float[Array, " B"]:
        """Return ``logit_coef`` times half the squared logits; choices have no bounds."""
        return 0.5 * logit_coef * (self.logits**2).sum(axis=-1)

    def metrics(self) -> dict[str, Array]:
        return {}


class Gaussian(eqx.Module):
    """A diagonal Gaussian, neither squashed nor clipped, in units of half the action range around its centre."""

    mean: Float[Array, "B action_dim"]
    std: Float[Array, "*B action_dim"]

    def log_prob(self, action: Float[Array, "*M B action_dim"]) -> Float[Array, "*M B"]:
        """Return the log-density of ``action``; ``M`` actions in each state have a leading axis."""
        z = (action - self.mean) / self.std
        return -(0.5 * z**2 + jnp.log(self.std) + 0.5 * math.log(2 * math.pi)).sum(axis=-1)

    def taken_log_prob(self, action: Float[Array, "*M B action_dim"]) -> Float[Array, "*M B"]:
        """Return the log-probability of an action as it is taken, clipped to [-1, 1].

        Inside it is that of the density, at a bound that of the tail which is clipped there.
        """
        z = (action - self.mean) / self.std
        inside = -(0.5 * z**2 + jnp.log(self.std) + 0.5 * math.log(2 * math.pi))
        tail = jax.scipy.stats.norm.logcdf(-z * jnp.sign(action))
        return jnp.where(jnp.abs(action) < 1 - AT_BOUND, inside, tail).sum(axis=-1)

    def entropy(self) -> Float[Array, " B"]:
        """Return the differential entropy in nats."""
        per_state = (jnp.log(self.std) + 0.5 * math.log(2 * math.pi * math.e)).sum(axis=-1)
        return jnp.broadcast_to(per_state, self.mean.shape[:1])

    def mode(self) -> Float[Array, "B action_dim"]:
        """Return the mean."""
        return self.mean

    def sample(self, key: PRNGKeyArray) -> Float[Array, "B action_dim"]:
        """Return a random action."""
        return self.mean + self.std * jax.random.normal(key, self.mean.shape)

    def support(self, key: PRNGKeyArray, n_samples: int) -> tuple[Float[Array, "M B K"], Float[Array, "M B"]]:
        """Return ``n_samples`` actions, each of probability ``1 / n_samples``."""
        noise = jax.random.normal(key, (n_samples, *self.mean.shape))
        return self.mean + self.std * noise, jnp.full((n_samples, self.mean.shape[0]), 1 / n_samples)

    def balanced(self, key: PRNGKeyArray, n_samples: int) -> tuple[Float[Array, "M B K"], Float[Array, "M B"]]:
        """Return ``n_samples`` (even) actions in pairs around the mean, whose noise has variance 1 in each state.

        The mean and the std that fit them best with equal weights are the policy's own, so that a fit to them moves it
        by what the weights say and not by chance.
        """
        half = jax.random.normal(key, (n_samples // 2, *self.mean.shape))
        half *= jax.lax.rsqrt((half**2).mean(axis=0))
        noise = jnp.concatenate([half, -half])
        return self.mean + self.std * noise, jnp.full((n_samples, self.mean.shape[0]), 1 / n_samples)

    def divergence(self, other: Gaussian) -> Float[Array, "2 B"]:
        """Return ``KL(other || self)`` in two parts: with only the mean changed, and with only the std changed."""
        in_mean = 0.5 * ((self.mean - other.mean) / other.std) ** 2
        ratio = other.std / self.std
        in_std = 0.5 * (ratio**2 - 1) - jnp.log(ratio)
        return jnp.stack([jnp.broadcast_to(part, self.mean.shape).sum(axis=-1) for part in (in_mean, in_std)])

    def penalty(self, bound_coef: float, logit_coef: float) -> Float[Array, " B"]:
        """Return ``bound_coef`` times half the squared excess of the mean over the action range, [-1, 1] here."""
        return 0.5 * bound_coef * (jnp.maximum(jnp.abs(self.mean) - 1, 0) ** 2).sum(axis=-1)

    def metrics(self) -> dict[str, Array]:
        return {"policy/std": self.std.mean()}


Distribution = Categorical | Gaussian
