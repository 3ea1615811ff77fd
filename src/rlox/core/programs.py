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

from rlox.core import replay as replays
from rlox.core.distributions import Policy
from rlox.core.networks import Actor
from rlox.core.normalizer import Normalizer, normalize
from rlox.core.replay import Replay
from rlox.core.round import make_round
from rlox.core.state import TrainState, Transition
from rlox.core.update import Algorithm, Metrics, make_update

N_SAMPLES = 8
"""Continuous actions that stand for a policy's expectation."""


class Report(eqx.Module):
    """An update's metrics in one array: a call pays for each buffer that it hands out."""

    values: Float[Array, " n"]
    names: tuple[str, ...] = eqx.field(static=True)

    def fetch(self) -> dict[str, float]:
        """Return the metrics, fetched from the device."""
        return dict(zip(self.names, np.asarray(self.values).tolist(), strict=True))


class Mix(NamedTuple):
    """What learning from an environment has to know of the data before it; all None where there were none."""

    data: Replay | None = None
    share: ArrayLike | None = None
    """Of the minibatches, in expectation, that comes from the data."""
    actor_waits: ArrayLike | None = None
    """Whether the critic learns alone."""


class Programs(NamedTuple):
    """The compiled programs of a configuration."""

    act: Callable[[Actor, Normalizer | None, ArrayLike, Array], tuple[Array, Array]]
    """Sampled actions ``(n, dim)`` at observations ``(n, obs_dim)``, and the next random key."""
    mode: Callable[[Actor, Normalizer | None, ArrayLike], Array]
    """The policy's modes."""
    support: Callable[[Actor, Normalizer | None, ArrayLike, Array], tuple[Array, Array]]
    """Actions ``(M, n, dim)`` and their probabilities ``(M, n)``: all there are, or samples of continuous ones."""
    log_prob: Callable[[Actor, Normalizer | None, ArrayLike, ArrayLike], Array]
    """``(n,)``: of the actions as they are taken, clipped to the bounds, in the policy's coding."""
    store: Callable[[Normalizer | None, Replay, Transition, ArrayLike], tuple[Normalizer | None, Replay]]
    """Normaliser and replay with ``(k, n, ...)`` more transitions; the replay given is used up."""
    learn: Callable[
        [TrainState, Replay, Mix, Transition, ArrayLike, ArrayLike],
        tuple[TrainState, Replay, Array, Report],
    ]
    """All that follows a step of the environments: store, sample, update, act. State and replay given are used up."""
    learn_round: Callable[[TrainState, Replay, Mix, Transition, ArrayLike], tuple[TrainState, Replay, Report]]
    """Store ``(k, n, ...)`` transitions, and learn from the whole replay. State and replay given are used up."""
    learn_offline: Callable[[TrainState, Replay, ArrayLike], tuple[TrainState, Report]]
    """So many updates from a replay as it is. The state given is used up."""
    learn_round_offline: Callable[[TrainState, Replay], tuple[TrainState, Report]]
    """A round from a replay as it is. The state given is used up."""


@functools.cache
def compile_programs(algorithm: Algorithm, config: Any, n_envs: int) -> Programs:
    """Return the programs of a configuration; trainers with the same one share them."""
    update = make_update(algorithm, config)
    round_: Any = make_round(algorithm, config) if config.rollout_steps else None
    shape = (config.n_critic_updates, config.batch_size)
    n_updates = config.updates_per_step * n_envs
    freeze_at = config.normalize_obs_until

    def store(
        normalizer: Normalizer | None, replay: Replay, transitions: Transition, valid: ArrayLike
    ) -> tuple[Normalizer | None, Replay]:
        valid = jnp.asarray(valid)
        if normalizer is not None:
            obs = jnp.asarray(transitions.obs, jnp.float32).reshape(valid.size, -1)
            shown = valid if freeze_at is None else valid & (normalizer.count < freeze_at)
            normalizer = normalizer.update(obs, shown.ravel())
        return normalizer, replays.extend(replay, transitions, valid)

    def normalized(normalizer: Normalizer | None, batch: Transition) -> Transition:
        obs, next_obs = (normalize(normalizer, x.astype(jnp.float32)) for x in (batch.obs, batch.next_obs))
        return batch._replace(obs=obs, next_obs=next_obs)

    def sample_and_update(state: TrainState, replay: Replay, key: Array, mix: Mix) -> tuple[TrainState, Metrics]:
        if mix.data is None or mix.share is None:
            batches = replays.sample(replay, key, shape)
        else:
            batches = replays.sample_mixed(replay, mix.data, mix.share, key, shape)
        return update(state, normalized(state.normalizer, batches), mix.actor_waits)

    def learn(
        state: TrainState, replay: Replay, mix: Mix, transition: Transition, valid: ArrayLike, obs: ArrayLike
    ) -> tuple[TrainState, Replay, Array, Report]:
        rows = jax.tree.map(lambda new: jnp.asarray(new)[None], transition)
        normalizer, replay = store(state.normalizer, replay, rows, jnp.asarray(valid)[None])
        key, act_key, *keys = jax.random.split(state.key, 2 + n_updates)
        state = state._replace(key=key, normalizer=normalizer)
        if n_updates == 1:
            state, metrics = sample_and_update(state, replay, keys[0], mix)
        else:
            state, history = lax.scan(
                lambda state, key: sample_and_update(state, replay, key, mix), state, jnp.stack(keys)
            )
            metrics = jax.tree.map(lambda x: x[-1], history)
        return state, replay, policy(state.actor, normalizer, obs).sample(act_key), _report(metrics)

    def learn_round(
        state: TrainState, replay: Replay, mix: Mix, transitions: Transition, valid: ArrayLike
    ) -> tuple[TrainState, Replay, Report]:
        normalizer, replay = store(state.normalizer, replay, transitions, valid)
        state, report = learn_round_offline(state._replace(normalizer=normalizer), replay, mix.actor_waits)
        return state, replay, report

    def learn_round_offline(
        state: TrainState, replay: Replay, actor_waits: ArrayLike | None = None
    ) -> tuple[TrainState, Report]:
        draw = functools.partial(replays.draw, replay)
        state, metrics = round_(state, replays.flatten(replay), *replays.in_order(replay), draw, actor_waits)
        return state, _report(metrics)

    def learn_offline(state: TrainState, data: Replay, n: ArrayLike) -> tuple[TrainState, Report]:
        def update_once(_: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            key, sample_key = jax.random.split(carry[0].key)
            return sample_and_update(carry[0]._replace(key=key), data, sample_key, Mix())

        shapes = jax.eval_shape(sample_and_update, state, data, state.key, Mix())[1]
        nothing = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        state, metrics = lax.fori_loop(0, n, update_once, (state, nothing))
        return state, _report(metrics)

    def policy(actor: Actor, normalizer: Normalizer | None, obs: ArrayLike) -> Policy:
        return actor(normalize(normalizer, jnp.asarray(obs, jnp.float32)))

    def act(actor: Actor, normalizer: Normalizer | None, obs: ArrayLike, key: Array) -> tuple[Array, Array]:
        key, act_key = jax.random.split(key)
        return policy(actor, normalizer, obs).sample(act_key), key

    return Programs(
        act=jax.jit(act),
        mode=jax.jit(lambda actor, normalizer, obs: policy(actor, normalizer, obs).mode()),
        support=jax.jit(lambda actor, normalizer, obs, key: policy(actor, normalizer, obs).support(key, N_SAMPLES)),
        log_prob=jax.jit(
            lambda actor, normalizer, obs, action: policy(actor, normalizer, obs).taken_log_prob(jnp.asarray(action))
        ),
        store=jax.jit(store, donate_argnums=1),
        learn=jax.jit(learn, donate_argnums=(0, 1)),
        learn_round=jax.jit(learn_round, donate_argnums=(0, 1)),
        learn_offline=jax.jit(learn_offline, donate_argnums=0),
        learn_round_offline=jax.jit(learn_round_offline, donate_argnums=0),
    )


def _report(metrics: Metrics) -> Report:
    return Report(jnp.stack(list(metrics.values())), tuple(metrics))
