"""How good a policy is before it runs: estimates from logged data that it was not trained on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from rlox.core import acting, fqe
from rlox.core.distributions import MAX_JOINT_ACTIONS
from rlox.core.losses import effective_sample_size
from rlox.core.normalizer import Normalizer, normalize
from rlox.core.transition import Transition
from rlox.data.dataset import Dataset
from rlox.errors import ConfigError, DatasetError, DivergedError
from rlox.policy.policy import Policy

N_CHUNKS = 20
"""Parts that the fit is made in, between which progress is shown."""
N_RESAMPLES = 1000
"""Of the bootstrap."""
PIECE = 8192
"""Steps that the policy is asked about at once."""


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


def data_for(policy: Policy, dataset: Dataset) -> Dataset:
    """Return the same steps with the policy's spaces.

    Raises:
        DatasetError: they do not fit them.
    """
    try:
        return dataset.within(policy.observation_space, policy.action_space)
    except DatasetError as error:
        raise DatasetError(
            f"The data '{dataset.name}' do not fit the policy, which takes {policy.observation_space} and gives "
            f"{policy.action_space}. {error}"
        ) from None


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
    cut: bool = False,
    report: Callable[[int], None] = lambda _: None,
) -> tuple[Estimate, float]:
    """Return the policy's discounted return from the data's first states, by ``fqe.make_fqe``, and its TD error.

    The value is the mean of the critics'. The interval is the normal one, by the standard deviation of the critics
    that were fitted to bootstrap samples of the episodes (Hao et al. 2021, arXiv:2102.03607): it covers the data's
    chance and the fit's, and not what the data do not show. If the first episode is ``cut``, its beginning is not
    there: its steps are learned from, and its first state is none of those of episodes.

    Raises:
        DivergedError: a value is not finite.
    """
    episode = episode_numbers(steps.terminated, steps.truncated)
    returns = discounted_returns(steps.reward, episode, config.gamma)
    scale = max(float(np.std(returns)), float(np.abs(steps.reward).max()), 1e-3)
    config = dataclasses.replace(config, value_scale=scale)
    normalizer = Normalizer.fit(steps.obs)
    whiten = jax.jit(lambda obs: normalize(normalizer, jnp.asarray(obs)))
    obs, led_to = whiten(steps.obs), policy(steps.next_obs)
    logged = fqe.Logged(
        obs=obs,
        action=jnp.asarray(steps.action),
        reward=jnp.asarray(steps.reward),
        next_obs=whiten(steps.next_obs),
        terminated=jnp.asarray(steps.terminated),
        next_action=jnp.asarray(led_to.action),
        probability=jnp.asarray(led_to.probability),
        episode=jnp.asarray(episode),
    )
    counts = fqe.bootstrap_counts(len(returns), config.n_critics, np.random.default_rng(seed))
    state = fqe.init_fit(config, obs.shape[1], nvec, steps.action.shape[1], float(returns.mean()), seed)
    fit, td_error = fqe.make_fqe(config), jnp.zeros(())
    chunk = -(-gradient_steps // N_CHUNKS)
    for step in range(0, gradient_steps, chunk):
        n = min(chunk, gradient_steps - step)
        state, td_error = fit(state, logged, jnp.asarray(counts), n)
        report(step + n)
    first = np.searchsorted(episode, np.arange(int(cut and len(returns) > 1), len(returns)))
    pieces = [first[begin : begin + PIECE] for begin in range(0, len(first), PIECE)]
    each = [fqe.values(state.critic, obs[rows], *map(jnp.asarray, policy(steps.obs[rows]))) for rows in pieces]
    # A bootstrap sample may have the cut episode alone.
    counts = counts[:, -len(first) :]
    counts = np.where(counts.any(axis=1, keepdims=True), counts, 1)
    by_critic = (counts * np.concatenate(each, axis=1, dtype=np.float64)).sum(axis=1) / counts.sum(axis=1)
    value, spread = by_critic.mean(), 1.96 * by_critic[1:].std(ddof=1)
    if not np.isfinite(value):
        raise DivergedError("Fitted Q evaluation diverged: its values are not finite. Scale the rewards down.")
    return Estimate(float(value), float(value - spread), float(value + spread)), float(td_error)


def policy_actions(policy: Policy, deterministic: bool, seed: int) -> Callable[[NDArray[Any]], Actions]:
    """Return what gives a policy's actions in encoded observations: its modes, or all that it may take."""
    actor, normalizer = policy.actor, policy.normalizer

    def act(obs: NDArray[Any]) -> Actions:
        if deterministic:
            action = np.asarray(acting.mode(actor, normalizer, obs))[None]
            return Actions(action, np.ones(action.shape[:2], np.float32))
        action, probability = acting.support(actor, normalizer, obs, jax.random.key(seed))
        return Actions(np.asarray(action), np.asarray(probability))

    def in_pieces(obs: NDArray[Any]) -> Actions:
        pieces = [act(obs[begin : begin + PIECE]) for begin in range(0, len(obs), PIECE)]
        return Actions(*(np.concatenate(column, axis=1) for column in zip(*pieces, strict=True)))

    return in_pieces


def behavior_statistics(policy: Policy, steps: Transition) -> dict[str, float]:
    """Return how far the policy is from the data.

    ``behavior/action_distance`` is the mean over steps of the root mean square difference, over the components,
    between the policy's mode and the data's action in units of half the range; with choices, the share of components
    that differ. ``behavior/log_prob`` is the mean log-probability of the data's actions, in the same units.
    """
    distance, log_prob = [], []
    for begin in range(0, len(steps.reward), PIECE):
        obs, action = steps.obs[begin : begin + PIECE], steps.action[begin : begin + PIECE]
        mode = np.asarray(acting.mode(policy.actor, policy.normalizer, obs))
        if policy.codec.nvec:
            distance.append((mode != action).mean(axis=1))
        else:
            distance.append(np.sqrt(((np.clip(mode, -1, 1) - action) ** 2).mean(axis=1)))
        log_prob.append(acting.log_prob(policy.actor, policy.normalizer, obs, action))
    return {
        "behavior/action_distance": float(np.concatenate(distance).mean()),
        "behavior/log_prob": float(np.concatenate(log_prob).mean()),
    }


def weighted_importance_sampling(
    reward: NDArray[Any], episode: NDArray[np.int32], log_ratio: NDArray[np.float64], gamma: float, seed: int
) -> tuple[Estimate, float]:
    """Return ``sum_i w_i G_i / sum_i w_i`` over episodes, and the weights' effective sample size as a share of them.

    ``w_i`` is the product of ``pi(a|s) / mu(a|s)`` over the steps of an episode (Precup, Sutton, Singh 2000), ``G_i``
    its discounted return. The interval is the percentile bootstrap's over episodes, of the samples that
    have a weight. All are nan if no episode has one.
    """
    returns = discounted_returns(reward, episode, gamma)
    log_weight = np.bincount(episode, weights=log_ratio)
    if np.isneginf(log_weight).all():
        return Estimate(math.nan, math.nan, math.nan), 0.0
    weight = np.exp(log_weight - log_weight.max())
    rng = np.random.default_rng(seed)
    resampled = []
    for _ in range(N_RESAMPLES):
        drawn = rng.integers(len(returns), size=len(returns))
        if total := weight[drawn].sum():  # of those without a weight, nothing is known
            resampled.append((weight * returns)[drawn].sum() / total)
    low, high = np.quantile(resampled, (0.025, 0.975))
    share = float(effective_sample_size(jnp.asarray(weight)))
    return Estimate(float((weight * returns).sum() / weight.sum()), float(low), float(high)), share


def evaluate_offline(
    policy: Policy,
    dataset: Dataset,
    *,
    gamma: float,
    deterministic: bool = True,
    gradient_steps: int = 6_000,
    seed: int = 0,
    report: Callable[[int], None] = lambda _: None,
) -> dict[str, float]:
    """Return estimates of how good a policy is, from data that it was best not trained on.

    Args:
        policy: whose value is estimated.
        dataset: of the policy's spaces.
        gamma: discount factor of the values.
        deterministic: the policy's mode; otherwise its samples.
        gradient_steps: of the fitted Q functions.
        seed: of the fit and the bootstrap samples.
        report: called with the gradient steps so far.

    Returns:
        Values are discounted returns from the data's first states.

        ``fqe/value``, ``fqe/low``, ``fqe/high``: fitted Q evaluation with its 95% interval, and ``fqe/td_error``;
        ``data/value``: what the data's own episodes returned;
        ``behavior/action_distance``, ``behavior/log_prob``: how far the policy is from the data;
        if the data have ``action_log_probs``, and the actions are choices or sampled:
        ``wis/value``, ``wis/low``, ``wis/high``: weighted importance sampling, and
        ``wis/effective_sample_size``, the effective sample size of the episodes, as a share of them.

    Raises:
        DivergedError: a value of the fitted Q functions is not finite.
        ConfigError: more joint actions than Q functions have outputs for.
    """
    n_joint = math.prod(policy.codec.nvec)
    if n_joint > MAX_JOINT_ACTIONS:
        raise ConfigError(
            f"The action space has {n_joint:,} joint actions, and the estimate needs a Q function with an output for "
            f"each, at most {MAX_JOINT_ACTIONS:,}: evaluate the policy in an environment (Trainer.evaluate)."
        )
    steps = dataset.transitions()
    fitted, td_error = fitted_q_evaluation(
        steps,
        policy_actions(policy, deterministic, seed),
        policy.codec.nvec,
        fqe.FQEConfig(gamma=gamma),
        gradient_steps=gradient_steps,
        seed=seed,
        cut=dataset.partial[0],
        report=report,
    )
    # Of a part of an episode, the return and the ratio of probabilities are another thing.
    episodes = dataset.episodes()
    whole = slice(episodes[0, 0], episodes[-1, 1]) if len(episodes) else slice(None)
    reward, terminated, truncated = (dataset.columns[name][whole] for name in ("rewards", "terminals", "timeouts"))
    episode = episode_numbers(terminated, truncated)
    result = {
        "fqe/value": fitted.value,
        "fqe/low": fitted.low,
        "fqe/high": fitted.high,
        "fqe/td_error": td_error,
        "data/value": float(discounted_returns(reward, episode, gamma).mean()),
        **behavior_statistics(policy, steps),
    }
    if "action_log_probs" in dataset.columns and (policy.codec.nvec or not deterministic):
        log_ratio = (_log_prob(policy, dataset, deterministic) - dataset.columns["action_log_probs"][:])[whole]
        weighted, share = weighted_importance_sampling(reward, episode, log_ratio, gamma, seed)
        result |= {"wis/value": weighted.value, "wis/low": weighted.low, "wis/high": weighted.high}
        result["wis/effective_sample_size"] = share
    return result


def _log_prob(policy: Policy, dataset: Dataset, deterministic: bool) -> NDArray[np.float64]:
    """Return the policy's log-probability of every logged action, per unit of the environment."""
    found = []
    for obs, action in dataset.encoded():
        if deterministic:
            taken = np.asarray(acting.mode(policy.actor, policy.normalizer, obs))
            found.append(np.where((taken == action).all(axis=1), 0.0, -np.inf))
        else:
            log_prob = np.asarray(acting.log_prob(policy.actor, policy.normalizer, obs, action), np.float64)
            found.append(log_prob - policy.codec.log_scale(action))
    return np.concatenate(found)
