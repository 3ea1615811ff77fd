"""How good a policy is before it runs: estimates from logged data that it was not trained on."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from rlox.core import fqe
from rlox.core.normalizer import Normalizer, normalize
from rlox.core.round import label
from rlox.core.state import TrainState, Transition
from rlox.core.update import Algorithm
from rlox.core.weights import effective_sample_size
from rlox.errors import DivergedError

if TYPE_CHECKING:
    from rlox.data.dataset import Dataset
    from rlox.learner import Learner

N_CHUNKS = 20
"""Parts that the fit is made in, between which progress is shown."""
PIECE = 8192
"""Steps that the policy is asked about at once."""
N_WEIGHED = 4096
"""Steps whose weights are described."""


class Actions(NamedTuple):
    """What a policy does in ``N`` observations: ``M`` actions, in its coding, and their probabilities."""

    action: NDArray[Any]
    """``(M, N, action_dim)``."""
    probability: NDArray[np.float32]
    """``(M, N)``."""


class Estimate(NamedTuple):
    """A value, and the ends of its 95% interval."""

    value: float
    low: float
    high: float


def episode_numbers(terminated: NDArray[Any], truncated: NDArray[Any]) -> NDArray[np.int32]:
    """Return the number of each step's episode, counted from 0."""
    ended = terminated | truncated
    return np.concatenate([[0], np.cumsum(ended[:-1])]).astype(np.int32)


def discounted_returns(reward: NDArray[Any], episode: NDArray[np.int32], gamma: float) -> NDArray[np.float64]:
    """Return each episode's ``sum_t gamma^t r_t``."""
    first = np.searchsorted(episode, np.arange(episode[-1] + 1))
    age = np.arange(len(reward)) - first[episode]
    return np.bincount(episode, weights=gamma**age * reward).astype(np.float64)


def fitted_q_evaluation(
    steps: Transition,
    policy: Callable[[NDArray[Any]], Actions],
    nvec: tuple[int, ...],
    config: fqe.FQEConfig,
    *,
    gradient_steps: int,
    seed: int,
    report: Callable[[int], None] = lambda _: None,
) -> tuple[Estimate, float]:
    """Return the policy's discounted return from the data's first states, by ``fqe.make_fqe``, and its TD error.

    The value is the mean of the critics'. The interval is the normal one, by the standard deviation of the critics
    that were fitted to bootstrap samples of the episodes (Hao et al. 2021, arXiv:2102.03607): it covers the data's
    chance and the fit's, and not what the data do not show.

    Raises:
        DivergedError: a value is not finite.
    """
    episode = episode_numbers(steps.terminated, steps.truncated)
    returns = discounted_returns(steps.reward, episode, config.gamma)
    scale = max(float(np.std(returns)), float(np.abs(steps.reward).max()), 1e-3)
    config = dataclasses.replace(config, value_scale=scale)
    normalizer = Normalizer.fit(steps.obs)
    whiten = jax.jit(lambda obs: normalize(normalizer, obs.astype(jnp.float32)))
    obs, led_to = whiten(steps.obs), policy(steps.next_obs)
    logged = fqe.Logged(
        obs, jnp.asarray(steps.action), jnp.asarray(steps.reward), whiten(steps.next_obs),
        jnp.asarray(steps.terminated), jnp.asarray(led_to.action), jnp.asarray(led_to.probability),
        jnp.asarray(episode),
    )  # fmt: skip
    counts = fqe.bootstrap_counts(len(returns), config.n_critics, np.random.default_rng(seed))
    state = fqe.init_fit(config, obs.shape[1], nvec, steps.action.shape[1], float(returns.mean()), seed)
    fit, td_error = fqe.make_fqe(config), jnp.zeros(())
    chunk = -(-gradient_steps // N_CHUNKS)
    for step in range(0, gradient_steps, chunk):
        n = min(chunk, gradient_steps - step)
        state, td_error = fit(state, logged, jnp.asarray(counts), n)
        report(step + n)
    first = np.searchsorted(episode, np.arange(len(returns)))
    start = policy(steps.obs[first])
    each = np.asarray(fqe.values(state.critic, obs[first], *map(jnp.asarray, start)), np.float64)
    by_critic = (counts * each).sum(axis=1) / counts.sum(axis=1)
    value, spread = by_critic.mean(), 1.96 * by_critic[1:].std(ddof=1)
    if not np.isfinite(value):
        raise DivergedError("Fitted Q evaluation diverged: its values are not finite. Scale the rewards down.")
    return Estimate(float(value), float(value - spread), float(value + spread)), float(td_error)


def policy_actions(learner: Learner, deterministic: bool, seed: int) -> Callable[[NDArray[Any]], Actions]:
    """Return what gives a policy's actions in encoded observations: its modes, or all that it may take."""
    state, programs = learner.state, learner.programs

    def act(obs: NDArray[Any]) -> Actions:
        if deterministic:
            action = np.asarray(programs.mode(state.actor, state.normalizer, obs))[None]
            return Actions(action, np.ones(action.shape[:2], np.float32))
        action, probability = programs.support(state.actor, state.normalizer, obs, jax.random.key(seed))
        return Actions(np.asarray(action), np.asarray(probability))

    def in_pieces(obs: NDArray[Any]) -> Actions:
        pieces = [act(obs[begin : begin + PIECE]) for begin in range(0, len(obs), PIECE)]
        return Actions(*(np.concatenate(column, axis=1) for column in zip(*pieces, strict=True)))

    return in_pieces


def behavior_statistics(learner: Learner, steps: Transition, seed: int) -> dict[str, float]:
    """Return how far the policy is from the data, and how much of the data its weights use.

    ``behavior/action_distance`` is the mean over steps of the root mean square difference, over the components,
    between the policy's mode and the data's action in units of half the range; with choices, the share of components
    that differ. ``behavior/log_prob`` is the mean log-probability of the data's actions, in the same units.
    ``weight/effective_sample_size`` is that of the member's weights on a sample of the steps, as in training.
    """
    state = learner.state
    distance, log_prob = [], []
    for begin in range(0, len(steps.reward), PIECE):
        obs, action = steps.obs[begin : begin + PIECE], steps.action[begin : begin + PIECE]
        mode = np.asarray(learner.programs.mode(state.actor, state.normalizer, obs))
        if learner.codec.nvec:
            distance.append((mode != action).mean(axis=1))
        else:
            distance.append(np.sqrt(((np.clip(mode, -1, 1) - action) ** 2).mean(axis=1)))
        log_prob.append(learner.programs.log_prob(state.actor, state.normalizer, obs, action))
    return {
        "behavior/action_distance": float(np.concatenate(distance).mean()),
        "behavior/log_prob": float(np.concatenate(log_prob).mean()),
        "weight/effective_sample_size": float(effective_sample_size(_weights(learner, steps, seed))),
    }


def _weights(learner: Learner, steps: Transition, seed: int) -> Array:
    """Return the member's weights of the steps: of a sample of them, or where it learns in rounds of all."""
    if not learner.config.rollout_steps:
        index = np.random.default_rng(seed).integers(len(steps.reward), size=N_WEIGHED)
        steps = Transition(*(column[index] for column in steps))
    return _make_weigh(learner.algorithm, learner.config)(learner.state, steps, jax.random.key(seed))


@functools.cache
def _make_weigh(algorithm: Algorithm, config: Any) -> Callable[[TrainState, Transition, Array], Array]:
    def weigh(state: TrainState, steps: Transition, key: Array) -> Array:
        networks, keys = state.networks(), jax.random.split(key)
        obs, led_to = (normalize(state.normalizer, x.astype(jnp.float32)) for x in (steps.obs, steps.next_obs))
        batch = steps._replace(obs=obs, next_obs=led_to)
        if config.rollout_steps:
            order = jnp.arange(len(steps.reward))[:, None]
            # Rounds whiten the next observations themselves, those that they need.
            target, _ = label(config, networks.critic, state.normalizer, steps._replace(obs=obs), order)
        else:
            target = algorithm.value_target(config, networks, batch, keys[0])
        return algorithm.weight(config, algorithm.advantage(config, networks, batch, target, keys[1]))

    return jax.jit(weigh)


def weighted_importance_sampling(
    reward: NDArray[Any], episode: NDArray[np.int32], log_ratio: NDArray[np.float64], gamma: float, seed: int
) -> tuple[Estimate, float]:
    """Return ``sum_i w_i G_i / sum_i w_i`` over episodes, and the weights' effective sample size as a share of them.

    ``w_i`` is the product of ``pi(a|s) / mu(a|s)`` over the steps of an episode (Precup, Sutton, Singh 2000), ``G_i``
    its discounted return. The interval is the percentile bootstrap's over episodes. All are nan where no
    episode has a weight.
    """
    returns = discounted_returns(reward, episode, gamma)
    log_weight = np.bincount(episode, weights=log_ratio)
    if np.isneginf(log_weight).all():
        return Estimate(math.nan, math.nan, math.nan), 0.0
    weight = np.exp(log_weight - log_weight.max())
    rng = np.random.default_rng(seed)
    samples = rng.integers(len(returns), size=(1000, len(returns)))
    resampled = (weight * returns)[samples].sum(axis=1) / np.maximum(weight[samples].sum(axis=1), 1e-300)
    low, high = np.quantile(resampled, (0.025, 0.975))
    share = float(effective_sample_size(jnp.asarray(weight)))
    return Estimate(float((weight * returns).sum() / weight.sum()), float(low), float(high)), share


def evaluate_offline(
    learner: Learner,
    dataset: Dataset,
    *,
    deterministic: bool,
    gradient_steps: int,
    seed: int,
    report: Callable[[int], None] = lambda _: None,
) -> dict[str, float]:
    """Return all estimates and statistics that a dataset allows, as ``Trainer.evaluate_offline`` documents them."""
    steps, gamma = dataset.transitions(), learner.config.gamma
    policy = policy_actions(learner, deterministic, seed)
    fitted, td_error = fitted_q_evaluation(
        steps, policy, learner.codec.nvec, fqe.FQEConfig(gamma=gamma), gradient_steps=gradient_steps, seed=seed,
        report=report,
    )  # fmt: skip
    reward, terminated, truncated = (dataset.columns[name][:] for name in ("rewards", "terminals", "timeouts"))
    episode = episode_numbers(terminated, truncated)
    result = {
        "fqe/value": fitted.value, "fqe/low": fitted.low, "fqe/high": fitted.high, "fqe/td_error": td_error,
        "data/value": float(discounted_returns(reward, episode, gamma).mean()),
        **behavior_statistics(learner, steps, seed),
    }  # fmt: skip
    if "action_log_probs" in dataset.columns and (learner.codec.nvec or not deterministic):
        log_ratio = _log_prob(learner, dataset, deterministic) - dataset.columns["action_log_probs"][:]
        weighted, share = weighted_importance_sampling(reward, episode, log_ratio, gamma, seed)
        result |= {"wis/value": weighted.value, "wis/low": weighted.low, "wis/high": weighted.high}
        result["wis/effective_sample_size"] = share
    return result


def _log_prob(learner: Learner, dataset: Dataset, deterministic: bool) -> NDArray[np.float64]:
    """Return the policy's log-probability of every logged action, per unit of the environment."""
    state, found = learner.state, []
    for obs, action in dataset.encoded():
        if deterministic:
            taken = np.asarray(learner.programs.mode(state.actor, state.normalizer, obs))
            found.append(np.where((taken == action).all(axis=1), 0.0, -np.inf))
        else:
            log_prob = np.asarray(learner.programs.log_prob(state.actor, state.normalizer, obs, action), np.float64)
            found.append(log_prob - learner.codec.log_scale(action))
    return np.concatenate(found)
