"""Advantage-weighted regression (Peng, Kumar, Zhang, Levine 2019, arXiv:1910.00177), step by step."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlox.core.config import Config, setting
from rlox.core.networks import MLP, value
from rlox.core.state import Transition
from rlox.core.weights import exponential_weight, whiten


@dataclasses.dataclass(frozen=True, kw_only=True)
class AWRConfig(Config):
    """Settings of AWR: weighted maximum likelihood on the replay, one update per environment step."""

    beta: float = setting(1.0, above=0)
    """Temperature: divides the advantage; lower is sharper."""
    max_advantage: float = setting(20.0, above=0)
    """Clamp of the exponentiated advantage, i.e. the largest weight."""
    n_critic_updates: int = setting(1, at_least=1)
    """Critic steps per update, each on a fresh minibatch; the actor learns from the last one."""
    normalize_advantage: bool = setting(False)
    """Whiten the advantages over the minibatch before they are exponentiated."""
    tau: float = setting(1.0, above=0, at_most=1)
    """Step of the target critic, target += tau * (online - target); 1 bootstraps from the critic itself."""
    expectile: float = setting(0.5, above=0, below=1)
    """Expectile that the critic regresses to; one half is the mean, above it leans to the better outcomes."""


def value_target(config: AWRConfig, target_critic: MLP, batch: Transition) -> Float[Array, " B"]:
    """Return ``r + gamma (1 - terminated) V(s')``; truncated steps bootstrap."""
    return batch.reward + config.gamma * (1.0 - batch.terminated) * value(target_critic, batch.next_obs)


def critic_loss(config: AWRConfig, critic: MLP, batch: Transition, target: Float[Array, " B"]) -> Float[Array, ""]:
    """Return the mean of ``2 |expectile - 1[u < 0]| u^2``, ``u = target - V(s)``: at one half, the squared error."""
    error = target - value(critic, batch.obs)
    return (2.0 * jnp.abs(config.expectile - (error < 0)) * error**2).mean()


def advantage(config: AWRConfig, critic: MLP, batch: Transition, target: Float[Array, " B"]) -> Float[Array, " B"]:
    """Return ``target - V(s)`` under the critic after its step, whitened where asked."""
    difference = target - value(critic, batch.obs)
    return whiten(difference) if config.normalize_advantage else difference


def weight(config: AWRConfig, advantage: Float[Array, " B"]) -> Float[Array, " B"]:
    """Return ``min(exp(A / beta), max_advantage)``."""
    return exponential_weight(advantage, config.beta, config.max_advantage)
