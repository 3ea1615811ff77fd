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
from jaxtyping import Array, Float, PRNGKeyArray

from rlox.core import replay as replays
from rlox.core.acting import distribution
from rlox.core.algorithm import Algorithm
from rlox.core.losses import Metrics
from rlox.core.normalizer import Normalizer, as_float, normalize
from rlox.core.replay import Replay
from rlox.core.round import make_round
from rlox.core.state import TrainState
from rlox.core.transition import Transition
from rlox.core.update import make_update


class Report(eqx.Module):
    """An update's metrics in one array: a call pays for each buffer that it hands out."""

    values: Float[Array, " n"]
    names: tuple[str, ...] = eqx.field(static=True)

    @classmethod
    def of(cls, metrics: Metrics) -> Report:
        names = sorted(metrics)
        return cls(jnp.stack([metrics[name] for name in names]), tuple(names))

    def fetch(self) -> dict[str, float]:
        """Return the metrics, fetched from the device."""
        return dict(zip(self.names, np.asarray(self.values).tolist(), strict=True))


class Mix(NamedTuple):
    """What an update has to know of the run so far; None is what does not apply to it."""

    data: Replay | None = None
    """Logged steps that are in the mix."""
    share: ArrayLike | None = None
    """Of the minibatches, in expectation, that comes from the data."""
    actor_waits: ArrayLike | None = None
    """Whether the critic learns alone."""
    frozen: ArrayLike | None = None
    """Whether the normaliser stays as it is."""


NOTHING_MIXED = Mix()


class Programs(NamedTuple):
    """The compiled programs of a configuration. A state or a replay that is given is used up, unless it says so."""

    store: Callable[[Normalizer | None, Replay, Mix, Transition, ArrayLike], tuple[Normalizer | None, Replay]]
    """Normaliser (which stays usable) and replay with ``(k, n, ...)`` more transitions."""
    learn: Callable[
        [TrainState, Replay, Mix, Transition, ArrayLike, ArrayLike], tuple[TrainState, Replay, Array, Report]
    ]
    """All that follows a step of the environments: store, sample, update, act."""
    learn_round: Callable[[TrainState, Replay, Mix, Transition, ArrayLike], tuple[TrainState, Replay, Report]]
    """Store ``(k, n, ...)`` transitions, and learn from the whole replay."""
    learn_offline: Callable[..., tuple[TrainState, Report]]
    """So many updates from a replay as it is, which stays usable; and what is in the mix, if anything is."""
    learn_round_offline: Callable[..., tuple[TrainState, Report]]
    """A round from a replay as it is, which stays usable."""


@functools.lru_cache(maxsize=32)
def compile_programs(algorithm: Algorithm, config: Any, n_envs: int) -> Programs:
    """Return the programs of a configuration; trainers with the same one share them."""
    update_from = _make_update_from(algorithm, config)
    learn_offline, learn_round_offline = make_learn_offline(algorithm, config), make_learn_round(algorithm, config)
    n_updates = config.updates_per_step * n_envs

    def learn(
        state: TrainState, replay: Replay, mix: Mix, transition: Transition, valid: ArrayLike, obs: ArrayLike
    ) -> tuple[TrainState, Replay, Array, Report]:
        rows = jax.tree.map(lambda new: jnp.asarray(new)[None], transition)
        normalizer, replay = store(state.normalizer, replay, mix, rows, jnp.asarray(valid)[None])
        key, act_key, *keys = jax.random.split(state.key, 2 + 2 * n_updates)
        state = state._replace(key=key, normalizer=normalizer)
        sample_keys, update_keys = keys[:n_updates], keys[n_updates:]
        if n_updates == 1:
            state, metrics = update_from(state, replay, mix, sample_keys[0], update_keys[0])
        else:
            state, history = lax.scan(
                lambda state, keys: update_from(state, replay, mix, *keys),
                state,
                (jnp.stack(sample_keys), jnp.stack(update_keys)),
            )
            metrics = jax.tree.map(lambda x: x[-1], history)
        action = distribution(state.actor, normalizer, obs).sample(act_key)
        return state, replay, action, Report.of(metrics)

    def learn_round(
        state: TrainState, replay: Replay, mix: Mix, transitions: Transition, valid: ArrayLike
    ) -> tuple[TrainState, Replay, Report]:
        normalizer, replay = store(state.normalizer, replay, mix, transitions, valid)
        state, report = learn_round_offline(state._replace(normalizer=normalizer), replay, mix.actor_waits)
        return state, replay, report

    return Programs(
        store=jax.jit(store, donate_argnums=1),
        learn=jax.jit(learn, donate_argnums=(0, 1)),
        learn_round=jax.jit(learn_round, donate_argnums=(0, 1)),
        learn_offline=jax.jit(learn_offline, donate_argnums=0),
        learn_round_offline=jax.jit(learn_round_offline, donate_argnums=0),
    )


def make_learn_offline(algorithm: Algorithm, config: Any) -> Callable[..., tuple[TrainState, Report]]:
    """Return ``learn(state, data, n, mix)``: so many updates from a replay as it is."""
    update_from = _make_update_from(algorithm, config)

    def learn_offline(
        state: TrainState, data: Replay, n: ArrayLike, mix: Mix = NOTHING_MIXED
    ) -> tuple[TrainState, Report]:
        def update_once(_: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            key, sample_key, update_key = jax.random.split(carry[0].key, 3)
            return update_from(carry[0]._replace(key=key), data, mix, sample_key, update_key)

        shapes = jax.eval_shape(update_from, state, data, mix, state.key, state.key)[1]
        nothing = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        state, metrics = lax.fori_loop(0, n, update_once, (state, nothing))
        return state, Report.of(metrics)

    return learn_offline


def make_learn_round(algorithm: Algorithm, config: Any) -> Callable[..., tuple[TrainState, Report]]:
    """Return ``learn(state, replay, actor_waits=None)``: a round from a replay as it is."""
    round_: Any = make_round(algorithm, config) if config.rollout_steps else None

    def learn_round_offline(
        state: TrainState, replay: Replay, actor_waits: ArrayLike | None = None
    ) -> tuple[TrainState, Report]:
        key, *keys = jax.random.split(state.key, 5)
        draw = functools.partial(replays.draw, replay)
        state, metrics = round_(
            state._replace(key=key), replays.flatten(replay), *replays.in_order(replay), draw, keys, actor_waits
        )
        return state, Report.of(metrics)

    return learn_round_offline


def store(
    normalizer: Normalizer | None, replay: Replay, mix: Mix, transitions: Transition, valid: ArrayLike
) -> tuple[Normalizer | None, Replay]:
    """Return the normaliser and the replay with ``(k, n, ...)`` more transitions, those that are ``valid``."""
    valid = jnp.asarray(valid)
    if normalizer is not None:
        obs = as_float(jnp.asarray(transitions.obs))
        shown = valid if mix.frozen is None else valid & ~jnp.asarray(mix.frozen)
        normalizer = normalizer.update(obs.reshape(valid.size, -1), shown.ravel())
    return normalizer, replays.extend(replay, transitions, valid)


def _make_update_from(algorithm: Algorithm, config: Any) -> Callable[..., tuple[TrainState, Metrics]]:
    """Return ``update_from(state, replay, mix, sample_key, update_key)``: an update on minibatches of a replay."""
    update = make_update(algorithm, config)
    shape = (config.n_critic_updates, config.batch_size)

    def update_from(
        state: TrainState, replay: Replay, mix: Mix, sample_key: PRNGKeyArray, update_key: PRNGKeyArray
    ) -> tuple[TrainState, Metrics]:
        if mix.data is None or mix.share is None:
            batches = replays.sample(replay, sample_key, shape)
        else:
            batches = replays.sample_mixed(replay, mix.data, mix.share, sample_key, shape)
        obs, next_obs = (normalize(state.normalizer, x) for x in (batches.obs, batches.next_obs))
        return update(state, batches._replace(obs=obs, next_obs=next_obs), update_key, mix.actor_waits)

    return update_from
