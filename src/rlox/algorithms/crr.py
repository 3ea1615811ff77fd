"""CRR: critic-regularised regression (Wang et al. 2020, arXiv:2006.15134)."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rlox.core.algorithm import Algorithm
from rlox.core.config import ActionKind, Config, setting
from rlox.core.losses import Metrics, exponential_weight
from rlox.core.networks import QFunction
from rlox.core.q_learning import policy_values, q_value, squared_loss, td_target
from rlox.core.state import Networks
from rlox.core.transition import Transition
from rlox.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class CRRConfig(Config):
    """Settings of CRR: only actions that the critic prefers to the policy's own are cloned."""

    beta: float = setting(1.0, above=0, needs={"weights": "exp"})
    """`exp`: temperature, divides the advantage; lower is sharper."""
    weights: Literal["exp", "binary"] = setting("exp")
    """The clamped exponential of the advantage, or 1 where it is positive and 0 elsewhere."""
    max_advantage: float = setting(20.0, above=0, needs={"weights": "exp"})
    """`exp`: clamp of the exponentiated advantage, i.e. the largest weight."""
    baseline: Literal["mean", "max"] = setting("mean")
    """What Q(s, a) is compared with: the mean or the largest Q of the policy's actions."""
    n_action_samples: int = setting(4, at_least=1, needs={"actions": "continuous"})
    """Continuous actions: how many of them."""
    n_critics: int = setting(2, at_least=1, fixed=True)
    """Q functions; the smallest value counts."""
    tau: float = setting(0.005, above=0, at_most=1, fixed=True)
    """Step of the target critic, target += tau * (online - target)."""

    def check_actions(self, actions: ActionKind) -> None:
        if (self.weights, self.baseline, actions) == ("binary", "max", "discrete"):
            raise ConfigError(
                "weights='binary' with baseline='max' gives no choice a weight, since none is better than the best: "
                "set baseline='mean'."
            )


def advantage(
    config: CRRConfig,
    networks: Networks,
    batch: Transition,
    target: Float[Array, " B"],
    key: PRNGKeyArray,
    where: Bool[Array, " B"] | None = None,
) -> Float[Array, " B"]:
    """Return ``min Q(s, a)`` less the mean, or the maximum, of ``min Q(s, .)`` over the policy's actions."""
    values, probability = policy_values(networks.actor, networks.critic, batch.obs, key, config.n_action_samples)
    baseline = values.max(axis=0) if config.baseline == "max" else (probability * values).sum(axis=0)
    return q_value(networks.critic, batch.obs, batch.action) - baseline


def weight(config: CRRConfig, advantage: Float[Array, " B"]) -> tuple[Float[Array, " B"], Metrics]:
    """Return ``min(exp(A / beta), max_advantage)``, or ``1[A > 0]``."""
    if config.weights == "binary":
        return (advantage > 0).astype(jnp.float32), {}
    return exponential_weight(advantage, config.beta, config.max_advantage)


CRR = Algorithm(
    config=CRRConfig,
    critic=QFunction,
    value_target=td_target,
    critic_loss=squared_loss,
    advantage=advantage,
    weight=weight,
)
