"""Updates and rounds of every algorithm against references in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plain import params_of
from references import REFERENCES, BatchNormMPO, Net, Reference, Vector, learn_round
from rlox.algorithms import ALGORITHMS
from rlox.core import round as rounds
from rlox.core.distributions import Gaussian
from rlox.core.layers import BatchNormMLP
from rlox.core.normalizer import Normalizer
from rlox.core.round import make_round
from rlox.core.state import TrainState
from rlox.core.transition import Transition
from rlox.core.update import init_state, make_update

OBS_DIM, BATCH = 3, 8
DISCRETE, CONTINUOUS = (3, 2), ()
SETTINGS: dict[str, Any] = {
    "hidden": 6, "batch_size": BATCH, "gamma": 0.9, "learning_rate": 5e-3, "actor_output_scale": 1.0, "value_scale": 3.0
}  # fmt: skip


# What is called in rlox.


def make_config(algorithm: str, **settings: Any) -> Any:
    return ALGORITHMS[algorithm].config(**SETTINGS | settings)


def make_state(algorithm: str, config: Any, nvec: tuple[int, ...]) -> TrainState:
    """Return a fresh state whose target critic, where it has one of its own, differs from the critic."""
    state = init_state(ALGORITHMS[algorithm], config, OBS_DIM, nvec, 2, seed=0)
    rng = np.random.default_rng(9)

    def moved(leaf: Any) -> Any:
        return leaf + jnp.array(0.5 * rng.normal(size=leaf.shape), jnp.float32)

    return state._replace(target_critic=jax.tree.map(moved, state.target_critic))


FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Compiled in half the time; what runs once need not be quick."""


def make_updates(algorithm: str, config: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return ``update(state, batches, key, actor_waits) -> (state, metrics, noise)``.

    ``noise`` are the standard normal numbers behind each draw of continuous actions, in the order of the draws.
    """
    update, noise = make_update(ALGORITHMS[algorithm], config), []

    def record(name: str) -> None:
        draw = getattr(Gaussian, name)

        def recorded(self: Gaussian, key: Any, n_samples: int) -> Any:
            actions, probability = draw(self, key, n_samples)
            noise.append((actions - self.mean) / self.std)
            return actions, probability

        monkeypatch.setattr(Gaussian, name, recorded)

    def run(state: TrainState, batches: Transition, key: Any, actor_waits: Any = None) -> Any:
        noise.clear()
        state, metrics = update(state, batches, key, actor_waits)
        return state, metrics, list(noise)

    record("support")
    record("balanced")
    return jax.jit(run, compiler_options=FAST)


def make_rounds(algorithm: str, config: Any) -> Any:
    """Return ``learn(state, steps, order, stored, key) -> (state, metrics, draws)``: of places, in their order."""
    learn = make_round(ALGORITHMS[algorithm], config)

    def run(state: TrainState, steps: Transition, order: Any, stored: Any, key: Any) -> Any:
        drawn = []

        def draw(key: Any, shape: tuple[int, ...]) -> Any:
            places = jnp.flatnonzero(stored, size=N_STORED)
            drawn.append(places[jax.random.randint(key, shape, 0, N_STORED)])
            return drawn[-1]

        state, metrics = learn(state, steps, order, stored, draw, list(jax.random.split(key, 4)))
        return state, metrics, drawn

    return jax.jit(run, compiler_options=FAST)


def actor_params(state: TrainState) -> Net:
    log_std = state.actor.log_std
    return params_of(state.actor.network) + ([] if log_std is None else [np.asarray(log_std, np.float64)])


def critic_params(critic: Any) -> list[Net]:
    if critic is None:
        return []
    if hasattr(critic, "v"):
        return [*critic_params(critic.v), *critic_params(critic.q)]
    return [every_param(network) for network in getattr(critic, "networks", None) or (critic.network,)]


def every_param(network: Any) -> Net:
    """Return weights and biases, and of a batch-normalised network what normalises each layer's inputs."""
    if not isinstance(network, BatchNormMLP):
        return params_of(network)
    parts = [(norm.scale, norm.offset, norm.mean, norm.variance) for norm in network.norms]
    return params_of(network.network) + [np.asarray(part, np.float64) for norm in parts for part in norm]


# The references beside it.


def make_reference(algorithm: str, config: Any, nvec: tuple[int, ...], state: TrainState) -> Reference:
    targets = None if state.target_critic is None else critic_params(state.target_critic)
    reference = BatchNormMPO if config.batch_norm else REFERENCES[algorithm]
    return reference(config, nvec, actor_params(state), critic_params(state.critic), targets)


def in_float64(batch: Transition) -> Transition:
    return Transition(*(np.asarray(x) if x.dtype == bool else np.asarray(x, np.float64) for x in batch))


def assert_params_close(found: Net, expected: Net, name: str) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5, err_msg=name)


def assert_close(state: TrainState, metrics: dict[str, Any], reference: Reference, expected: dict[str, float]) -> None:
    assert_params_close(actor_params(state), reference.actor, "actor")
    for name, critic, nets in (
        ("critic", state.critic, reference.critics),
        ("target critic", state.target_critic, reference.own_targets or []),
    ):
        for found, net in zip(critic_params(critic), nets, strict=True):
            assert_params_close(found, net, name)
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value, rel=2e-3, abs=2e-4), name
    if hasattr(reference, "log_lambda"):
        own: Any = state.extra
        theirs: Any = reference
        for name in ("log_lambda", "temperature"):
            assert float(getattr(own, name)) == pytest.approx(getattr(theirs, name), rel=2e-3, abs=1e-4), name
        if own.anchor is not None:
            np.testing.assert_allclose(own.log_alpha, theirs.log_alpha, atol=1e-4)


def make_batches(nvec: tuple[int, ...], *lead: int, seed: int = 0) -> Transition:
    """Return random transitions; a third of them terminated, another third truncated."""
    rng = np.random.default_rng(seed)
    ending = rng.integers(3, size=lead)
    action = rng.integers(nvec, size=(*lead, 2)) if nvec else rng.normal(size=(*lead, 2))
    obs, next_obs = rng.normal(size=(2, *lead, OBS_DIM))
    return Transition(
        obs=jnp.array(obs, jnp.float32),
        action=jnp.array(action, jnp.int32 if nvec else jnp.float32),
        reward=jnp.array(2 * rng.normal(size=lead), jnp.float32),
        next_obs=jnp.array(next_obs, jnp.float32),
        terminated=jnp.array(ending == 1),
        truncated=jnp.array(ending == 2),
    )


MPO: dict[str, Any] = {
    "layer_norm": False, "batch_norm": False, "n_states": 5, "n_action_samples": 4, "lambda_learning_rate": 0.1,
    "n_critic_updates": 1, "momentum": 0.9,
}  # fmt: skip
# Batches as small as the number of action components or of choices would show arrays that broadcast by accident.
UPDATES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "awr": ("awr", DISCRETE, {"value_scale": 1.0}),
    "awr, several critic steps": (
        "awr", DISCRETE,
        {"n_critic_updates": 3, "tau": 0.3, "expectile": 0.8, "beta": 0.7, "max_advantage": 1.5, "entropy_coef": 0.3,
         "logit_coef": 0.2, "max_grad_norm": 0.3},
    ),
    "awr, continuous": (
        "awr", CONTINUOUS,
        {"tau": 0.3, "normalize_advantage": True, "entropy_coef": 0.1, "bound_coef": 0.5, "initial_std": 0.6,
         "min_std": 0.2, "actor_decay_steps": 4, "actor_learning_rate": 1e-2},
    ),
    "awr, sgd": (
        "awr", CONTINUOUS,
        {"n_critic_updates": 2, "optimizer": "sgd", "momentum": 0.8, "critic_learning_rate": 0.02,
         "state_dependent_std": True, "initial_std": 0.8, "max_grad_norm": 2.0, "hidden": (5, 4)},
    ),
    "awr, one transition": ("awr", DISCRETE, {"batch_size": 1, "tau": 0.5}),
    "bc": ("bc", DISCRETE, {"batch_size": 3}),
    "bc, continuous": ("bc", CONTINUOUS, {"learn_std": False, "initial_std": 0.4, "bound_coef": 2.0}),
    "awac": ("awac", DISCRETE, {"tau": 0.2, "beta": 0.5}),
    "awac, continuous": (
        "awac", CONTINUOUS,
        {"tau": 0.2, "weights": "exp", "n_action_samples": 3, "max_advantage": 1.2, "initial_std": 0.5},
    ),
    "awac, one sample": ("awac", CONTINUOUS, {"batch_size": 2, "tau": 0.1, "n_critics": 3, "beta": 2.0}),
    "crr": ("crr", DISCRETE, {"tau": 0.2, "beta": 0.5, "max_advantage": 1.3}),
    "crr, max": ("crr", DISCRETE, {"tau": 0.2, "baseline": "max", "n_critics": 1}),
    "crr, continuous": ("crr", CONTINUOUS, {"tau": 0.2, "beta": 0.5, "n_action_samples": 2, "initial_std": 0.5}),
    "crr, continuous max, binary": (
        "crr", CONTINUOUS, {"tau": 0.2, "weights": "binary", "baseline": "max", "initial_std": 0.5, "n_critics": 3}
    ),
    "iql": ("iql", DISCRETE, {"tau": 0.2, "beta": 0.8, "max_advantage": 1.5}),
    "iql, continuous": (
        "iql", CONTINUOUS, {"tau": 0.3, "beta": 0.8, "expectile": 0.9, "n_critics": 3, "network_init": "he"}
    ),
    "mpo": ("mpo", DISCRETE, MPO | {"tau": 0.2, "epsilon": 0.05, "soft": True, "replay_share": 0.3}),
    "mpo, discrete, near its copy": (
        "mpo", DISCRETE,
        MPO | {"q_of": "mean", "beta": 0.7, "backup": "logsumexp", "anchor_tau": 0.1, "anchor_coef": 0.4,
               "epsilon_mean": 0.01},
    ),
    "mpo, continuous": (
        "mpo", CONTINUOUS, MPO | {"tau": 0.3, "n_target_samples": 3, "target_std": 2.0, "bound_coef": 0.7}
    ),
    "mpo, soft and mixed": (
        "mpo", CONTINUOUS,
        MPO | {"soft": True, "replay_share": 0.4, "q_of": "mean", "state_dependent_std": False, "max_std": None,
               "initial_lambda": 1.0},
    ),
    "mpo, batch norm": (
        "mpo", CONTINUOUS, MPO | {"batch_norm": True, "n_target_samples": 3, "target_std": 2.0, "momentum": 0.5}
    ),
    "mpo, batch norm, discrete": (
        "mpo", DISCRETE, MPO | {"batch_norm": True, "soft": True, "replay_share": 0.3, "n_critic_updates": 2}
    ),
    "mpo, near its copy": (
        "mpo", CONTINUOUS,
        MPO | {"anchor_tau": 0.2, "anchor_coef": 0.6, "epsilon_mean": 0.002, "epsilon_std": 0.05, "beta": 0.4,
               "backup": "logsumexp", "n_target_samples": 2, "target_std": None},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UPDATES)
def test_updates_are_those_of_the_reference(case: str, monkeypatch: pytest.MonkeyPatch):
    algorithm, nvec, settings = UPDATES[case]
    config = make_config(algorithm, **settings)
    state, update = make_state(algorithm, config, nvec), make_updates(algorithm, config, monkeypatch)
    reference = make_reference(algorithm, config, nvec, state)
    every_draw = []
    for i in range(3):
        batches = make_batches(nvec, config.n_critic_updates, config.batch_size, seed=i)
        state, metrics, noise = update(state, batches, jax.random.key(i))
        noise = [np.asarray(draw, np.float64) for draw in noise]
        parts = [Transition(*(column[j] for column in in_float64(batches))) for j in range(config.n_critic_updates)]
        assert_close(state, metrics, reference, reference.update(parts, noise))
        every_draw += noise
    assert int(state.gradient_steps) == 3
    numbers = np.concatenate([draw.ravel() for draw in every_draw]) if every_draw else np.zeros(0)
    assert len(np.unique(numbers.round(4))) >= 0.99 * len(numbers), "two draws share their random numbers"


@pytest.mark.parametrize("algorithm", ["awr", "iql"])
def test_an_actor_that_waits_keeps_its_moments_and_the_critic_learns(algorithm: str, monkeypatch: pytest.MonkeyPatch):
    config = make_config(algorithm, tau=0.2)
    state, update = make_state(algorithm, config, CONTINUOUS), make_updates(algorithm, config, monkeypatch)
    reference = make_reference(algorithm, config, CONTINUOUS, state)
    for i, waits in enumerate((False, True, True, False)):
        batches = make_batches(CONTINUOUS, 1, BATCH, seed=i)
        before, kept = state, (reference.actor, vars(reference.actor_optimizer).copy())
        state, metrics, _ = update(state, batches, jax.random.key(i), jnp.array(waits))
        expected = reference.update([Transition(*(column[0] for column in in_float64(batches)))], [])
        if waits:
            reference.actor = kept[0]
            vars(reference.actor_optimizer).update(kept[1])
            assert_same((state.actor, state.actor_opt, state.gradient_steps),
                        (before.actor, before.actor_opt, before.gradient_steps))  # fmt: skip
        assert_close(state, metrics, reference, expected)
    assert int(state.gradient_steps) == 2


def assert_same(first: Any, second: Any) -> None:
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, other)


# Rounds.

T, N, N_STORED = 9, 3, 23
ORDER = (np.arange(T)[:, None] + [5, 8, 2]) % T * N + np.arange(N)
"""Places of the steps of three rings that have come round, each elsewhere."""
ROUND: dict[str, Any] = {
    "buffer_size": T * N, "batch_size": 5, "rollout_steps": T, "n_critic_updates": 4, "n_actor_updates": 3, "beta": 0.5
}  # fmt: skip


def make_episodes(nvec: tuple[int, ...]) -> tuple[Transition, Any]:
    """Return three streams as the rings hold them, and which places are taken: the third one's first steps are not.

    What stands in places that are not taken must not count: it is large.
    """
    streams = make_batches(nvec, T, N)
    flat = jnp.array([1.0, 1.0, 0.02])
    streams = streams._replace(obs=streams.obs * flat, next_obs=streams.next_obs * flat)
    ending = np.random.default_rng(1).integers(5, size=(T, N))
    goes_on = (ending > 1)[:-1, :, None]
    streams = streams._replace(
        next_obs=streams.next_obs.at[:-1].set(jnp.where(goes_on, streams.obs[1:], streams.next_obs[:-1])),
        terminated=jnp.array(ending == 0),
        truncated=jnp.array(ending == 1),
    )
    there = jnp.ones((T, N), bool).at[:4, 2].set(False)
    streams = streams._replace(obs=streams.obs.at[:4, 2].set(50.0), reward=streams.reward.at[:4, 2].set(1e3))
    return jax.tree.map(in_places, streams), in_places(there)


def in_places(column: Any) -> Any:
    flat = np.zeros((T * N, *column.shape[2:]), column.dtype)
    flat[ORDER] = column
    return jnp.array(flat)


def make_normalizer() -> Normalizer:
    """Return one of observations whose third component hardly varies, less than the floor under the std."""
    return Normalizer(jnp.array(50.0), jnp.array([0.3, -0.5, 0.0]), jnp.array([200.0, 12.5, 1e-9]))


def whitened(normalizer: Normalizer | None, obs: Vector) -> Vector:
    if normalizer is None:
        return obs
    std = np.sqrt(np.asarray(normalizer.m2, np.float64) / float(normalizer.count))
    return (obs - np.asarray(normalizer.mean)) / np.maximum(std, 0.02)


ROUNDS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "awr": (
        "awr", CONTINUOUS,
        {"td_lambda": 0.7, "normalize_advantage": True, "normalize_obs": True, "max_advantage": 3.0, "optimizer": "sgd",
         "learn_std": False, "initial_std": 0.4},
    ),
    "awr, discrete": ("awr", DISCRETE, {"td_lambda": 0.9, "max_advantage": 1.5, "expectile": 0.7}),
    "marwil": ("marwil", DISCRETE, {"normalize_obs": True, "entropy_coef": 0.1}),
    "marwil, continuous": ("marwil", CONTINUOUS, {}),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(("case", "chunk"), [*((case, 512) for case in ROUNDS), ("awr", 4)])
def test_rounds_are_those_of_the_reference(case: str, chunk: int, monkeypatch: pytest.MonkeyPatch):
    """``chunk``: of so many values at a time."""
    monkeypatch.setattr(rounds, "_CHUNK", chunk)
    algorithm, nvec, settings = ROUNDS[case]
    config = make_config(algorithm, **ROUND | settings)
    state = make_state(algorithm, config, nvec)
    if config.normalize_obs:
        state = state._replace(normalizer=make_normalizer())
    reference: Any = make_reference(algorithm, config, nvec, state)
    steps, stored = make_episodes(nvec)
    plain = in_float64(steps)
    seen = plain._replace(**{name: whitened(state.normalizer, getattr(plain, name)) for name in ("obs", "next_obs")})
    learn = make_rounds(algorithm, config)
    for i in range(2):
        state, metrics, drawn = learn(state, steps, jnp.array(ORDER), stored, jax.random.key(i))
        for_critic, for_actor = (np.asarray(places) for places in drawn)
        assert not np.array_equal(for_critic[: len(for_actor)], for_actor), "critic and actor share their minibatches"
        assert_close(
            state, metrics, reference, learn_round(reference, seen, ORDER, np.asarray(stored), for_critic, for_actor)
        )
    assert int(state.gradient_steps) == 2 * config.n_actor_updates
