"""MARWIL: monotonic advantage re-weighted imitation learning (Wang et al. 2018), in rounds over whole episodes."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rlox.core.config import Config, setting
from rlox.core.state import Networks, Transition


@dataclasses.dataclass(frozen=True, kw_only=True)
class MARWILConfig(Config):
    """Settings of MARWIL: imitation weighted by how far a Monte-Carlo return lies above its expectation."""

    beta: float = setting(1.0, above=0)
    """Temperature: divides the scaled advantage; endless is behaviour cloning."""
    rollout_steps: int = setting(2048, at_least=1)
    """Environment steps between rounds of learning."""
    n_critic_updates: int = setting(200, at_least=1)
    """Critic steps per round."""
    n_actor_updates: int = setting(200, at_least=1)
    """Actor steps per round."""

    # The whole return; a bootstrap only where an episode is cut.
    td_lambda = 1.0


def value_target(config: MARWILConfig, networks: Networks, batch: Transition, key: PRNGKeyArray) -> None:
    """Return nothing: rounds label whole episodes by ``lambda_returns``, at lambda 1."""


def critic_loss(config: MARWILConfig, target: Float[Array, " B"], predicted: Float[Array, " B"]) -> Float[Array, ""]:
    """Return the mean of ``u^2``, ``u = (R - V) / value_scale``."""
    return (((target - predicted) / config.value_scale) ** 2).mean()


def advantage(
    config: MARWILConfig,
    networks: Networks,
    batch: Transition,
    target: Float[Array, " B"],
    key: PRNGKeyArray,
    where: Bool[Array, " B"] | None = None,
) -> Float[Array, " B"]:
    """Return ``(R - V(s)) / c``, ``c^2`` the mean square of ``R - V`` over the samples ``where``."""
    difference = target - networks.critic(batch.obs)
    return difference / jnp.sqrt((difference**2).mean(where=where) + 1e-8)


def weight(config: MARWILConfig, advantage: Float[Array, " B"]) -> Float[Array, " B"]:
    """Return ``exp(A / beta)``."""
    return jnp.exp(advantage / config.beta)
