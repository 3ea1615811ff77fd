"""A round of learning, as published: label the replay, fit the critic to the labels, label it again, fit the actor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rlox.core.algorithm import Algorithm
from rlox.core.layers import in_chunks
from rlox.core.losses import Metrics, explained_variance
from rlox.core.networks import Critic
from rlox.core.normalizer import Normalizer, normalize
from rlox.core.returns import lambda_returns
from rlox.core.slots import check_per_sample
from rlox.core.state import TrainState
from rlox.core.transition import Transition
from rlox.core.update import check_fit, keep_where, make_actor_step, make_critic_step, mark_divergence

Draw = Callable[[PRNGKeyArray, tuple[int, ...]], Int[Array, "..."]]
"""From a random key and a shape to places of stored steps."""
Round = Callable[..., tuple[TrainState, Metrics]]

_CHUNK = 512


def make_round(algorithm: Algorithm, config: Any) -> Round:
    """Return ``learn(state, steps, order, stored, draw, keys, actor_waits=None) -> (state, metrics)``: one round.

    .. code-block:: text

        y = TD(lambda) return of every stored step under V
        for batch in n_critic_updates minibatches:
            critic -= step * grad critic_loss(batch, y)        # y stays frozen
        y = TD(lambda) return of every stored step under V     # as it is now
        s, a, w = actor_target(steps, advantage(steps, y))     # whitened over the replay if asked
        for batch in n_actor_updates minibatches:
            actor -= step * grad -mean w log pi(a|s)           # unless the actor waits

    (Peng et al. 2019, algorithm 1.)

    ``steps`` is the replay, ``(N, ...)``: one place a step. ``order`` has the places of each of ``n`` streams in order
    of time, newest last; ``stored`` tells which places are taken. If a step is followed by another of its episode,
    its ``next_obs`` has to be that one's ``obs``. ``draw`` draws places of stored steps
    with two of the four ``keys``.
    """
    critic_step, actor_step = make_critic_step(algorithm, config), make_actor_step(config)

    def learn(
        state: TrainState,
        steps: Transition,
        order: Int[Array, "T n"],
        stored: Bool[Array, " N"],
        draw: Draw,
        keys: Sequence[PRNGKeyArray],
        actor_waits: Array | None = None,
    ) -> tuple[TrainState, Metrics]:
        critic_key, actor_key, advantage_key, target_key = keys
        steps = steps._replace(obs=normalize(state.normalizer, steps.obs))

        check_per_sample("critic", algorithm.critic, jax.eval_shape(state.critic, steps.obs[:1]), (1,))
        target, _ = label(config, state.critic, state.normalizer, steps, order)
        state, critic_metrics = lax.scan(
            lambda state, index: critic_step(state, *at((steps, target), index)),
            state,
            draw(critic_key, (config.n_critic_updates, config.batch_size)),
        )
        new_target, value = label(config, state.critic, state.normalizer, steps, order)
        # The values of all the steps are known already.
        networks = state.networks()._replace(critic=lambda _: value)
        advantage = algorithm.advantage(config, networks, steps, new_target, advantage_key, stored)
        check_per_sample("advantage", algorithm.advantage, advantage, steps.reward.shape)
        fit = algorithm.actor_target(algorithm, config, networks, steps, advantage, target_key, stored)
        check_fit(algorithm, fit, steps, rounds=True)
        fit, described = fit._replace(metrics={}, weight=lax.stop_gradient(fit.weight)), fit.metrics
        moved, actor_metrics = lax.scan(
            lambda state, index: actor_step(state, at(fit, index)),
            state,
            draw(actor_key, (config.n_actor_updates, config.batch_size)),
        )
        state = keep_where(actor_waits, state, moved)
        metrics = {
            **{name: values[-1] for name, values in actor_metrics.items()},
            "actor/loss": actor_metrics["actor/loss"].mean(),
            "critic/loss": critic_metrics["critic/loss"].mean(),
            "critic/explained_variance": explained_variance(new_target, value, stored),
            **described,
        }
        loss = actor_metrics["actor/loss"].sum() + critic_metrics["critic/loss"].sum()
        return mark_divergence(state, loss), metrics

    return learn


def at(tree: Any, index: Int[Array, " B"]) -> Any:
    """Return the rows ``index`` of every array; indices are in range."""
    return jax.tree.map(lambda column: column.at[index].get(mode="promise_in_bounds"), tree)


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
        led_to = steps.next_obs[order.ravel()[chunk]]
        return next_value.at[chunk].set(critic(normalize(normalizer, led_to)), mode="drop")

    next_value = lax.fori_loop(0, -(-cut.sum() // _CHUNK), bootstrap, next_value).reshape(order.shape)
    returns = lambda_returns(reward, next_value, terminated, ended, config.gamma, config.td_lambda)
    return jnp.zeros_like(value).at[order].set(returns, unique_indices=True), value
