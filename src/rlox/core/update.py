"""The one update: a step of the critic, then a step of the actor by weighted maximum likelihood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from rlox.core.algorithm import ActorTarget, Algorithm, CriticFit
from rlox.core.layers import polyak, product
from rlox.core.losses import Metrics
from rlox.core.networks import Actor
from rlox.core.normalizer import Normalizer
from rlox.core.slots import check_critic, check_metrics, check_pair, check_per_sample, named, wrong
from rlox.core.state import TrainState
from rlox.core.transition import Transition
from rlox.errors import AlgorithmError

Update = Callable[..., tuple[TrainState, Metrics]]


def make_update(algorithm: Algorithm, config: Any) -> Update:
    """Return ``update(state, batches, key, actor_waits=None) -> (state, metrics)``.

    .. code-block:: text

        for batch in batches:                                  # n_critic_updates
            y = value_target(batch)                            # no gradient
            critic -= step * grad critic_loss(batch, y)
            target_critic += tau * (critic - target_critic)
        A = advantage(batch, y)                                # under the critic that has just moved
        s, a, w = actor_target(batch, A)                       # by default batch.obs, batch.action, weight(A)
        actor -= step * grad -mean_B sum_M w log pi(a|s)

    ``batches`` leads with ``(n_critic_updates, B)``; the actor learns from the last one, unless it waits.
    """
    critic_step, actor_step = make_critic_step(algorithm, config), make_actor_step(config)

    def fit_critic(state: TrainState, drawn: tuple[Transition, PRNGKeyArray]) -> tuple[TrainState, tuple[Any, Metrics]]:
        batch, key = drawn
        found = algorithm.value_target(config, state.networks(), batch, key)
        check_per_sample("value_target", algorithm.value_target, found, batch.reward.shape, several=True)
        target = lax.stop_gradient(found)
        state, metrics = critic_step(state, batch, target)
        return state, (target, metrics)

    def update(
        state: TrainState, batches: Transition, key: PRNGKeyArray, actor_waits: Array | None = None
    ) -> tuple[TrainState, Metrics]:
        advantage_key, actor_key, target_key = jax.random.split(key, 3)
        batch = jax.tree.map(lambda column: column[-1], batches)
        n = batches.reward.shape[0]
        if n == 1:
            state, (target, critic_metrics) = fit_critic(state, (batch, target_key))
        else:
            state, history = lax.scan(fit_critic, state, (batches, jax.random.split(target_key, n)))
            target, critic_metrics = jax.tree.map(lambda x: x[-1], history)
        networks = state.networks()
        advantage = algorithm.advantage(config, networks, batch, target, advantage_key)
        check_per_sample("advantage", algorithm.advantage, advantage, batch.reward.shape)
        fit = algorithm.actor_target(algorithm, config, networks, batch, advantage, actor_key)
        check_fit(algorithm, fit, batch)
        moved, actor_metrics = actor_step(state, fit)
        state = keep_where(actor_waits, state, moved)
        loss = actor_metrics["actor/loss"] + critic_metrics.get("critic/loss", 0.0)
        return mark_divergence(state, loss), {**actor_metrics, **critic_metrics, **fit.metrics}

    return update


def make_critic_step(
    algorithm: Algorithm, config: Any
) -> Callable[[TrainState, Transition, Any], tuple[TrainState, Metrics]]:
    """Return ``critic_step(state, batch, target) -> (state, metrics)``; the target critic follows.

    Without a critic the state is returned as it is.
    """
    optimizer = critic_optimizer(config)

    def critic_step(state: TrainState, batch: Transition, target: Any) -> tuple[TrainState, Metrics]:
        if state.critic is None:
            return state, {}

        def critic_loss(critic: Any) -> tuple[Array, tuple[Metrics, Any]]:
            found = algorithm.critic_loss(config, critic, batch, target)
            moved = found.critic if isinstance(found, CriticFit) else critic
            found = found[:2] if isinstance(found, CriticFit) else found
            check_pair("critic_loss", algorithm.critic_loss, found, ())
            return found[0], (found[1], moved)

        (loss, (metrics, moved)), grads = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
        updates, critic_opt = optimizer.update(grads, state.critic_opt)
        critic = eqx.apply_updates(moved, updates)
        target_critic = polyak(state.target_critic, critic, config.tau)
        state = state._replace(critic=critic, target_critic=target_critic, critic_opt=critic_opt)
        return state, {"critic/loss": loss, **metrics}

    return critic_step


def make_actor_step(config: Any) -> Callable[[TrainState, ActorTarget], tuple[TrainState, Metrics]]:
    """Return ``actor_step(state, fit) -> (state, metrics)``.

    The actor moves along the gradient of

        -mean_B sum_M stop_gradient(weight) log pi(a|s) - entropy_coef * mean(entropy) + penalties,

    where the penalties are ``bound_coef`` times half the squared excess of the mean over the action range,
    ``logit_coef`` times half the squared logits (Peng et al. 2019, released code), and what an algorithm asks for the
    KL divergence from a policy to stay near to. Metrics are those of the policy
    before the step.
    """
    optimizer = actor_optimizer(config)

    def actor_loss(actor: Actor, fit: ActorTarget) -> tuple[Array, Metrics]:
        policy = actor(fit.obs)
        log_prob = policy.log_prob(fit.action)
        loss = -(lax.stop_gradient(fit.weight) * log_prob).sum() / len(fit.obs)
        if config.entropy_coef:
            loss -= config.entropy_coef * policy.entropy().mean()
        if config.bound_coef or config.logit_coef:
            loss += policy.penalty(config.bound_coef, config.logit_coef).mean()
        if fit.anchor is not None:
            loss += product(fit.anchor_weight, policy.divergence(fit.anchor)).mean()
        return loss, {"actor/loss": loss, "policy/entropy": policy.entropy().mean(), **policy.metrics()}

    def actor_step(state: TrainState, fit: ActorTarget) -> tuple[TrainState, Metrics]:
        (_, metrics), grads = jax.value_and_grad(actor_loss, has_aux=True)(state.actor, fit)
        updates, actor_opt = optimizer.update(grads, state.actor_opt)
        actor = eqx.apply_updates(state.actor, updates)
        moved = state._replace(
            actor=actor,
            averaged_actor=polyak(state.averaged_actor, actor, config.actor_tau),
            actor_opt=actor_opt,
            gradient_steps=state.gradient_steps + 1,
            extra=state.extra if fit.extra is None else fit.extra,
        )
        return moved, metrics

    return actor_step


def keep_where(condition: Array | None, state: TrainState, moved: TrainState) -> TrainState:
    """Return ``moved``, or ``state`` if there is a condition and it holds."""
    if condition is None:
        return moved
    names = ("actor", "averaged_actor", "actor_opt", "gradient_steps", "extra")
    old, new = (tuple(getattr(each, name) for name in names) for each in (state, moved))
    kept = jax.tree.map(lambda old, new: jnp.where(condition, old, new), old, new)
    return moved._replace(**dict(zip(names, kept, strict=True)))


def mark_divergence(state: TrainState, loss: Float[Array, ""]) -> TrainState:
    """Return the state with the first gradient step whose loss is not finite noted."""
    failed = ~jnp.isfinite(loss) & (state.diverged_at < 0)
    return state._replace(diverged_at=jnp.where(failed, state.gradient_steps, state.diverged_at))


def check_fit(algorithm: Algorithm, fit: Any, batch: Transition, *, rounds: bool = False) -> None:
    """Refuse, while tracing, anything but actions to fit the policy to, and a weight for each.

    Raises:
        AlgorithmError: what was returned.
    """
    if not isinstance(fit, ActorTarget):
        raise wrong("actor_target", algorithm.actor_target, fit, "an ActorTarget")
    obs, action, weight = (jnp.shape(x) for x in (fit.obs, fit.action, fit.weight))
    wanted = (*weight, batch.action.shape[-1]), (*weight[-1:], *batch.obs.shape[1:])
    if (action, obs) != wanted or (rounds and weight != batch.reward.shape):
        rule = "(N, obs_dim), (N, action_dim) and (N,)" if rounds else "(B, obs_dim), (*M, B, action_dim) and (*M, B)"
        raise AlgorithmError(
            f"{named('actor_target', algorithm.actor_target)} returned obs, action and weight of shapes {obs}, "
            f"{action} and {weight}: they must have shapes {rule}."
        )
    if rounds and (fit.anchor is not None or fit.extra is not None):
        raise AlgorithmError(
            f"{named('actor_target', algorithm.actor_target)} returned an anchor, or what the algorithm adapts: rounds "
            "have no place for them. Leave rollout_steps at None."
        )
    check_metrics("actor_target", algorithm.actor_target, fit.metrics, ())


def make_optimizer(
    config: Any, learning_rate: float | Array | None, decay_steps: int | None = None
) -> optax.GradientTransformation:
    """Return Adam, or gradient descent with momentum, after a clip of the global gradient norm if one is set."""
    rate = config.learning_rate if learning_rate is None else learning_rate
    rate = rate if decay_steps is None else optax.cosine_decay_schedule(rate, decay_steps)
    rule = optax.adam(rate, b1=config.momentum) if config.optimizer == "adam" else optax.sgd(rate, config.momentum)
    if config.max_grad_norm is None:
        return optax.flatten(rule)
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.flatten(rule))


def actor_optimizer(config: Any) -> optax.GradientTransformation:
    """Return the actor's optimiser."""
    return make_optimizer(config, config.actor_learning_rate, config.actor_decay_steps)


def critic_optimizer(config: Any) -> optax.GradientTransformation:
    """Return the critic's optimiser."""
    return make_optimizer(config, config.critic_learning_rate)


def init_state(
    algorithm: Algorithm, config: Any, obs_dim: int, nvec: tuple[int, ...], action_dim: int, seed: int
) -> TrainState:
    """Return a fresh state.

    Args:
        algorithm: the algorithm.
        config: its settings.
        obs_dim: width of an encoded observation.
        nvec: number of choices of each discrete action component; empty for continuous actions.
        action_dim: number of action components.
        seed: the networks and all later sampling come from it.
    """
    rng = np.random.default_rng(seed)
    actor = Actor(config, obs_dim, nvec, action_dim, rng)
    critic = algorithm.critic(config, obs_dim, nvec, action_dim, rng)
    check_critic(algorithm.critic, critic, rounds=bool(config.rollout_steps))
    actor_rule: Any = actor_optimizer(config)
    critic_rule: Any = critic_optimizer(config)
    has_target = config.tau < 1 and not config.batch_norm
    return TrainState(
        actor=actor,
        critic=critic,
        target_critic=jax.tree.map(jnp.copy, critic) if has_target and critic is not None else None,
        actor_opt=actor_rule.init(actor),
        critic_opt=() if critic is None else critic_rule.init(critic),
        normalizer=Normalizer.create(obs_dim) if config.normalize_obs else None,
        key=jax.random.key(int(rng.integers(2**32))),
        gradient_steps=jnp.zeros((), jnp.int32),
        diverged_at=jnp.full((), -1, jnp.int32),
        extra=algorithm.extra(config, actor),
        averaged_actor=jax.tree.map(jnp.copy, actor) if config.actor_tau < 1 else None,
    )
