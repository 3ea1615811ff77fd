"""MPO: maximum a posteriori policy optimisation (Abdolmaleki et al. 2018, arXiv:1806.06920), with a target entropy.

The policy is fitted to its **own** sampled actions, weighted by how good the critic says they are.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rlox.core.algorithm import ActorTarget, Algorithm
from rlox.core.config import Config, setting
from rlox.core.networks import Actor, QFunction
from rlox.core.q_learning import squared_loss
from rlox.core.state import Networks, Transition


@dataclasses.dataclass(frozen=True, kw_only=True)
class MPOConfig(Config):
    """Settings of MPO: a twin Q, and weights of the policy's own actions under a KL bound."""

    epsilon: float = setting(0.1, above=0, needs={"beta": None})
    """Mean KL divergence, in nats, of the weights softmax(Q / beta) from the policy: what beta is solved for."""
    beta: float | None = setting(None, above=0)
    """Temperature: divides Q. None solves for the one that keeps to `epsilon`."""
    target_std: float = setting(0.3, above=0, needs={"actions": "continuous"})
    """Continuous actions: the policy's entropy is held at that of this standard deviation."""
    target_entropy: float = setting(0.1, at_least=0, at_most=1, needs={"actions": "discrete"})
    """Discrete actions: the policy's entropy is held at this share of the largest."""
    entropy_learning_rate: float = setting(1e-3, at_least=0)
    """Step size of the logarithm of the entropy's price, lambda."""
    initial_lambda: float = setting(0.1, above=0, at_most=1)
    """First price of the entropy; with `entropy_learning_rate` 0 the only one."""
    n_action_samples: int = setting(8, at_least=2, needs={"actions": "continuous"})
    """Continuous actions: the policy's actions in each state that it is fitted to."""
    n_states: int = setting(128, at_least=1)
    """States of the minibatch in which it is fitted."""
    n_target_samples: int = setting(1, at_least=1, needs={"actions": "continuous"})
    """Continuous actions: the policy's actions in the critic's target."""
    weigh_by: Literal["min", "mean"] = setting("min")
    """Which of the critics' values the weights are made of."""
    backup: Literal["mean", "logsumexp"] = setting("mean", needs={"actions": "continuous"})
    """The target's value of the next state: the policy's mean, or, as in QWR, `beta log mean exp(Q / beta)`."""
    n_critics: int = setting(2, at_least=1, fixed=True)
    """Q functions; the smallest value counts in the target."""
    tau: float = setting(0.005, above=0, at_most=1, fixed=True)
    """Step of the target critic, target += tau * (online - target)."""
    layer_norm: bool = setting(True, group="Networks", fixed=True)
    """Layer normalisation before each activation of actor and critic."""
    bound_coef: float = setting(10.0, group="Policy", at_least=0, needs={"actions": "continuous"})
    """Continuous actions: weight of a penalty on means outside the action range (half their squared excess)."""
    state_dependent_std: bool = setting(
        True, group="Policy", needs={"actions": "continuous", "learn_std": True}, fixed=True
    )
    """Continuous actions: learn the standard deviation as a function of the observation."""
    initial_std: float = setting(0.5, group="Policy", above=0, needs={"actions": "continuous"}, fixed=True)
    """Continuous actions: the policy's first standard deviation, in units of half the action range."""
    max_std: float | None = setting(
        0.8, group="Policy", above=0, needs={"actions": "continuous", "learn_std": True}, fixed=True
    )
    """Continuous actions: largest standard deviation, in the same units; None for no limit."""


class Adapted(NamedTuple):
    """What MPO adapts besides its networks."""

    log_lambda: Float[Array, ""]
    """Logarithm of the entropy's price; at most 0."""


def adapted(config: MPOConfig, actor: Actor) -> Adapted:
    """Return where the price begins."""
    return Adapted(jnp.asarray(math.log(config.initial_lambda), jnp.float32))


def value_target(config: MPOConfig, networks: Networks, batch: Transition, key: PRNGKeyArray) -> Float[Array, " B"]:
    """Return ``r + gamma (1 - terminated) E_pi min Q'(s', .)``, or with the log-sum-exp over the samples."""
    action, probability = lax.stop_gradient(networks.actor(batch.next_obs).support(key, config.n_target_samples))
    values = networks.target_critic(batch.next_obs, action).min(axis=0)
    if config.backup == "mean":
        value = (probability * values).sum(axis=0)
    else:
        value = config.beta * jax.nn.logsumexp(values / config.beta, b=probability, axis=0)
    return batch.reward + config.gamma * (1.0 - batch.terminated) * value


def actor_target(
    algorithm: Algorithm,
    config: MPOConfig,
    networks: Networks,
    batch: Transition,
    advantage: Float[Array, " B"],
    key: PRNGKeyArray,
    where: Bool[Array, " B"] | None = None,
) -> ActorTarget:
    """Return the policy's own actions in some of the batch's states, with the weights

        w_i = softmax_i(log p_i + Q(s, a_i) / beta - lambda log pi(a_i|s)),

    where ``p_i`` is the share that a sample stands for (of discrete actions, which are all there, its probability).
    ``beta`` is such that the mean KL divergence of ``softmax(log p + Q / beta)`` from ``p`` is ``epsilon``. ``lambda``
    rises while the entropy is below its target: ``log lambda += rate (target - entropy) / action_dim``.
    """
    obs = batch.obs[: config.n_states]
    policy = networks.actor(obs)
    action, probability = policy.support(key, config.n_action_samples)
    critics: QFunction = networks.critic
    values = critics(obs, action)
    q = values.min(axis=0) if config.weigh_by == "min" else values.mean(axis=0)
    prior = jnp.log(jnp.maximum(probability, 1e-12))
    beta = solve_beta(q, prior, config.epsilon) if config.beta is None else jnp.asarray(config.beta)
    price = jnp.exp(networks.extra.log_lambda)
    log_weight = prior + q / beta - price * policy.log_prob(action)
    weight = jax.nn.softmax(log_weight, axis=0)
    entropy = policy.entropy().mean()
    extra = Adapted(jnp.minimum(networks.extra.log_lambda + _entropy_step(config, networks.actor, entropy), 0.0))
    metrics = {
        "weight/beta": beta,
        "weight/lambda": price,
        "weight/effective_sample_size": _share(weight),
        "advantage/std": q.std(axis=0).mean(),
    }
    return ActorTarget(obs, action, weight, metrics, extra)


def _share(weight: Float[Array, "M B"]) -> Float[Array, ""]:
    return (1 / (weight**2).sum(axis=0)).mean() / len(weight)


def _entropy_step(config: MPOConfig, actor: Actor, entropy: Float[Array, ""]) -> Float[Array, ""]:
    if actor.nvec:
        target, size = config.target_entropy * sum(math.log(n) for n in actor.nvec), len(actor.nvec)
    else:
        size = actor.network.biases[-1].shape[0] // (1 + actor.state_std)
        target = size * (math.log(config.target_std) + 0.5 * math.log(2 * math.pi * math.e))
    return config.entropy_learning_rate * (target - entropy) / size


def solve_beta(q: Float[Array, "M B"], prior: Float[Array, "M B"], epsilon: float) -> Float[Array, ""]:
    """Return the temperature at which the mean KL divergence of ``softmax(prior + q / beta)`` from ``prior`` is epsilon.

    By 20 bisections of its logarithm, between 1/1,000 and 1,000 times the values' standard deviation.
    """
    unit = q.std(axis=0).mean() + 1e-8

    def divergence(log_beta: Float[Array, ""]) -> Float[Array, ""]:
        log_weight = jax.nn.log_softmax(prior + q / (unit * jnp.exp(log_beta)), axis=0)
        return (jnp.exp(log_weight) * (log_weight - prior)).sum(axis=0).mean()

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        too_sharp = divergence(middle) > epsilon
        return jnp.where(too_sharp, middle, low), jnp.where(too_sharp, high, middle)

    low, high = lax.fori_loop(0, 20, halve, (jnp.asarray(-6.9), jnp.asarray(6.9)))
    return unit * jnp.exp(0.5 * (low + high))


MPO = Algorithm(
    config=MPOConfig,
    critic=QFunction,
    value_target=value_target,
    critic_loss=squared_loss,
    actor_target=actor_target,
    extra=adapted,
)
