"""The family's steps: of the critic, of the actor by weighted maximum likelihood, and the update made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float

from rlox.core.config import Config
from rlox.core.distributions import Policy
from rlox.core.networks import Actor
from rlox.core.normalizer import Normalizer
from rlox.core.state import TrainState, Transition
from rlox.core.weights import effective_sample_size

Metrics = dict[str, Array]

# Set apart the random numbers of an update from each other, and from the splits of the same key.
_TARGET, _ADVANTAGE = 2**31 - 1, 2**31 - 2


class Algorithm(NamedTuple):
    """A member of the family: its settings and the holes that it fills in the update."""

    config: type[Config]
    critic: Callable[..., Any]
    """``(config, obs_dim, nvec, action_dim, rng) -> critic``; None for a member without one."""
    value_target: Callable[..., Any]
    """``(config, networks, batch, key) -> (B,)``, or a tuple of such; taken without gradient."""
    predict: Callable[..., Any]
    """``(critic, batch) -> (B,)``, or a tuple of such: what stands against the target; ensembles lead."""
    critic_loss: Callable[..., Array]
    """``(config, target, predicted) -> ()``."""
    advantage: Callable[..., Array]
    """``(config, networks, batch, target, key, where=None) -> (B,)``, its statistics of the samples ``where``."""
    weight: Callable[..., Array]
    """``(config, advantage) -> (B,)``."""


class Steps(NamedTuple):
    """One gradient step of each network."""

    critic: Callable[[TrainState, Transition, Any], tuple[TrainState, Array]]
    """``(state, batch, value_target) -> (state, loss)``; the target critic follows."""
    actor: Callable[[TrainState, Transition, Array], tuple[TrainState, tuple[Array, Policy]]]
    """``(state, batch, weight) -> (state, (loss, policy))``, the policy as it was before the step."""


def make_optimizer(
    config: Any, learning_rate: float | None, decay_steps: int | None = None
) -> optax.GradientTransformation:
    """Return Adam, or gradient descent with momentum, behind a clip of the global gradient norm where one is set."""
    rate = config.learning_rate if learning_rate is None else learning_rate
    rate = rate if decay_steps is None else optax.cosine_decay_schedule(rate, decay_steps)
    rule = optax.adam(rate) if config.optimizer == "adam" else optax.sgd(rate, config.momentum)
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
        algorithm: the member.
        config: its settings.
        obs_dim: width of an encoded observation.
        nvec: number of choices of each discrete action component; empty for continuous actions.
        action_dim: number of action components.
        seed: the networks and all later sampling come from it.
    """
    rng = np.random.default_rng(seed)
    actor = Actor(config, obs_dim, nvec, action_dim, rng)
    critic = algorithm.critic(config, obs_dim, nvec, action_dim, rng)
    optimizers: Any = actor_optimizer(config), critic_optimizer(config)
    return TrainState(
        actor=actor,
        critic=critic,
        target_critic=jax.tree.map(jnp.copy, critic) if config.tau < 1 and critic is not None else None,
        actor_opt=optimizers[0].init(actor),
        critic_opt=() if critic is None else optimizers[1].init(critic),
        normalizer=Normalizer.create(obs_dim) if config.normalize_obs else None,
        key=jax.random.key(int(rng.integers(2**32))),
        gradient_steps=jnp.zeros((), jnp.int32),
        diverged_at=jnp.full((), -1, jnp.int32),
    )


def make_steps(algorithm: Algorithm, config: Any) -> Steps:
    """Return the gradient steps of a member.

    The actor moves along the gradient of

        -mean(stop_gradient(weight) * log pi(a|s)) - entropy_coef * mean(entropy) + penalties,

    the penalties being ``bound_coef`` times half the squared excess of the mean over the action range, and
    ``logit_coef`` times half the squared logits (Peng et al. 2019, released code).
    """
    optimizers = actor_optimizer(config), critic_optimizer(config)

    def critic_step(state: TrainState, batch: Transition, target: Any) -> tuple[TrainState, Array]:
        def critic_loss(critic: Any) -> Array:
            return algorithm.critic_loss(config, target, algorithm.predict(critic, batch))

        loss, grads = jax.value_and_grad(critic_loss)(state.critic)
        updates, critic_opt = optimizers[1].update(grads, state.critic_opt)
        critic = eqx.apply_updates(state.critic, updates)
        target_critic = state.target_critic
        if target_critic is not None:
            target_critic = jax.tree.map(lambda old, new: old + config.tau * (new - old), target_critic, critic)
        return state._replace(critic=critic, target_critic=target_critic, critic_opt=critic_opt), loss

    def actor_loss(actor: Actor, batch: Transition, weight: Array) -> tuple[Array, Policy]:
        policy = actor(batch.obs)
        log_prob = policy.log_prob(batch.action)
        check_per_sample(batch, log_prob=log_prob, weight=weight)
        loss = -(lax.stop_gradient(weight) * log_prob).mean()
        if config.entropy_coef:
            loss -= config.entropy_coef * policy.entropy().mean()
        if config.bound_coef or config.logit_coef:
            loss += policy.penalty(config.bound_coef, config.logit_coef).mean()
        return loss, policy

    def actor_step(state: TrainState, batch: Transition, weight: Array) -> tuple[TrainState, tuple[Array, Policy]]:
        (loss, policy), grads = jax.value_and_grad(actor_loss, has_aux=True)(state.actor, batch, weight)
        updates, actor_opt = optimizers[0].update(grads, state.actor_opt)
        return state._replace(
            actor=eqx.apply_updates(state.actor, updates),
            actor_opt=actor_opt,
            gradient_steps=state.gradient_steps + 1,
        ), (loss, policy)

    return Steps(critic_step, actor_step)


def make_update(algorithm: Algorithm, config: Any) -> Callable[..., tuple[TrainState, Metrics]]:
    """Return ``update(state, batches, actor_waits=None) -> (state, metrics)``.

    ``batches`` leads with ``(n_critic_updates, B)``. Each moves the critic, if there is one, once. The last one then
    gives the advantages, under the critic as it is after its step, and moves the actor, unless it waits.
    """
    steps = make_steps(algorithm, config)

    def critic_step(state: TrainState, batch: Transition) -> tuple[TrainState, tuple[Array, Any]]:
        target = lax.stop_gradient(algorithm.value_target(config, state.networks(), batch, target_key(state)))
        for value_target in jax.tree.leaves(target):
            check_per_sample(batch, value_target=value_target)
        if state.critic is None:
            return state, (jnp.zeros(()), target)
        state, loss = steps.critic(state, batch, target)
        return state, (loss, target)

    def target_key(state: TrainState) -> Array:
        return jax.random.fold_in(state.key, _TARGET)

    def update(state: TrainState, batches: Transition, actor_waits: Array | None = None) -> tuple[TrainState, Metrics]:
        first = jax.tree.map(lambda column: column[0], batches)
        batch = jax.tree.map(lambda column: column[-1], batches)
        if batches.reward.shape[0] == 1:
            state, (critic_loss, target) = critic_step(state, first)
        else:
            state, history = lax.scan(critic_step, state, batches)
            critic_loss, target = jax.tree.map(lambda x: x[-1], history)
        networks = state.networks()
        advantage = algorithm.advantage(config, networks, batch, target, jax.random.fold_in(state.key, _ADVANTAGE))
        weight = algorithm.weight(config, advantage)
        check_per_sample(batch, advantage=advantage)
        moved, (actor_loss, policy) = steps.actor(state, batch, weight)
        state = keep_actor(actor_waits, moved, state)
        state = mark_divergence(state, actor_loss + critic_loss)
        return state, {
            "actor/loss": actor_loss,
            **describe_critic(algorithm, networks.critic, batch, target, critic_loss),
            **describe_weights(config, advantage, weight),
            "policy/entropy": policy.entropy().mean(),
            **policy.metrics(),
        }

    return update


def keep_actor(actor_waits: Array | None, moved: TrainState, state: TrainState) -> TrainState:
    """Return the state with the actor moved; where there is a condition and it holds, as it was."""
    if actor_waits is None:
        return moved

    def actor_of(state: TrainState) -> Any:
        return state.actor, state.actor_opt, state.gradient_steps

    kept = jax.tree.map(lambda new, old: jnp.where(actor_waits, old, new), actor_of(moved), actor_of(state))
    return moved._replace(actor=kept[0], actor_opt=kept[1], gradient_steps=kept[2])


def mark_divergence(state: TrainState, loss: Float[Array, ""]) -> TrainState:
    """Return the state with the first gradient step whose loss is not finite noted."""
    failed = ~jnp.isfinite(loss) & (state.diverged_at < 0)
    return state._replace(diverged_at=jnp.where(failed, state.gradient_steps, state.diverged_at))


def describe_critic(algorithm: Algorithm, critic: Any, batch: Transition, target: Any, loss: Array) -> Metrics:
    """Return the critic's metrics; of several predictions the first one's."""
    if critic is None:
        return {}
    first, predicted = (jax.tree.leaves(x)[0] for x in (target, algorithm.predict(critic, batch)))
    mean = predicted.reshape(-1, len(first)).mean(axis=0)
    return {"critic/loss": loss, "critic/explained_variance": explained_variance(first, mean)}


def explained_variance(target: Array, predicted: Array, where: Array | None = None) -> Float[Array, ""]:
    """Return ``1 - var(target - predicted) / var(target)`` of the samples ``where``."""
    return 1 - (target - predicted).var(where=where) / (target.var(where=where) + 1e-8)


def describe_weights(config: Any, advantage: Array, weight: Array, where: Array | None = None) -> Metrics:
    """Return the metrics of advantages and weights, of the samples ``where``."""
    return {
        "advantage/mean": advantage.mean(where=where),
        "advantage/std": advantage.std(where=where),
        "weight/mean": weight.mean(where=where),
        "weight/max": weight.max(where=where, initial=0.0),
        "weight/clipped_fraction": (weight >= config.max_advantage).mean(where=where),
        "weight/effective_sample_size": effective_sample_size(weight, where),
    }


def check_per_sample(batch: Transition, **arrays: Array) -> None:
    """Refuse, while tracing, anything that would broadcast ``(B,)`` against ``(B, 1)``."""
    for name, array in arrays.items():
        if array.shape != batch.reward.shape:
            raise TypeError(f"{name} has shape {array.shape}, but one number a sample is {batch.reward.shape}")
