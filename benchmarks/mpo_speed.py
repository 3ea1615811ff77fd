"""How many environment steps a second MPO learns from, beside SAC, and how far its update is from its own products.

    taskset -c 0 python benchmarks/mpo_speed.py    # needs rlox[compare] and gymnasium[mujoco]

Measured in turn, each in a fresh process, on HalfCheetah-v5 with one critic step an environment step and two hidden
layers of 256 on both sides:

- steps a second: of 4,000 steps that follow 2,000 with learning, without evaluations; MPO with 1, 4 and 8 environments;
- `update`: microseconds of MPO's turn of three critic steps and one of the actor in a compiled scan, against those of
  its matrix products in NumPy's BLAS, whose operands stay in cache: a lower limit.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

from common import ONE_THREAD, Row, print_table, ratios, run, select
from update import layer, time_calls, time_products

ENV, WARM_UP, STEPS, N_SCAN = "HalfCheetah-v5", 2_000, 4_000, 5
N_ENVS = (1, 4, 8)


def worker(kind: str, n_envs: int = 1) -> Row:
    """Measure one kind."""
    os.environ |= ONE_THREAD | {"JAX_PLATFORMS": "cpu"}
    if kind == "sac":
        return {"steps_per_second": sac_steps()}
    if kind == "mpo":
        return {"steps_per_second": mpo_steps(n_envs)}
    obs_dim, action_dim = 17, 6
    return {"update": mpo_update(obs_dim, action_dim), "products": time_products(mpo_products(obs_dim, action_dim))}


def mpo_steps(n_envs: int) -> float:
    """Return the environment steps a second of MPO."""
    from rlox import Trainer

    trainer = Trainer("mpo", env=ENV, config={"n_envs": n_envs, "learning_starts": 500, "random_episodes": 0})
    trainer.train(WARM_UP, progress=False)
    begin = time.perf_counter()
    trainer.train(STEPS, progress=False)
    return STEPS / (time.perf_counter() - begin)


def sac_steps() -> float:
    """Return those of Stable-Baselines3's SAC at its defaults."""
    import torch
    from stable_baselines3 import SAC

    torch.set_num_threads(1)
    model = SAC("MlpPolicy", ENV, learning_starts=500, device="cpu")
    model.learn(WARM_UP)
    begin = time.perf_counter()
    model.learn(STEPS, reset_num_timesteps=False)
    return STEPS / (time.perf_counter() - begin)


def mpo_update(obs_dim: int, action_dim: int) -> float:
    """Return microseconds of a turn of updates."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from rlox.algorithms import ALGORITHMS
    from rlox.core.transition import Transition
    from rlox.core.update import init_state, make_update

    algorithm: Any = ALGORITHMS["mpo"]
    config: Any = algorithm.config()
    update = make_update(algorithm, config)
    keys = jax.random.split(jax.random.key(0), 5)
    lead = N_SCAN, config.n_critic_updates, config.batch_size
    obs, next_obs = (jax.random.normal(key, (*lead, obs_dim)) for key in keys[:2])
    action, no = jax.random.uniform(keys[2], (*lead, action_dim), minval=-1.0), jnp.zeros(lead, bool)
    drawn = (
        Transition(obs, action, jax.random.normal(keys[3], lead), next_obs, no, no),
        jax.random.split(keys[4], N_SCAN),
    )
    compiled = jax.jit(lambda state, drawn: lax.scan(lambda s, x: update(s, *x), state, drawn), donate_argnums=0)
    state = init_state(algorithm, config, obs_dim, (), action_dim, seed=0)

    def call() -> None:
        nonlocal state
        state, metrics = compiled(state, drawn)
        jax.block_until_ready(metrics)

    return time_calls(call, warm_up=1) / N_SCAN


def mpo_products(obs_dim: int, action_dim: int) -> list[Any]:
    """Return the products of that turn, of the sizes of MPO's defaults."""
    from rlox.algorithms.mpo import MPOConfig

    config = MPOConfig()
    width, batch, states = config.widths[0], config.batch_size, config.n_states
    both = 2 * batch
    critic = [
        *layer(both, obs_dim + action_dim, width, 1, 1, input_grad=True),  # its inputs are normalised by learned scales
        *layer(both, width, width, 1, 1),
        *layer(both, width, 1, 1, 1),
    ]
    acting = [
        *layer(batch, obs_dim, width, 1, 0),
        *layer(batch, width, width, 1, 0),
        *layer(batch, width, 2 * action_dim, 1, 0),
    ]
    judged = layer(states, obs_dim, width, 1, 0) + config.n_action_samples * [
        *layer(states, action_dim, width, 1, 0),
        *layer(states, width, width, 1, 0),
        *layer(states, width, 1, 1, 0),
    ]
    actor = [  # once for its actions, once for its loss
        *layer(states, obs_dim, width, 2, 1, input_grad=False),
        *layer(states, width, width, 2, 1),
        *layer(states, width, 2 * action_dim, 2, 1),
    ]
    return config.n_critic_updates * (config.n_critics * critic + acting) + config.n_critics * judged + actor


def tasks() -> list[Row]:
    return [{"kind": "mpo"}, {"kind": "sac"}, {"kind": "update"}, *({"kind": "mpo", "n_envs": n} for n in N_ENVS[1:])]


def show(rows: list[Row]) -> None:
    """Print steps a second beside SAC's, and the update beside its products."""
    sac = select(rows, "steps_per_second", kind="sac")
    lines = [["SAC of Stable-Baselines3", 1, f"{statistics.median(sac):.0f}", ""]]
    for n in N_ENVS:
        found = [row["steps_per_second"] for row in rows if row["kind"] == "mpo" and row.get("n_envs", 1) == n]
        lines.append(["MPO", n, f"{statistics.median(found):.0f}", ratios(found, sac)])
    print_table(["", "environments", "steps / s", "MPO / SAC"], lines)
    update, products = (select(rows, key, kind="update") for key in ("update", "products"))
    medians = (f"{statistics.median(x) / 1000:.1f}" for x in (update, products))
    print_table(["update, ms", "its products, ms", "update / products"], [[*medians, ratios(update, products)]])


if __name__ == "__main__":
    run(__doc__, worker, tasks, show, turns=3)
