"""What algorithms with a Q function share: its target under the policy, its loss, and expectations over the policy."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from rlox.core.losses import Metrics, explained_variance
from rlox.core.networks import Actor, QFunction
from rlox.core.state import Networks
from rlox.core.transition import Transition


def td_target(config: Any, networks: Networks, batch: Transition, key: PRNGKeyArray) -> Float[Array, " B"]:
    """Return ``r + gamma (1 - terminated) E min Q'(s', a')``, ``a'`` of the policy: one sample, or the exact sum."""
    values, probability = policy_values(networks.actor, networks.target_critic, batch.next_obs, key, 1)
    return batch.reward + config.gamma * (1.0 - batch.terminated) * (probability * values).sum(axis=0)


def squared_loss(
    config: Any, critic: QFunction, batch: Transition, target: Float[Array, " B"]
) -> tuple[Float[Array, ""], Metrics]:
    """Return the mean of ``u^2`` over the batch, summed over the critics, ``u = (target - Q(s, a)) / value_scale``."""
    return squared_error(config, critic(batch.obs, batch.action), target)


def squared_error(config: Any, q: Float[Array, "E B"], target: Float[Array, " B"]) -> tuple[Float[Array, ""], Metrics]:
    """Return that loss of the critics' values."""
    loss = (((target - q) / config.value_scale) ** 2).mean(axis=-1).sum()
    return loss, {"critic/explained_variance": explained_variance(target, q.mean(axis=0))}


def q_value(critic: QFunction, obs: Float[Array, "B obs_dim"], action: Array) -> Float[Array, "*lead B"]:
    """Return the smallest of the critics' values of actions ``(*lead, B, action_dim)``."""
    return critic(obs, action).min(axis=0)


def policy_values(
    actor: Actor, critic: QFunction, obs: Float[Array, "B obs_dim"], key: PRNGKeyArray, n_samples: int
) -> tuple[Float[Array, "M B"], Float[Array, "M B"]]:
    """Return values of the policy's actions and their probabilities, without gradient to the policy.

    With discrete actions these are all there are, with continuous ones ``n_samples`` of probability
    ``1 / n_samples``.
    """
    actions, probability = lax.stop_gradient(actor(obs).support(key, n_samples))
    return q_value(critic, obs, actions), jnp.asarray(probability)
