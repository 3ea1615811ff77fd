"""Compiled calls of a policy that acts; they depend on neither algorithm nor number of environments."""

from __future__ import annotations

import functools

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, PRNGKeyArray

from rlox.core.behavior import Behavior
from rlox.core.distributions import Distribution
from rlox.core.networks import Actor
from rlox.core.normalizer import Normalizer, normalize

N_SAMPLES = 8
"""Continuous actions that stand for a policy's expectation."""


def distribution(actor: Actor, normalizer: Normalizer | None, obs: ArrayLike) -> Distribution:
    """Return pi(.|s) at stored observations ``(n, obs_dim)``."""
    return actor(normalize(normalizer, jax.numpy.asarray(obs)))


def behavior_of(actor: Actor, normalizer: Normalizer | None) -> Behavior:
    """Return the same policy in NumPy; waits for what computes it."""
    network = actor.network
    weights, biases, norms, log_std = jax.tree.map(
        np.array, (network.weights, network.biases, network.norms, actor.log_std)
    )
    seen = None if normalizer is None or not float(normalizer.count) else normalizer
    return Behavior(
        weights,
        biases,
        norms=tuple((norm.weight, norm.bias) for norm in norms),
        whitening=None if seen is None else (np.array(seen.mean), np.array(seen.std)),
        nvec=actor.nvec,
        log_std=log_std,
        min_std=actor.min_std,
        max_std=actor.max_std,
        state_std=actor.state_std,
    )


@jax.jit
def act(actor: Actor, normalizer: Normalizer | None, obs: ArrayLike, key: PRNGKeyArray) -> tuple[Array, PRNGKeyArray]:
    """Return sampled actions ``(n, action_dim)``, and the next random key."""
    key, act_key = jax.random.split(key)
    return distribution(actor, normalizer, obs).sample(act_key), key


@jax.jit
def mode(actor: Actor, normalizer: Normalizer | None, obs: ArrayLike) -> Array:
    """Return the policy's modes, ``(n, action_dim)``."""
    return distribution(actor, normalizer, obs).mode()


@jax.jit
def log_prob(actor: Actor, normalizer: Normalizer | None, obs: ArrayLike, action: ArrayLike) -> Array:
    """Return log-probabilities ``(n,)`` of actions as they are taken, clipped to the bounds."""
    return distribution(actor, normalizer, obs).taken_log_prob(jax.numpy.asarray(action))


@functools.partial(jax.jit, static_argnames="n_samples")
def support(
    actor: Actor, normalizer: Normalizer | None, obs: ArrayLike, key: PRNGKeyArray, n_samples: int = N_SAMPLES
) -> tuple[Array, Array]:
    """Return actions ``(M, n, action_dim)`` and probabilities ``(M, n)``: all there are, or samples."""
    return distribution(actor, normalizer, obs).support(key, n_samples)
