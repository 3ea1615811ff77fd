"""Advantage-weighted regression (Peng, Kumar, Zhang, Levine 2019, arXiv:1910.00177), step by step."""

from __future__ import annotations

import dataclasses

from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rlox.core.algorithm import Algorithm
from rlox.core.config import Config, setting
from rlox.core.losses import Metrics, expectile_loss, explained_variance, exponential_weight, whiten
from rlox.core.networks import Critic
from rlox.core.state import Networks
from rlox.core.transition import Transition
from rlox.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AWRConfig(Config):
    """Settings of AWR: weighted maximum likelihood on the replay, after every step or in rounds as published."""

    beta: float = setting(1.0, above=0)
    """Temperature: divides the advantage; lower is sharper."""
    max_advantage: float = setting(20.0, above=0)
    """Clamp of the exponentiated advantage, i.e. the largest weight."""
    n_critic_updates: int = setting(1, at_least=1)
    """Critic steps per update or per round, each on a fresh minibatch; in an update the actor learns from the last."""
    rollout_steps: int | None = setting(None, group="Rounds", at_least=1, fixed=True)
    """Learn in rounds, as published: environment steps collected between them; None learns after every step."""
    overlap: bool = setting(False, group="Rounds", fixed=True)
    """Collect the next steps while a round is learned, on a second core: the policy that acts is one round old."""
    n_actor_updates: int = setting(1, group="Rounds", at_least=1)
    """Actor steps per round, each on a fresh minibatch; an update of the schedule without rounds has one."""
    td_lambda: float = setting(0.0, group="Rounds", at_least=0, at_most=1)
    """Rounds: lambda of the TD(lambda) returns; 0 is one-step, 1 Monte-Carlo."""
    normalize_advantage: bool = setting(False)
    """Whiten the advantages, over the minibatch or a round's whole replay, before they are exponentiated."""
    tau: float = setting(1.0, above=0, at_most=1, fixed=True)
    """Step of the target critic, target += tau * (online - target); 1 bootstraps from the critic itself."""
    expectile: float = setting(0.5, above=0, below=1)
    """Expectile that the critic regresses to; one half is the mean, above it leans to the better outcomes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rollout_steps is None:
            if self.td_lambda > 0:
                raise ConfigError(
                    f"td_lambda={self.td_lambda:g} needs rounds, since every stored return changes with V: set "
                    "rollout_steps=2048 to relabel the replay once a round, or leave td_lambda at 0."
                )
            if self.n_actor_updates > 1:
                raise ConfigError(
                    f"n_actor_updates={self.n_actor_updates} needs rounds: set rollout_steps=2048, or use "
                    "updates_per_step."
                )
            if self.overlap:
                raise ConfigError("overlap=True needs rounds: set rollout_steps=2048, or leave overlap at False.")


def value_target(config: AWRConfig, networks: Networks, batch: Transition, key: PRNGKeyArray) -> Float[Array, " B"]:
    """Return ``r + gamma (1 - terminated) V(s')``; truncated steps bootstrap."""
    return batch.reward + config.gamma * (1.0 - batch.terminated) * networks.target_critic(batch.next_obs)


def critic_loss(
    config: AWRConfig, critic: Critic, batch: Transition, target: Float[Array, " B"]
) -> tuple[Float[Array, ""], Metrics]:
    """Return the mean of ``2 |expectile - 1[u < 0]| u^2``, ``u = (target - V) / value_scale``; at one half, ``u^2``."""
    value = critic(batch.obs)
    loss = expectile_loss((target - value) / config.value_scale, config.expectile)
    return loss, {"critic/explained_variance": explained_variance(target, value)}


def advantage(
    config: AWRConfig,
    networks: Networks,
    batch: Transition,
    target: Float[Array, " B"],
    key: PRNGKeyArray,
    where: Bool[Array, " B"] | None = None,
) -> Float[Array, " B"]:
    """Return ``target - V(s)`` under the critic after its step, whitened (over the samples ``where``) if asked."""
    difference = target - networks.critic(batch.obs)
    return whiten(difference, where) if config.normalize_advantage else difference


def weight(config: AWRConfig, advantage: Float[Array, " B"]) -> tuple[Float[Array, " B"], Metrics]:
    """Return ``min(exp(A / beta), max_advantage)``."""
    return exponential_weight(advantage, config.beta, config.max_advantage)


AWR = Algorithm(
    config=AWRConfig,
    critic=Critic,
    value_target=value_target,
    critic_loss=critic_loss,
    advantage=advantage,
    weight=weight,
)
