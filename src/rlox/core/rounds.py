"""A round of learning, as published: label the replay, fit the critic to the labels, label it again, fit the actor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rlox.core.networks import Critic
from rlox.core.returns import lambda_returns
from rlox.core.state import TrainState, Transition
from rlox.core.update import Algorithm, Metrics, describe_weights, explained_variance, make_steps, mark_divergence

Draw = Callable[[PRNGKeyArray, tuple[int, ...]], Int[Array, "..."]]
"""From a random key and a shape to places of stored steps in the flattened ``(T, n)``."""
Round = Callable[[TrainState, Transition, Bool[Array, "T n"], Draw], tuple[TrainState, Metrics]]


def make_round(algorithm: Algorithm, config: Any) -> Round:
    """Return ``learn(state, episodes, stored, draw) -> (state, metrics)``: one round over a whole replay.

    Every step gets its TD(lambda) return under V; ``n_critic_updates`` minibatches move the critic to these targets,
    which stay frozen; the returns are computed again under the critic as it is now; the advantages (whitened over the
    replay where asked) give the weights of ``n_actor_updates`` minibatches (Peng et al. 2019, algorithm 1).

    ``episodes`` is the replay in order of time, ``(T, n, ...)``; ``stored`` tells which of its steps are there, the
    last ones of each stream.
    """
    steps = make_steps(algorithm, config)
    critic_shape = (config.n_critic_updates, config.batch_size)
    actor_shape = (config.n_actor_updates, config.batch_size)

    def learn(
        state: TrainState, episodes: Transition, stored: Bool[Array, "T n"], draw: Draw
    ) -> tuple[TrainState, Metrics]:
        flat = jax.tree.map(lambda column: column.reshape(-1, *column.shape[2:]), episodes)
        where = stored.ravel()
        key, critic_key, actor_key = jax.random.split(state.key, 3)
        state = state._replace(key=key)

        def batch_at(index: Array) -> Transition:
            return jax.tree.map(lambda column: column.at[index].get(mode="promise_in_bounds"), flat)

        def critic_step(state: TrainState, index: Array) -> tuple[TrainState, Array]:
            return steps.critic(state, batch_at(index), target.at[index].get(mode="promise_in_bounds"))

        def actor_step(state: TrainState, index: Array) -> tuple[TrainState, Array]:
            state, (loss, _) = steps.actor(state, batch_at(index), weight.at[index].get(mode="promise_in_bounds"))
            return state, loss

        target = _returns(config, state.critic, episodes, flat)
        state, critic_loss = lax.scan(critic_step, state, draw(critic_key, critic_shape))
        target = _returns(config, state.critic, episodes, flat)
        advantage = algorithm.advantage(config, state.critic, flat, target, where)
        weight = lax.stop_gradient(algorithm.weight(config, advantage))
        index = draw(actor_key, actor_shape)
        state, actor_loss = lax.scan(actor_step, state, index)
        policy = state.actor(batch_at(index[-1]).obs)
        return mark_divergence(state, actor_loss.sum() + critic_loss.sum()), {
            "actor/loss": actor_loss.mean(),
            "critic/loss": critic_loss.mean(),
            "critic/explained_variance": explained_variance(target, state.critic(flat.obs), where),
            **describe_weights(config, advantage, weight, where),
            "policy/entropy": policy.entropy().mean(),
            **policy.metrics(),
        }

    return learn


def _returns(config: Any, critic: Critic, episodes: Transition, flat: Transition) -> Float[Array, " N"]:
    """Return every step's TD(lambda) return under ``critic``, flattened."""
    shape = episodes.reward.shape
    newest = jnp.arange(shape[0])[:, None] == shape[0] - 1
    ended = episodes.terminated | episodes.truncated | newest
    next_value = critic(flat.next_obs).reshape(shape)
    return lambda_returns(
        episodes.reward, next_value, episodes.terminated, ended, config.gamma, config.td_lambda
    ).ravel()
