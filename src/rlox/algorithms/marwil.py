"""MARWIL: monotonic advantage re-weighted imitation learning (Wang et al. 2018), in rounds over whole episodes."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rlox.core.algorithm import Algorithm
from rlox.core.config import Config, setting
from rlox.core.losses import Metrics, explained_variance
from rlox.core.networks import Critic
from rlox.core.state import Networks
from rlox.core.transition import Transition


@dataclasses.dataclass(frozen=True, kw_only=True)
class MARWILConfig(Config):
    """Settings of MARWIL: imitation weighted by how far a Monte-Carlo return lies above its expectation."""

    beta: float = setting(1.0, above=0)
    """Temperature: divides the scaled advantage; very large is behaviour cloning."""
    rollout_steps: int = setting(2048, group="Rounds", at_least=1, fixed=True)
    """Environment steps between rounds of learning."""
    overlap: bool = setting(False, group="Rounds", fixed=True)
    """Collect the next steps while a round is learned, on a second core: the policy that acts is one round old."""
    n_critic_updates: int = setting(200, group="Rounds", at_least=1)
    """Critic steps per round."""
    n_actor_updates: int = setting(200, group="Rounds", at_least=1)
    """Actor steps per round."""

    # The whole return; a bootstrap only where an episode is cut.
    td_lambda = 1.0


def critic_loss(
    config: MARWILConfig, critic: Critic, batch: Transition, target: Float[Array, " B"]
) -> tuple[Float[Array, ""], Metrics]:
    """Return the mean of ``u^2``, ``u = (R - V) / value_scale``; rounds label whole episodes with their return R."""
    value = critic(batch.obs)
    loss = (((target - value) / config.value_scale) ** 2).mean()
    return loss, {"critic/explained_variance": explained_variance(target, value)}


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


def weight(config: MARWILConfig, advantage: Float[Array, " B"]) -> tuple[Float[Array, " B"], Metrics]:
    """Return ``exp(A / beta)``."""
    return jnp.exp(advantage / config.beta), {}


MARWIL = Algorithm(config=MARWILConfig, critic=Critic, critic_loss=critic_loss, advantage=advantage, weight=weight)
