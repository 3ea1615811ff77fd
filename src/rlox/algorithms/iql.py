"""IQL: implicit Q-learning (Kostrikov, Nair, Levine 2021, arXiv:2110.06169)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rlox.core.algorithm import Algorithm
from rlox.core.config import Config, setting
from rlox.core.losses import Metrics, expectile_loss, explained_variance, exponential_weight
from rlox.core.networks import Critic, QFunction
from rlox.core.q_learning import q_value, squared_loss
from rlox.core.state import Networks
from rlox.core.transition import Transition


@dataclasses.dataclass(frozen=True, kw_only=True)
class IQLConfig(Config):
    """Settings of IQL: values of the data's better actions, without ever asking for an action outside the data."""

    beta: float = setting(1 / 3, above=0)
    """Temperature: divides the advantage; the authors' multiplier of 3."""
    max_advantage: float = setting(100.0, above=0)
    """Clamp of the exponentiated advantage, i.e. the largest weight."""
    expectile: float = setting(0.7, above=0, below=1)
    """Expectile of Q over the data's actions that V regresses to; one half is their mean, towards 1 their best."""
    network_init: Literal["he", "glorot"] = setting("glorot", fixed=True)
    """Initial weights: He normal, or Glorot uniform with biases of 0."""
    n_critics: int = setting(2, at_least=1, fixed=True)
    """Q functions; the smallest value counts."""
    tau: float = setting(0.005, above=0, at_most=1, fixed=True)
    """Step of the target critic, target += tau * (online - target)."""


class ValueAndQ(NamedTuple):
    """IQL's critic."""

    v: Critic
    q: QFunction


def make_critic(
    config: IQLConfig, obs_dim: int, nvec: tuple[int, ...], action_dim: int, rng: np.random.Generator
) -> ValueAndQ:
    """Return V and the Q functions."""
    return ValueAndQ(Critic(config, obs_dim, nvec, action_dim, rng), QFunction(config, obs_dim, nvec, action_dim, rng))


def value_target(config: IQLConfig, networks: Networks, batch: Transition, key: PRNGKeyArray) -> tuple[Array, Array]:
    """Return what V regresses to, ``min Q'(s, a)``, and what Q does, ``r + gamma (1 - terminated) V(s')``."""
    next_value = networks.critic.v(batch.next_obs)
    return (
        q_value(networks.target_critic.q, batch.obs, batch.action),
        batch.reward + config.gamma * (1.0 - batch.terminated) * next_value,
    )


def critic_loss(
    config: IQLConfig, critic: ValueAndQ, batch: Transition, target: tuple[Any, Any]
) -> tuple[Float[Array, ""], Metrics]:
    """Return V's expectile loss and the Q functions' squared errors, added up; explained variance is V's."""
    value = critic.v(batch.obs)
    value_loss = expectile_loss((target[0] - value) / config.value_scale, config.expectile)
    q_loss, _ = squared_loss(config, critic.q, batch, target[1])
    return value_loss + q_loss, {"critic/explained_variance": explained_variance(target[0], value)}


def advantage(
    config: IQLConfig,
    networks: Networks,
    batch: Transition,
    target: tuple[Any, Any],
    key: PRNGKeyArray,
    where: Bool[Array, " B"] | None = None,
) -> Float[Array, " B"]:
    """Return ``min Q'(s, a) - V(s)``: Q' as V regressed to it, V after its step."""
    return target[0] - networks.critic.v(batch.obs)


def weight(config: IQLConfig, advantage: Float[Array, " B"]) -> tuple[Float[Array, " B"], Metrics]:
    """Return ``min(exp(A / beta), max_advantage)``."""
    return exponential_weight(advantage, config.beta, config.max_advantage)


IQL = Algorithm(
    config=IQLConfig,
    critic=make_critic,
    value_target=value_target,
    critic_loss=critic_loss,
    advantage=advantage,
    weight=weight,
)
