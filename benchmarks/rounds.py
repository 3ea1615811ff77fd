"""Environment steps a second through the whole published schedule, and a round's learning against its matrix products.

    python benchmarks/rounds.py    # HalfCheetah-v5 in EnvPool, Gymnasium and one by one; installs MKL

Preset `paper`: 2048 steps, 200 critic and 1000 actor steps a round, a replay of 50,000, which is full before anything
is timed. Modes alternate, each run in a fresh process. `collect` is the time until the round's last environment step,
`learn` the rest of the round, until its actor is computed. Where rounds overlap, a round is learned while the next
steps are collected: `learn` is what is left to wait for.

The products are those that no implementation of the round can leave out: forward and backward ones of every critic and
actor step, and two forward passes of the critic over the replay; operands in cache, results in place, on one thread, in
the faster of MKL and NumPy's BLAS.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from typing import Any

from common import ONE_THREAD, Row, print_table, ratios, run, select, spread
from update import Product, find_mkl, layer, time_products

ENV, OBS_DIM, ACTION_DIM, N_ROUNDS, CHUNK = "HalfCheetah-v5", 17, 6, 8, 512
MODES = {
    "overlap": ("envpool", 32),
    "envpool": ("envpool", 32),
    "sync": ("sync", 8),
    "one": ("sync", 1),
    "async": ("async", 8),
}


def worker(mode: str, xla_threads: int | None = None, mkl: str | None = None) -> Row:
    """Time rounds and their two parts, or their products."""
    if mkl:
        return {"products_ms": products_ms(mkl)}
    if xla_threads:
        os.environ["PJRT_NPROC"] = str(xla_threads)
    import jax

    from rlox import RunSpec
    from rlox.assemble import make_learner

    vectorization_mode, n_envs = MODES[mode]
    settings = {"n_envs": n_envs, "vectorization_mode": vectorization_mode, "overlap": mode == "overlap"}
    spec = RunSpec.resolve("awr", env=ENV, preset="paper", config=settings)
    learner: Any = make_learner(spec, ENV, None)
    config: Any = spec.config
    rows = -(-config.rollout_steps // n_envs)
    collecting, learning = [], []
    n_before = -(-config.buffer_size // (rows * n_envs)) + 1
    for round_ in range(n_before + N_ROUNDS):
        begin = time.perf_counter()
        for _ in range(rows - 1):
            learner.advance(1)
        collected = time.perf_counter()
        learner.advance(1)
        if mode != "overlap":
            jax.block_until_ready(learner.state.train)
        end = time.perf_counter()
        if round_ >= n_before:
            collecting.append(collected - begin)
            learning.append(end - collected)
    return {
        "collect_ms": statistics.median(collecting) * 1e3,
        "learn_ms": statistics.median(learning) * 1e3,
        "steps_per_second": rows * n_envs * N_ROUNDS / (sum(collecting) + sum(learning)),
    }


def network(batch: int, sizes: tuple[int, ...], *, backward: bool) -> list[Product]:
    """Return the products of a perceptron's pass over a batch."""
    pairs = list(itertools.pairwise(sizes))
    return [p for i, (a, b) in enumerate(pairs) for p in layer(batch, a, b, 1, int(backward), input_grad=i > 0)]


def products_ms(mkl: str) -> float:
    """Return milliseconds of a round's products on one thread."""
    os.environ |= ONE_THREAD
    from rlox import RunSpec

    config: Any = RunSpec.resolve("awr", env=ENV, preset="paper").config
    critic, actor = (OBS_DIM, *config.widths, 1), (OBS_DIM, *config.widths, ACTION_DIM)
    parts = [
        (config.n_critic_updates, network(config.batch_size, critic, backward=True)),
        (config.n_actor_updates, network(config.batch_size, actor, backward=True)),
        (2 * config.buffer_size / CHUNK, network(CHUNK, critic, backward=False)),
    ]
    return sum(n * min(time_products(wanted, library) for library in (mkl, None)) for n, wanted in parts) / 1e3


def tasks() -> list[Row]:
    modes: list[Row] = [{"mode": mode, "xla_threads": threads} for mode in MODES for threads in (1, None)]
    return [*modes, {"mode": "products", "mkl": find_mkl()}]


def show(rows: list[Row]) -> None:
    limit = select(rows, "products_ms", mode="products")
    lines = []
    for mode, threads in itertools.product(MODES, (1, None)):
        collect, learn, speed = (
            select(rows, key, mode=mode, xla_threads=threads) for key in ("collect_ms", "learn_ms", "steps_per_second")
        )
        if speed:
            cells = spread(collect), spread(learn), ratios(learn, limit), spread(speed, 0)
            lines.append(
                [f"{MODES[mode][0]}, {MODES[mode][1]}{', overlap' * (mode == 'overlap')}", threads or "all", *cells]
            )
    print(f"Products of a round: {spread(limit)} ms\n")
    print_table(["environments", "XLA threads", "collect, ms", "learn, ms", "learn / products", "steps / s"], lines)


if __name__ == "__main__":
    run(__doc__, worker, tasks, show, turns=3)
