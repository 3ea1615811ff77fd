"""The family's one update: critic steps, advantage, weight, a weighted maximum-likelihood step, metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array

from rlox.core.config import Config
from rlox.core.networks import MLP, Actor, value
from rlox.core.state import TrainState, Transition
from rlox.core.weights import effective_sample_size

Metrics = dict[str, Array]


class Algorithm(NamedTuple):
    """A member of the family: its settings and the holes that it fills in the update."""

    config: type[Config]
    value_target: Callable[..., Array]
    """``(config, target_critic, batch) -> (B,)``."""
    critic_loss: Callable[..., Array]
    """``(config, critic, batch, target) -> ()``."""
    advantage: Callable[..., Array]
    """``(config, critic, batch, target) -> (B,)``."""
    weight: Callable[..., Array]
    """``(config, advantage) -> (B,)``."""


def make_optimizer(config: Any) -> optax.GradientTransformation:
    """Return Adam, behind a clip of the global gradient norm where one is set."""
    adam = optax.flatten(optax.adam(config.learning_rate))
    if config.max_grad_norm is None:
        return adam
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adam)


def init_state(config: Any, obs_dim: int, nvec: tuple[int, ...], action_dim: int, seed: int) -> TrainState:
    """Return a fresh state.

    Args:
        config: the member's settings.
        obs_dim: width of an encoded observation.
        nvec: number of choices of each discrete action component; empty for continuous actions.
        action_dim: number of action components.
        seed: the networks and all later sampling come from it.
    """
    rng = np.random.default_rng(seed)
    n_out = sum(nvec) if nvec else action_dim
    actor = Actor(
        network=MLP((obs_dim, *config.widths, n_out), layer_norm=config.layer_norm, rng=rng),
        log_std=None if nvec else jnp.full(action_dim, jnp.log(config.initial_std - config.min_std)),
        nvec=nvec,
        min_std=config.min_std,
    )
    critic = MLP((obs_dim, *config.widths, 1), layer_norm=config.layer_norm, rng=rng)
    optimizer: Any = make_optimizer(config)
    return TrainState(
        actor=actor,
        critic=critic,
        target_critic=jax.tree.map(jnp.copy, critic) if config.tau < 1 else None,
        actor_opt=optimizer.init(actor),
        critic_opt=optimizer.init(critic),
        key=jax.random.key(int(rng.integers(2**32))),
        gradient_steps=jnp.zeros((), jnp.int32),
        diverged_at=jnp.full((), -1, jnp.int32),
    )


def make_update(algorithm: Algorithm, config: Any) -> Callable[[TrainState, Transition], tuple[TrainState, Metrics]]:
    """Return ``update(state, batches) -> (state, metrics)``; ``batches`` leads with ``(n_critic_updates, B)``.

    Each batch moves the critic once. The last one then gives the advantages, under the critic as it is after
    its step, and moves the actor along the gradient of

        -mean(stop_gradient(weight) * log pi(a|s)) - entropy_coef * mean(entropy).
    """
    optimizer = make_optimizer(config)

    def critic_step(state: TrainState, batch: Transition) -> tuple[TrainState, tuple[Array, Array]]:
        bootstrap = state.critic if state.target_critic is None else state.target_critic
        target = lax.stop_gradient(algorithm.value_target(config, bootstrap, batch))
        _check_per_sample(batch, value_target=target)
        loss, grads = jax.value_and_grad(lambda critic: algorithm.critic_loss(config, critic, batch, target))(
            state.critic
        )
        updates, critic_opt = optimizer.update(grads, state.critic_opt)
        critic = eqx.apply_updates(state.critic, updates)
        target_critic = state.target_critic
        if target_critic is not None:
            target_critic = jax.tree.map(lambda old, new: old + config.tau * (new - old), target_critic, critic)
        return state._replace(critic=critic, target_critic=target_critic, critic_opt=critic_opt), (loss, target)

    def actor_loss(actor: Actor, batch: Transition, weight: Array) -> tuple[Array, Metrics]:
        policy = actor(batch.obs)
        log_prob = policy.log_prob(batch.action)
        entropy = policy.entropy()
        _check_per_sample(batch, log_prob=log_prob, entropy=entropy)
        loss = -(weight * log_prob).mean()
        if config.entropy_coef:
            loss -= config.entropy_coef * entropy.mean()
        return loss, {"policy/entropy": entropy.mean(), **policy.metrics()}

    def update(state: TrainState, batches: Transition) -> tuple[TrainState, Metrics]:
        first = jax.tree.map(lambda column: column[0], batches)
        batch = jax.tree.map(lambda column: column[-1], batches)
        if batches.reward.shape[0] == 1:
            state, (critic_loss, target) = critic_step(state, first)
        else:
            state, history = lax.scan(critic_step, state, batches)
            critic_loss, target = jax.tree.map(lambda x: x[-1], history)
        critic: MLP = state.critic
        advantage = algorithm.advantage(config, critic, batch, target)
        weight = lax.stop_gradient(algorithm.weight(config, advantage))
        _check_per_sample(batch, advantage=advantage, weight=weight)
        (loss, policy_metrics), grads = jax.value_and_grad(actor_loss, has_aux=True)(state.actor, batch, weight)
        updates, actor_opt = optimizer.update(grads, state.actor_opt)
        gradient_steps = state.gradient_steps + 1
        failed = ~jnp.isfinite(loss + critic_loss) & (state.diverged_at < 0)
        state = state._replace(
            actor=eqx.apply_updates(state.actor, updates),
            actor_opt=actor_opt,
            gradient_steps=gradient_steps,
            diverged_at=jnp.where(failed, gradient_steps, state.diverged_at),
        )
        metrics = {
            "actor/loss": loss,
            "critic/loss": critic_loss,
            "critic/explained_variance": 1 - (target - value(critic, batch.obs)).var() / (target.var() + 1e-8),
            "advantage/mean": advantage.mean(),
            "advantage/std": advantage.std(),
            "weight/mean": weight.mean(),
            "weight/max": weight.max(),
            "weight/clipped_fraction": (weight >= config.max_advantage).mean(),
            "weight/effective_sample_size": effective_sample_size(weight),
            **policy_metrics,
        }
        return state, metrics

    return update


def _check_per_sample(batch: Transition, **arrays: Array) -> None:
    """Refuse, while tracing, anything that would broadcast ``(B,)`` against ``(B, 1)``."""
    for name, array in arrays.items():
        if array.shape != batch.reward.shape:
            raise TypeError(f"{name} has shape {array.shape}, but one number a sample is {batch.reward.shape}")
