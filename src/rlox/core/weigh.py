"""The weights that an algorithm gives to logged steps, outside training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from rlox.core.algorithm import Algorithm
from rlox.core.losses import effective_sample_size
from rlox.core.normalizer import normalize
from rlox.core.round import label
from rlox.core.state import TrainState
from rlox.core.transition import Transition

N_WEIGHED = 4096
"""Steps whose weights are described."""


def share_in_use(algorithm: Algorithm, config: Any, state: TrainState, steps: Transition, seed: int) -> float | None:
    """Return the effective sample size of the weights of steps ``(N, ...)``: of a sample, or in rounds of all.

    None if the weights are not of these steps' actions.
    """
    if not config.rollout_steps:
        index = np.random.default_rng(seed).integers(len(steps.reward), size=N_WEIGHED)
        steps = Transition(*(column[index] for column in steps))
    weight = _weigh(algorithm, config)(state, steps, jax.random.key(seed))
    return float(effective_sample_size(weight)) if weight.shape == steps.reward.shape else None


@functools.lru_cache(maxsize=8)
def _weigh(algorithm: Algorithm, config: Any) -> Callable[[TrainState, Transition, PRNGKeyArray], Array]:
    def weigh(state: TrainState, steps: Transition, key: PRNGKeyArray) -> Array:
        networks, keys = state.networks(), jax.random.split(key, 3)
        batch = steps._replace(obs=normalize(state.normalizer, jnp.asarray(steps.obs)))
        if config.rollout_steps:
            # Rounds whiten the next observations themselves, those that they need.
            order = jnp.arange(len(steps.reward))[:, None]
            target, _ = label(config, networks.critic, state.normalizer, batch, order)
        else:
            batch = batch._replace(next_obs=normalize(state.normalizer, jnp.asarray(steps.next_obs)))
            target = algorithm.value_target(config, networks, batch, keys[0])
        advantage = algorithm.advantage(config, networks, batch, target, keys[1])
        return algorithm.actor_target(algorithm, config, networks, batch, advantage, keys[2]).weight

    return jax.jit(weigh)
