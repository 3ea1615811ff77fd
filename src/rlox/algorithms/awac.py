"""AWAC: advantage-weighted actor-critic (Nair, Gupta, Dalal, Levine 2020, arXiv:2006.09359)."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rlox.core.algorithm import Algorithm
from rlox.core.config import Config, setting
from rlox.core.losses import Metrics, exponential_weight, softmax_weight
from rlox.core.networks import QFunction
from rlox.core.q_learning import policy_values, q_value, squared_loss, td_target
from rlox.core.state import Networks
from rlox.core.transition import Transition


@dataclasses.dataclass(frozen=True, kw_only=True)
class AWACConfig(Config):
    """Settings of AWAC: a twin Q of the policy itself, exponential weights of its advantages."""

    beta: float = setting(1.0, above=0)
    """Temperature: divides the advantage; lower is sharper."""
    weights: Literal["softmax", "exp"] = setting("softmax")
    """Softmax over the minibatch (mean 1), as in the authors' code, or the clamped exponential."""
    max_advantage: float = setting(20.0, above=0, needs={"weights": "exp"})
    """`exp`: clamp of the exponentiated advantage, i.e. the largest weight."""
    n_action_samples: int = setting(1, at_least=1, needs={"actions": "continuous"})
    """Continuous actions: the policy's actions whose mean Q is the baseline."""
    n_critics: int = setting(2, at_least=1, fixed=True)
    """Q functions; the smallest value counts."""
    tau: float = setting(0.005, above=0, at_most=1, fixed=True)
    """Step of the target critic, target += tau * (online - target)."""


def advantage(
    config: AWACConfig,
    networks: Networks,
    batch: Transition,
    target: Float[Array, " B"],
    key: PRNGKeyArray,
    where: Bool[Array, " B"] | None = None,
) -> Float[Array, " B"]:
    """Return ``min Q(s, a) - E_pi min Q(s, .)``: an exact sum with discrete actions."""
    values, probability = policy_values(networks.actor, networks.critic, batch.obs, key, config.n_action_samples)
    return q_value(networks.critic, batch.obs, batch.action) - (probability * values).sum(axis=0)


def weight(config: AWACConfig, advantage: Float[Array, " B"]) -> tuple[Float[Array, " B"], Metrics]:
    """Return ``B softmax(A / beta)`` over the minibatch, or ``min(exp(A / beta), max_advantage)``."""
    if config.weights == "softmax":
        return softmax_weight(advantage, config.beta), {}
    return exponential_weight(advantage, config.beta, config.max_advantage)


AWAC = Algorithm(
    config=AWACConfig,
    critic=QFunction,
    value_target=td_target,
    critic_loss=squared_loss,
    advantage=advantage,
    weight=weight,
)
