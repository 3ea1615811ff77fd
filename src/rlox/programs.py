"""The compiled programs of a configuration: what follows an environment step is one call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from rlox.core.networks import Actor
from rlox.core.state import TrainState, Transition
from rlox.core.update import Algorithm, make_update
from rlox.data import replay as replays
from rlox.data.replay import Replay


class Report(eqx.Module):
    """An update's metrics in one array: a call pays for each buffer that it hands out."""

    values: Float[Array, " n"]
    names: tuple[str, ...] = eqx.field(static=True)

    def fetch(self) -> dict[str, float]:
        """Return the metrics, fetched from the device."""
        return dict(zip(self.names, np.asarray(self.values).tolist(), strict=True))


class Programs(NamedTuple):
    """The compiled programs of a configuration."""

    act: Callable[[Actor, ArrayLike, Array], Array]
    """Sampled actions ``(n, dim)`` at observations ``(n, obs_dim)``."""
    mode: Callable[[Actor, ArrayLike], Array]
    """The policy's modes."""
    store: Callable[[Replay, Transition, ArrayLike], Replay]
    """The replay with one more row; the one given is used up."""
    learn: Callable[[TrainState, Replay, Transition, ArrayLike, ArrayLike], tuple[TrainState, Replay, Array, Report]]
    """Store, sample, update, act: all that follows a step of the environments. State and replay given are used up."""


@functools.cache
def compile_programs(algorithm: Algorithm, config: Any, n_envs: int) -> Programs:
    """Return the programs of a configuration; trainers with the same one share them."""
    update = make_update(algorithm, config)
    shape = (config.n_critic_updates, config.batch_size)
    n_updates = config.updates_per_step * n_envs

    def learn(
        state: TrainState, replay: Replay, transition: Transition, valid: ArrayLike, obs: ArrayLike
    ) -> tuple[TrainState, Replay, Array, Report]:
        replay = replays.write(replay, transition, jnp.asarray(valid))
        key, act_key, *keys = jax.random.split(state.key, 2 + n_updates)
        state = state._replace(key=key)
        if n_updates == 1:
            state, metrics = update(state, replays.sample(replay, keys[0], shape))
        else:
            state, history = lax.scan(
                lambda state, key: update(state, replays.sample(replay, key, shape)), state, jnp.stack(keys)
            )
            metrics = jax.tree.map(lambda x: x[-1], history)
        report = Report(jnp.stack(list(metrics.values())), tuple(metrics))
        return state, replay, act(state.actor, obs, act_key), report

    def act(actor: Actor, obs: ArrayLike, key: Array) -> Array:
        return actor(jnp.asarray(obs, jnp.float32)).sample(key)

    return Programs(
        act=jax.jit(act),
        mode=jax.jit(lambda actor, obs: actor(jnp.asarray(obs, jnp.float32)).mode()),
        store=jax.jit(replays.write, donate_argnums=0),
        learn=jax.jit(learn, donate_argnums=(0, 1)),
    )
