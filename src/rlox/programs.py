"""The compiled programs of a configuration: what follows an environment step is one call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array

from rlox.core.networks import Actor
from rlox.core.state import TrainState, Transition
from rlox.core.update import Algorithm, Metrics, init_state, make_update
from rlox.data import replay as replays
from rlox.data.replay import Replay


class Programs(NamedTuple):
    """The compiled programs of a configuration."""

    init: Callable[[Array], TrainState]
    """A fresh state from a random key."""
    act: Callable[[Actor, ArrayLike, Array], Array]
    """Sampled actions ``(n, dim)`` at observations ``(n, obs_dim)``."""
    mode: Callable[[Actor, ArrayLike], Array]
    """The policy's modes."""
    store: Callable[[Replay, Transition, ArrayLike], Replay]
    """The replay with one more row; the one given is used up."""
    learn: Callable[[TrainState, Replay, ArrayLike], tuple[TrainState, Array, Metrics]]
    """The updates of one step of the environments, and the next actions; the state given is used up."""


@functools.cache
def compile_programs(
    algorithm: Algorithm, config: Any, n_envs: int, obs_dim: int, nvec: tuple[int, ...], action_dim: int
) -> Programs:
    """Return the programs of a configuration; trainers with the same one share them."""
    update = make_update(algorithm, config)
    shape = (config.n_critic_updates, config.batch_size)
    n_updates = config.updates_per_step * n_envs

    def learn(state: TrainState, replay: Replay, obs: ArrayLike) -> tuple[TrainState, Array, Metrics]:
        """Sample, critic and actor steps, next action."""
        key, act_key, *keys = jax.random.split(state.key, 2 + n_updates)
        state = state._replace(key=key)
        if n_updates == 1:
            state, metrics = update(state, replays.sample(replay, keys[0], shape))
        else:
            state, history = lax.scan(
                lambda state, key: update(state, replays.sample(replay, key, shape)), state, jnp.stack(keys)
            )
            metrics = jax.tree.map(lambda x: x[-1], history)
        return state, act(state.actor, obs, act_key), metrics

    def act(actor: Actor, obs: ArrayLike, key: Array) -> Array:
        return actor(jnp.asarray(obs, jnp.float32)).sample(key)

    return Programs(
        init=jax.jit(lambda key: init_state(config, obs_dim, nvec, action_dim, key)),
        act=jax.jit(act),
        mode=jax.jit(lambda actor, obs: actor(jnp.asarray(obs, jnp.float32)).mode()),
        store=jax.jit(replays.write, donate_argnums=0),
        # Not one call with `store`: XLA would fuse the write into the sampling and copy the column that it writes.
        learn=jax.jit(learn, donate_argnums=0),
    )
