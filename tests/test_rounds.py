"""A round of learning against the same round in plain arrays, and what it must not mix."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probes import CutConstantReward, DelayedReward
from reference import forward, layers_of, mixed_returns
from rlox import Trainer
from rlox.algorithms import ALGORITHMS
from rlox.algorithms.awr import AWRConfig
from rlox.core import round as rounds
from rlox.core.round import make_round
from rlox.core.state import TrainState, Transition
from rlox.core.update import init_state

AWR = ALGORITHMS["awr"]
T, N, OBS_DIM = 12, 2, 3
SETTINGS: dict[str, Any] = {
    "hidden": 8, "batch_size": 6, "buffer_size": T * N, "rollout_steps": T, "n_critic_updates": 4, "n_actor_updates": 5,
    "td_lambda": 0.7, "normalize_advantage": True, "beta": 0.5, "max_advantage": 3.0, "optimizer": "sgd",
    "actor_learning_rate": 0.05, "critic_learning_rate": 0.02, "value_scale": 10.0,
}  # fmt: skip


SHIFT = np.array([5, 9])
ORDER = (np.arange(T)[:, None] + SHIFT) % T * N + np.arange(N)
"""Places of the steps of two rings that have come round, each elsewhere."""


def make_episodes(seed: int = 0) -> tuple[Transition, np.ndarray]:
    """Return two streams in order of time; of the second one, the first three steps are not there."""
    rng = np.random.default_rng(seed)
    ending = rng.integers(6, size=(T, N))
    stored = np.ones((T, N), bool)
    stored[:3, 1] = False
    obs, led_to = rng.normal(size=(2, T, N, OBS_DIM))
    goes_on = (ending > 1)[:-1, :, None]
    led_to[:-1] = np.where(goes_on, obs[1:], led_to[:-1])
    return Transition(
        obs=jnp.array(obs, jnp.float32),
        action=jnp.array(rng.normal(size=(T, N, 2)), jnp.float32),
        reward=jnp.array(rng.normal(size=(T, N)), jnp.float32),
        next_obs=jnp.array(led_to, jnp.float32),
        terminated=jnp.array(ending == 0),
        truncated=jnp.array(ending == 1),
    ), stored


def draw_in_time(key: Any, shape: tuple[int, ...]) -> Any:
    """Draw stored steps by their flattened place in time, those of another key elsewhere."""
    places = jnp.array(np.flatnonzero(make_episodes()[1]))
    return places[jax.random.randint(key, shape, 0, len(places))]


def draw(key: Any, shape: tuple[int, ...]) -> Any:
    return jnp.array(ORDER.ravel())[draw_in_time(key, shape)]


def in_places(column: Any) -> Any:
    """Return a column in order of time as the rings hold it."""
    flat = np.empty((T * N, *column.shape[2:]), column.dtype)
    flat[ORDER] = column
    return jnp.array(flat)


def learn(config: AWRConfig, state: TrainState, episodes: Transition, stored: Any) -> Any:
    steps, there = jax.tree.map(in_places, episodes), in_places(stored)
    return jax.jit(lambda state, steps: make_round(AWR, config)(state, steps, jnp.array(ORDER), there, draw))(
        state, steps
    )


def descend(loss: Any, params: Any, indices: Any, rate: float) -> Any:
    """Take a step of gradient descent with momentum 0.9 on each minibatch."""
    velocity = jax.tree.map(jnp.zeros_like, params)
    for index in indices:
        grads = jax.grad(loss)(params, index)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
        params = jax.tree.map(lambda p, v: p - rate * v, params, velocity)
    return params


def reference(config: AWRConfig, state: TrainState, episodes: Transition, stored: Any) -> tuple[Any, Any]:
    """Return the layers of actor and critic after a round with a fixed std."""
    ended = np.array(episodes.terminated | episodes.truncated)
    ended[-1] = True
    obs, next_obs, action = (x.reshape(T * N, -1) for x in (episodes.obs, episodes.next_obs, episodes.action))
    _, critic_key, actor_key = jax.random.split(state.key, 3)
    scale = config.value_scale

    def returns(critic: Any) -> Any:
        next_value = np.asarray(scale * forward(critic, next_obs)).reshape(T, N)
        streams = np.asarray(episodes.reward), next_value, np.asarray(episodes.terminated), ended
        return jnp.array(mixed_returns(*streams, config.gamma, config.td_lambda).ravel(), jnp.float32)

    critic = layers_of(state.critic.network)
    target = returns(critic)
    critic = descend(
        lambda critic, i: ((target[i] / scale - forward(critic, obs[i])[:, 0]) ** 2).mean(),
        critic, draw_in_time(critic_key, (config.n_critic_updates, config.batch_size)), 0.02,
    )  # fmt: skip
    advantage = np.asarray(returns(critic) - scale * forward(critic, obs)[:, 0])
    there = advantage[stored.ravel()]
    weight = jnp.minimum(jnp.exp((advantage - there.mean()) / (there.std() + 1e-5) / config.beta), config.max_advantage)
    std = config.initial_std
    actor = descend(
        lambda actor, i: (weight[i] * ((action[i] - forward(actor, obs[i])) ** 2).sum(axis=1) / (2 * std**2)).mean(),
        layers_of(state.actor.network), draw_in_time(actor_key, (config.n_actor_updates, config.batch_size)), 0.05,
    )  # fmt: skip
    return actor, critic


@pytest.mark.parametrize("chunk", [512, 5], ids=["one chunk", "several chunks"])
def test_a_round_is_that_of_the_reference(chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rounds, "_CHUNK", chunk)
    config = AWRConfig(**SETTINGS, learn_std=False, initial_std=0.4)
    state = init_state(AWR, config, OBS_DIM, (), 2, seed=0)
    episodes, stored = make_episodes()
    after, metrics = learn(config, state, episodes, stored)
    actor, critic = reference(config, state, episodes, stored)
    for network, expected in ((after.actor.network, actor), (after.critic.network, critic)):
        for found, wanted in zip(jax.tree.leaves(layers_of(network)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
    assert int(after.gradient_steps) == 5
    assert float(metrics["advantage/std"]) == pytest.approx(1, abs=1e-3)


def test_steps_that_are_not_there_change_nothing():
    config = AWRConfig(**SETTINGS)
    state = init_state(AWR, config, OBS_DIM, (), 2, seed=0)
    episodes, stored = make_episodes()
    garbage = jax.tree.map(
        lambda column: jnp.where(
            stored.reshape(T, N, *(1,) * (column.ndim - 2)), column, True if column.dtype == bool else 1e3
        ),
        episodes,
    )
    for one, other in zip(
        jax.tree.leaves(learn(config, state, episodes, stored)),
        jax.tree.leaves(learn(config, state, garbage, stored)),
        strict=True,
    ):
        np.testing.assert_array_equal(
            jax.random.key_data(one) if one.dtype == state.key.dtype else one,
            jax.random.key_data(other) if other.dtype == state.key.dtype else other,
        )


# In a Trainer.

GAMMA = 0.5
PROBE: dict[str, Any] = {
    "hidden": 32, "learning_starts": 0, "batch_size": 64, "buffer_size": 512, "rollout_steps": 128, "gamma": GAMMA,
    "n_critic_updates": 100, "n_actor_updates": 20, "learning_rate": 3e-3,
}  # fmt: skip


@pytest.mark.parametrize("td_lambda", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_values_bootstrap_where_an_episode_is_cut(td_lambda: float, n_envs: int):
    trainer = Trainer(
        "awr", lambda: CutConstantReward("discrete"), config=PROBE | {"td_lambda": td_lambda, "n_envs": n_envs}, seed=1
    )
    trainer.train(128 * 16, progress=False)
    value = float(trainer.state.critic(jnp.zeros((1, 1)))[0])
    assert value == pytest.approx(1 / (1 - GAMMA), abs=0.05)


@pytest.mark.parametrize("td_lambda", [0.0, 1.0])
def test_values_of_a_delayed_reward_are_discounted(td_lambda: float):
    trainer = Trainer("awr", DelayedReward("continuous"), config=PROBE | {"td_lambda": td_lambda}, seed=1)
    trainer.train(128 * 12, progress=False)
    np.testing.assert_allclose(trainer.state.critic(jnp.array([[0.0], [1.0]])), [GAMMA, 1.0], atol=0.05)


def test_rounds_count_their_steps_and_are_traced_once():
    config = PROBE | {"rollout_steps": 100, "n_envs": 3, "hidden": 4}
    trainer = Trainer("awr", "CartPole-v1", config=config)
    trainer.train(102 * 3 + 30, progress=False)
    assert trainer.gradient_steps == 3 * PROBE["n_actor_updates"]
    trainer.evaluate(2)
    trainer.train(102 - 30, progress=False)
    assert trainer.gradient_steps == 4 * PROBE["n_actor_updates"]
    programs: Any = trainer._learner.programs
    assert programs.learn_round._cache_size() == 1


def test_a_rollout_that_is_not_finished_survives_a_checkpoint(tmp_path: Any):
    config = PROBE | {"rollout_steps": 100, "hidden": 4}
    trainer = Trainer("awr", "CartPole-v1", config=config)
    trainer.train(130, progress=False)
    trainer.save(tmp_path)
    loaded = Trainer.load(tmp_path)
    assert loaded._learner.replay is not None
    assert int(loaded._learner.replay.size[0]) == 130
    loaded.train(69, progress=False)
    assert loaded.gradient_steps == trainer.gradient_steps == PROBE["n_actor_updates"]
    loaded.train(1, progress=False)
    assert loaded.gradient_steps == 2 * PROBE["n_actor_updates"]


def test_the_same_seed_gives_the_same_rounds():
    def run(seed: int) -> Any:
        trainer = Trainer("awr", "CartPole-v1", config=PROBE | {"hidden": 4, "normalize_obs": True}, seed=seed)
        trainer.train(300, progress=False)
        return [np.asarray(leaf) for leaf in jax.tree.leaves((trainer.state.actor, trainer.state.critic))]

    first, again, other = run(1), run(1), run(2)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not all((a == b).all() for a, b in zip(first, other, strict=True))
