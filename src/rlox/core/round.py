"""A round of learning, as published: label the replay, fit the critic to the labels, label it again, fit the actor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rlox.core.networks import Critic, in_chunks
from rlox.core.normalizer import Normalizer, normalize
from rlox.core.returns import lambda_returns
from rlox.core.state import TrainState, Transition
from rlox.core.update import (
    Algorithm,
    Metrics,
    describe_weights,
    explained_variance,
    keep_actor,
    make_steps,
    mark_divergence,
)

Draw = Callable[[PRNGKeyArray, tuple[int, ...]], Int[Array, "..."]]
"""From a random key and a shape to places of stored steps."""
Round = Callable[..., tuple[TrainState, Metrics]]

_CHUNK = 512


def make_round(algorithm: Algorithm, config: Any) -> Round:
    """Return ``learn(state, steps, order, stored, draw, actor_waits=None) -> (state, metrics)``: one round.

    Every step gets its TD(lambda) return under V; ``n_critic_updates`` minibatches move the critic to these targets,
    which stay frozen; the returns are computed again under the critic as it is now; the advantages (whitened over the
    replay where asked) give the weights of ``n_actor_updates`` minibatches (Peng et al. 2019, algorithm 1), unless the
    actor waits.

    ``steps`` is the replay, ``(N, ...)``: one place a step. ``order`` has the places of each of ``n`` streams in order
    of time, newest last; ``stored`` tells which places are taken. Where a step is followed by another of its episode,
    its ``next_obs`` has to be that one's ``obs``.
    """
    updates = make_steps(algorithm, config)
    critic_shape = (config.n_critic_updates, config.batch_size)
    actor_shape = (config.n_actor_updates, config.batch_size)

    def learn(
        state: TrainState, steps: Transition, order: Int[Array, "T n"], stored: Bool[Array, " N"], draw: Draw,
        actor_waits: Array | None = None,
    ) -> tuple[TrainState, Metrics]:  # fmt: skip
        key, critic_key, actor_key = jax.random.split(state.key, 3)
        state = state._replace(key=key)
        steps = steps._replace(obs=normalize(state.normalizer, steps.obs.astype(jnp.float32)))

        def batch_at(index: Array) -> Transition:
            return jax.tree.map(lambda column: column.at[index].get(mode="promise_in_bounds"), steps)

        def critic_step(state: TrainState, index: Array) -> tuple[TrainState, Array]:
            return updates.critic(state, batch_at(index), target.at[index].get(mode="promise_in_bounds"))

        def actor_step(state: TrainState, index: Array) -> tuple[TrainState, Array]:
            state, (loss, _) = updates.actor(state, batch_at(index), weight.at[index].get(mode="promise_in_bounds"))
            return state, loss

        target, _ = label(config, state.critic, state.normalizer, steps, order)
        state, critic_loss = lax.scan(critic_step, state, draw(critic_key, critic_shape))
        target, value = label(config, state.critic, state.normalizer, steps, order)
        # The values of all the steps are known already.
        networks = state.networks()._replace(critic=lambda _: value)
        advantage = algorithm.advantage(config, networks, steps, target, actor_key, stored)
        weight = lax.stop_gradient(algorithm.weight(config, advantage))
        index = draw(actor_key, actor_shape)
        moved, actor_loss = lax.scan(actor_step, state, index)
        state = keep_actor(actor_waits, moved, state)
        policy = state.actor(batch_at(index[-1]).obs)
        return mark_divergence(state, actor_loss.sum() + critic_loss.sum()), {
            "actor/loss": actor_loss.mean(),
            "critic/loss": critic_loss.mean(),
            "critic/explained_variance": explained_variance(target, value, stored),
            **describe_weights(config, advantage, weight, stored),
            "policy/entropy": policy.entropy().mean(),
            **policy.metrics(),
        }

    return learn


def label(
    config: Any, critic: Critic, normalizer: Normalizer | None, steps: Transition, order: Int[Array, "T n"]
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Return every step's TD(lambda) return under ``critic``, and its values of the steps' (whitened) observations.

    Most steps lead to where the next one of their stream starts. Only those whose stream is cut need a value of their
    own: as many chunks of them as there are.
    """
    value = in_chunks(critic, steps.obs, _CHUNK)
    reward, terminated, truncated = (x[order] for x in (steps.reward, steps.terminated, steps.truncated))
    ended = (terminated | truncated).at[-1].set(True)
    next_value = jnp.roll(value[order], -1, axis=0).ravel()
    cut = (ended & ~terminated).ravel()
    (places,) = jnp.nonzero(cut, size=-(-cut.size // _CHUNK) * _CHUNK, fill_value=cut.size)

    def bootstrap(i: Array, next_value: Array) -> Array:
        chunk = lax.dynamic_slice_in_dim(places, i * _CHUNK, _CHUNK)
        led_to = steps.next_obs[order.ravel()[chunk]].astype(jnp.float32)
        return next_value.at[chunk].set(critic(normalize(normalizer, led_to)), mode="drop")

    next_value = lax.fori_loop(0, -(-cut.sum() // _CHUNK), bootstrap, next_value).reshape(order.shape)
    returns = lambda_returns(reward, next_value, terminated, ended, config.gamma, config.td_lambda)
    return jnp.zeros_like(value).at[order].set(returns, unique_indices=True), value
