"""MPO: maximum a posteriori policy optimisation (Abdolmaleki et al. 2018, arXiv:1806.06920), with a price on entropy.

The policy is fitted to its **own** actions, weighted by what a critic says of them: no gradient goes through Q.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rlox.core.algorithm import ActorTarget, Algorithm, CriticFit
from rlox.core.config import ActionKind, Config, setting
from rlox.core.layers import polyak
from rlox.core.losses import Metrics, effective_sample_size, softmax_weight
from rlox.core.networks import Actor, QFunction
from rlox.core.q_learning import squared_error, squared_loss
from rlox.core.state import Networks
from rlox.core.transition import Transition
from rlox.errors import ConfigError

LOWEST_LAMBDA = 1e-5
"""Where the price of entropy stops falling: as good as 0, and near enough to rise again once entropy is short."""
ALPHA_RANGE = 1e-5, 1e5
"""Of the adapted weights of the divergence from the copy, for the same reason."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MPOConfig(Config):
    """Settings of MPO: a twin Q, and weights of the policy's own actions under a KL bound."""

    epsilon: float = setting(0.1, above=0, needs={"beta": None})
    """Mean KL divergence, in nats, of softmax(Q / beta) from the policy: what beta is solved for."""
    beta: float | None = setting(None, above=0)
    """Temperature: divides Q. None solves for the one that keeps to `epsilon`."""
    target_std: float | None = setting(0.15, above=0, needs={"actions": "continuous"})
    """Continuous actions: the policy's entropy is held at that of this standard deviation. None: the price stays."""
    target_entropy: float | None = setting(0.1, at_least=0, at_most=1, needs={"actions": "discrete"})
    """Discrete actions: the policy's entropy is held at this share of the largest. None: the price stays."""
    initial_lambda: float = setting(0.3, at_least=0, at_most=1, fixed=True)
    """First price of entropy, lambda."""
    lambda_learning_rate: float = setting(0.01, above=0)
    """How fast the price follows: log lambda grows by this times what the entropy is below its target, a component."""
    n_action_samples: int = setting(8, at_least=4, needs={"actions": "continuous"})
    """Continuous actions: the policy's actions in each state that it is fitted to; an even number. A single pair would
    say nothing of the standard deviation."""
    n_states: int = setting(64, at_least=1)
    """States of the minibatch in which it is fitted; at most `batch_size`."""
    n_target_samples: int = setting(1, at_least=1, needs={"actions": "continuous"})
    """Continuous actions: the policy's actions in the critic's target."""
    q_of: Literal["min", "mean"] = setting("min")
    """Which of the critics' values the weights are made of."""
    backup: Literal["mean", "logsumexp"] = setting("mean")
    """The next state's value: the mean, or as in QWR `beta log E exp(Q / beta)`, the same of a single target sample."""
    soft: bool = setting(False, needs={"backup": "mean"})
    """Whether the next state's value has the policy's entropy in it, at `lambda * beta` a nat, as in SAC."""
    replay_share: float = setting(0.0, at_least=0, at_most=1)
    """Share of the fit that goes to the minibatch's own actions, weighted as AWAC does; it keeps near the data."""
    learning_rate: float = setting(1e-3, group="Gradient steps", above=0)
    """Step size of actor and critic."""
    momentum: float = setting(0.5, group="Gradient steps", at_least=0, below=1)
    """Momentum of `sgd`; with `adam` its decay of the mean gradient, beta_1."""
    actor_tau: float = setting(0.01, group="Gradient steps", above=0, at_most=1, fixed=True)
    """Step of a Polyak copy of the actor, which evaluations, `predict` and exports use; 1 for the actor itself."""
    anchor_tau: float = setting(1.0, above=0, at_most=1, fixed=True)
    """Below 1: the actions are drawn by a Polyak copy of the actor, which moves by this share. 1: by itself."""
    anchor_coef: float = setting(0.0, at_least=0, fixed=True)
    """Weight of the KL divergence from that copy in the actor's loss. With bounds on it, the first one."""
    epsilon_mean: float | None = setting(None, above=0)
    """Bound of that divergence in the mean (discrete: in all), in nats; adapts the weight. None: it stays."""
    epsilon_std: float | None = setting(None, above=0, needs={"actions": "continuous"})
    """The same in the standard deviation."""
    anchor_learning_rate: float = setting(0.01, at_least=0)
    """How fast the weights follow: each logarithm grows by this times (KL / bound - 1), within 1."""
    n_critic_updates: int = setting(3, at_least=1)
    """Steps of the critic, each on a minibatch of its own, before one of the actor."""
    random_episodes: int = setting(5, group="Environment", at_least=0)
    """Episodes that have to end before the first update; not waited for beyond five times `learning_starts`."""
    train_freq: int = setting(3, group="Environment", at_least=1)
    """Steps of the environments between updates, which are then as many as for one step."""
    n_critics: int = setting(2, at_least=1, fixed=True)
    """Q functions; the smallest value counts in the target."""
    tau: float = setting(0.005, above=0, at_most=1, needs={"batch_norm": False}, fixed=True)
    """Step of the target critic, target += tau * (online - target)."""
    batch_norm: bool = setting(True, group="Networks", fixed=True)
    """Batch normalisation of the inputs of the critic's layers, which then is its own target (CrossQ)."""
    layer_norm: bool = setting(True, group="Networks", fixed=True)
    """Layer normalisation before each activation of the actor, and of a critic without batch normalisation."""
    normalize_obs: bool = setting(True, group="Observations", fixed=True)
    """Whiten observations by the running mean and standard deviation of those seen in training."""
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
    buffer_size: int = setting(1_000_000, group="Environment", at_least=1, fixed=True)
    """Replay capacity in transitions, shared evenly by the environments; the oldest are overwritten."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backup == "logsumexp" and self.beta is None:
            raise ConfigError("backup='logsumexp' needs a temperature of its own: set beta, such as beta=1.0.")
        if self.n_action_samples % 2:
            raise ConfigError(f"n_action_samples={self.n_action_samples} must be even: actions are drawn in pairs.")
        if self.n_states > self.batch_size:
            raise ConfigError(f"n_states={self.n_states} must be at most batch_size={self.batch_size}.")
        bounds = [name for name in ("epsilon_mean", "epsilon_std") if getattr(self, name) is not None]
        if self.anchor_tau == 1 and (bounds or self.anchor_coef):
            name = bounds[0] if bounds else "anchor_coef"
            raise ConfigError(f"{name}={getattr(self, name):g} needs a copy to stay near: set anchor_tau below 1.")
        if bounds and not self.anchor_coef:
            raise ConfigError(f"{bounds[0]} adapts anchor_coef from where it begins: set it, such as anchor_coef=1.0.")

    def doubts_on_data(self) -> list[str]:
        found = super().doubts_on_data()
        if not self.replay_share:
            found.append(
                "replay_share=0 fits the policy to actions that the data do not have, and its critic is wrong about "
                "them: set replay_share=1.0 to learn from data alone."
            )
        return found

    def idle(self, actions: ActionKind) -> dict[str, str]:
        target, found = "target_entropy" if actions == "discrete" else "target_std", dict[str, str]()
        if getattr(self, target) is None:
            found["lambda_learning_rate"] = f"with {target}=None: the price of entropy stays"
        if self.replay_share == 1 and not self.soft:
            names = ("target_std", "target_entropy", "initial_lambda", "lambda_learning_rate")
            found |= dict.fromkeys(names, "with replay_share=1.0: only the policy's own actions have a price")
        if self.epsilon_mean is None and self.epsilon_std is None:
            found["anchor_learning_rate"] = "without a bound: set epsilon_mean or epsilon_std"
        if self.n_critics == 1:
            found["q_of"] = "with n_critics=1"
        return found

    def check_actions(self, actions: ActionKind) -> None:
        target = "target_entropy" if actions == "discrete" else "target_std"
        if self.initial_lambda == 0 and getattr(self, target) is not None:
            raise ConfigError(f"initial_lambda=0 stays 0, whatever the entropy is: set it above 0, or {target}=None.")
        if actions == "continuous":
            self._check_target_std()
            most = math.log(self.n_action_samples)
            if self.beta is None and self.epsilon >= most:
                raise ConfigError(
                    f"epsilon={self.epsilon:g} cannot be reached: weights of n_action_samples={self.n_action_samples} "
                    f"actions are at most log({self.n_action_samples}) = {most:.3g} from even ones."
                )

    def _check_target_std(self) -> None:
        """Refuse a standard deviation that the policy cannot have, which the price would go after for ever."""
        target = self.target_std
        if target is None:
            return
        if not self.learn_std and target != self.initial_std:
            raise ConfigError(
                f"target_std={target:g} cannot be reached: learn_std=False keeps the standard deviation at "
                f"initial_std={self.initial_std:g}. Set target_std=None."
            )
        for name, beyond in (("min_std", target < self.min_std), ("max_std", target > (self.max_std or math.inf))):
            if self.learn_std and beyond:
                raise ConfigError(
                    f"target_std={target:g} cannot be reached: it is beyond {name}={getattr(self, name):g}."
                )


class Adapted(NamedTuple):
    """What MPO adapts besides its networks."""

    log_lambda: Float[Array, ""]
    """Logarithm of the entropy's price while the entropy is at its target; at most 0."""
    temperature: Float[Array, ""]
    """``lambda beta`` of the last step: what a nat of entropy is worth."""
    anchor: Actor | None
    """Polyak copy of the actor; None if the actor itself draws the actions."""
    log_alpha: Float[Array, " k"]
    """Logarithms of the weights of the divergence from that copy: in mean and std, or of choices in all."""


def adapted(config: MPOConfig, actor: Actor) -> Adapted:
    """Return where these begin.

    Raises:
        ConfigError: ``epsilon`` is out of reach of the choices.
    """
    n, epsilon = math.prod(actor.nvec), config.epsilon
    if n > 1 and config.beta is None and epsilon >= math.log(n):
        raise ConfigError(
            f"epsilon={epsilon:g} cannot be reached: weights of {n} actions are at most log({n}) = {math.log(n):.3g} "
            "from even ones. Lower it."
        )
    return Adapted(
        log_lambda=jnp.log(jnp.float32(config.initial_lambda)),
        temperature=jnp.float32(config.initial_lambda * (config.beta or 0.0)),
        anchor=None if config.anchor_tau == 1 else jax.tree.map(jnp.copy, actor),
        log_alpha=jnp.full(1 if actor.nvec else 2, jnp.log(jnp.float32(config.anchor_coef))),
    )


class NextActions(NamedTuple):
    """The policy's actions in the next states, which a batch-normalised critic values beside the batch's own."""

    action: Array
    """``(M, B, action_dim)``."""
    probability: Float[Array, "M B"]
    bonus: Float[Array, " B"]
    """What the entropy there is worth; 0 without ``soft``."""


def value_target(config: MPOConfig, networks: Networks, batch: Transition, key: PRNGKeyArray) -> Any:
    """Return ``r + gamma (1 - terminated) V(s')`` of the target critic, or for its loss the actions at ``s'``."""
    policy = networks.actor(batch.next_obs)
    action, probability = lax.stop_gradient(policy.support(key, config.n_target_samples))
    bonus = networks.extra.temperature * policy.entropy() if config.soft else jnp.zeros_like(batch.reward)
    following = NextActions(action, jnp.asarray(probability), bonus)
    if config.batch_norm:
        return following
    return backup(config, batch, networks.target_critic(batch.next_obs, action), following)


def backup(
    config: MPOConfig, batch: Transition, next_q: Float[Array, "E M B"], following: NextActions
) -> Float[Array, " B"]:
    """Return ``r + gamma (1 - terminated) V(s')``, of the smallest Q under the policy.

    ``V`` is ``E Q``, with ``soft`` plus ``lambda beta`` times the entropy, or ``beta log E exp(Q / beta)``.
    """
    q = next_q.min(axis=0)
    if config.backup == "logsumexp" and config.beta:
        value = config.beta * jax.nn.logsumexp(q / config.beta, b=following.probability, axis=0)
    else:
        value = (following.probability * q).sum(axis=0) + following.bonus
    return batch.reward + config.gamma * (1.0 - batch.terminated) * value


def critic_loss(
    config: MPOConfig, critic: QFunction, batch: Transition, target: Any
) -> tuple[Float[Array, ""], Metrics] | CriticFit:
    """Return the squared loss; with batch normalisation of targets from the same pass (Bhatt et al. 2024, CrossQ)."""
    if not config.batch_norm:
        return squared_loss(config, critic, batch, target)
    q, next_q, moved = critic.in_training(batch.obs, batch.action, batch.next_obs, target.action)
    found = lax.stop_gradient(backup(config, batch, next_q, target))
    return CriticFit(*squared_error(config, q, found), moved)


def actor_target(
    algorithm: Algorithm,
    config: MPOConfig,
    networks: Networks,
    batch: Transition,
    advantage: Float[Array, " B"],
    key: PRNGKeyArray,
    where: Bool[Array, " B"] | None = None,
) -> ActorTarget:
    """Return the policy's own actions in the first ``n_states`` of the batch, and their weights.

    .. code-block:: text

        w_i = softmax_i(log p_i + Q(s, a_i) / beta - lambda log pi(a_i|s))

    ``p_i`` is the share that an action stands for: of samples ``1 / M``, of all discrete actions their probability.
    ``beta`` is such that the mean KL divergence of ``softmax(log p + Q / beta)`` from ``p`` is ``epsilon``. The fixed
    point of this regression is ``pi`` proportional to ``exp(Q / (lambda beta))``: without a price on entropy, a fit to
    one's own actions always narrows. Of ``gap``, what the entropy is below its target per action component,

    .. code-block:: text

        lambda = min(Lambda exp(gap), 1)        Lambda *= exp(rate gap)

    The second alone would swing: the price drives the rate at which the entropy changes. It stays within
    ``LOWEST_LAMBDA`` and 1.
    """
    obs, extra = batch.obs[: config.n_states], networks.extra
    actor: Actor = networks.actor if extra.anchor is None else extra.anchor
    policy = actor(obs)
    action, probability = policy.balanced(key, config.n_action_samples)
    of_critics = jnp.min if config.q_of == "min" else jnp.mean
    q = of_critics(networks.critic.of_several(obs, action), axis=0)
    log_prob = policy.log_prob(action)
    prior = log_prob if actor.nvec else jnp.log(probability)  # of choices, p may be 0 in float32
    beta = solve_beta(q, probability, config.epsilon) if config.beta is None else jnp.float32(config.beta)
    target = _target_entropy(config, actor)
    gap = jnp.zeros(()) if target is None else (target - policy.entropy().mean()) / actor.action_dim
    price = jnp.exp(jnp.minimum(extra.log_lambda + gap, 0.0))
    weight = jax.nn.softmax(prior + q / beta - price * log_prob, axis=0)
    metrics = {
        "weight/beta": beta,
        "weight/lambda": price,
        "weight/effective_sample_size": (1 / (weight**2).sum(axis=0)).mean() / len(weight),
        "weight/kl": _divergence(q / beta, prior),
        "advantage/std": jnp.sqrt((probability * (q - (probability * q).sum(axis=0)) ** 2).sum(axis=0)).mean(),
    }
    if config.replay_share:
        taken = of_critics(networks.critic(obs, batch.action[: len(obs)]), axis=0)
        advantage = taken - (probability * q).sum(axis=0)
        seen = softmax_weight(advantage / beta, 1.0)
        metrics["weight/replay_effective_sample_size"] = effective_sample_size(seen)
        action = jnp.concatenate([action, batch.action[None, : len(obs)]])
        weight = jnp.concatenate([(1 - config.replay_share) * weight, config.replay_share * seen[None]])
    log_lambda = extra.log_lambda
    if target is not None:
        log_lambda = jnp.clip(log_lambda + config.lambda_learning_rate * gap, math.log(LOWEST_LAMBDA), 0.0)
    fit = ActorTarget(
        obs, action, weight, metrics, extra=extra._replace(log_lambda=log_lambda, temperature=price * beta)
    )
    return fit if extra.anchor is None else _near(config, fit, policy, networks.actor)


def _near(config: MPOConfig, fit: ActorTarget, anchor: Any, actor: Actor) -> ActorTarget:
    """Return the fit with a price on the KL divergence from ``anchor``, and what follows the actor.

    ``log alpha += rate (KL / epsilon - 1)``, each for its part of the divergence, within ``ALPHA_RANGE``.
    """
    extra: Adapted = fit.extra
    divergence = actor(fit.obs).divergence(anchor).mean(axis=-1)
    bounds = (config.epsilon_mean, config.epsilon_std)[: len(divergence)]

    def adapt(log_alpha: Array, kl: Array, bound: float | None) -> Array:
        if bound is None:
            return log_alpha
        moved = log_alpha + config.anchor_learning_rate * jnp.clip(kl / bound - 1, -1, 1)
        return jnp.clip(moved, *map(math.log, ALPHA_RANGE))

    log_alpha = [adapt(*each) for each in zip(extra.log_alpha, divergence, bounds, strict=True)]
    copy = polyak(extra.anchor, actor, config.anchor_tau)
    return fit._replace(
        anchor=anchor,
        anchor_weight=jnp.exp(extra.log_alpha),
        metrics={**fit.metrics, "policy/anchor_kl": divergence.sum()},
        extra=extra._replace(anchor=copy, log_alpha=jnp.stack(log_alpha)),
    )


def _target_entropy(config: MPOConfig, actor: Actor) -> float | None:
    """Return the entropy that the price holds, in nats; None if it stays as it is."""
    if actor.nvec:
        share = config.target_entropy
        return None if share is None else share * sum(map(math.log, actor.nvec))
    std = config.target_std
    return None if std is None else actor.action_dim * (math.log(std) + 0.5 * math.log(2 * math.pi * math.e))


def solve_beta(q: Float[Array, "M B"], probability: Float[Array, "M B"], epsilon: float) -> Float[Array, ""]:
    """Return the temperature at which ``softmax(log p + q / beta)`` is ``epsilon`` nats from ``p``, in the mean.

    ``p`` is the policy mixed with as much of the uniform one as keeps the bound in reach where the policy is sure of
    the best action already (samples have equal shares, and are left as they are). By 20 bisections of the logarithm
    of ``beta``, between 1/1,000 and 1,000 times the values' standard deviation.
    """
    n = len(q)
    uniform = min((1 - math.exp(-2 * epsilon)) * n / (n - 1), 1.0) if n > 1 else 0.0
    prior = jnp.log((1 - uniform) * probability + uniform / n)
    unit = q.std(axis=0).mean() + 1e-8

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        too_sharp = _divergence(q / (unit * jnp.exp(middle)), prior) > epsilon
        return jnp.where(too_sharp, middle, low), jnp.where(too_sharp, high, middle)

    low, high = lax.fori_loop(0, 20, halve, (jnp.asarray(-6.9), jnp.asarray(6.9)))
    return unit * jnp.exp(0.5 * (low + high))


def _divergence(score: Float[Array, "M B"], prior: Float[Array, "M B"]) -> Float[Array, ""]:
    """Return the mean KL divergence of ``softmax(prior + score)`` from the prior."""
    log_weight = jax.nn.log_softmax(prior + score, axis=0)
    return (jnp.exp(log_weight) * (log_weight - prior)).sum(axis=0).mean()


MPO = Algorithm(
    config=MPOConfig,
    critic=QFunction,
    value_target=value_target,
    critic_loss=critic_loss,
    actor_target=actor_target,
    extra=adapted,
)
