"""Environment steps a second through the whole published schedule, and a round's learning against its matrix products.

    python benchmarks/rounds.py                                  # HalfCheetah-v5 in EnvPool, Gymnasium and one by one
    python benchmarks/rounds.py --mkl path/to/libmkl_rt.so       # with an MKL that is installed

Preset `paper`: 2048 steps, 200 critic and 1000 actor steps a round, a replay of 50,000, which is full before anything
is timed. Modes alternate, each run in a fresh process bound to the cores. `collect` is the time until the round's last
environment step, `learn` the rest of the round, until its actor is computed.

The products are those that no implementation of the round can leave out: forward and backward ones of every critic and
actor step, and two forward passes of the critic over the replay; operands in cache, results in place, on one thread, in
the faster of MKL and NumPy's BLAS.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from typing import Any

from common import (
    Row,
    bind,
    describe_machine,
    make_parser,
    print_machine,
    print_table,
    ratios,
    run_worker,
    spread,
    start,
    write_results,
)
from update import Product, find_mkl, layer, mkl_products, numpy_products, time_calls

MODES = {"envpool": ("envpool", 32), "async": ("async", 8), "sync": ("sync", 8), "one": ("sync", 1)}
CHUNK = 512


def worker(env_id: str, mode: str, n_rounds: int, cores: list[int] | None, xla_threads: int | None) -> Row:
    """Time rounds, and their two parts."""
    bind(cores)
    if xla_threads:
        os.environ["PJRT_NPROC"] = str(xla_threads)
    import jax

    from rlox import RunSpec
    from rlox.assemble import make_learner

    vectorization_mode, n_envs = MODES[mode]
    settings = {"n_envs": n_envs, "vectorization_mode": vectorization_mode}
    spec = RunSpec.resolve("awr", env=env_id, preset="paper", config=settings)
    learner: Any = make_learner(spec, env_id, None)
    config: Any = spec.config
    rows = -(-config.rollout_steps // n_envs)
    collecting, learning = [], []
    n_before = -(-config.buffer_size // (rows * n_envs)) + 1
    for round_ in range(n_before + n_rounds):
        begin = time.perf_counter()
        for _ in range(rows - 1):
            learner.advance(1)
        collected = time.perf_counter()
        learner.advance(1)
        jax.block_until_ready(learner.state.train)
        end = time.perf_counter()
        if round_ >= n_before:
            collecting.append(collected - begin)
            learning.append(end - collected)
    return {
        "mode": mode,
        "xla_threads": xla_threads,
        "steps": rows * n_envs,
        "collect_ms": statistics.median(collecting) * 1e3,
        "learn_ms": statistics.median(learning) * 1e3,
        "steps_per_second": rows * n_envs * n_rounds / (sum(collecting) + sum(learning)),
    }


def network(batch: int, sizes: tuple[int, ...], *, backward: bool) -> list[Product]:
    """Return the products of a perceptron's pass over a batch."""
    pairs = list(itertools.pairwise(sizes))
    return [p for i, (a, b) in enumerate(pairs) for p in layer(batch, a, b, 1, int(backward), input_grad=i > 0)]


def products_ms(env_id: str, mkl: str | None, cores: list[int] | None) -> float:
    """Return milliseconds of a round's products on one thread."""
    bind(cores and cores[:1])
    os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    import gymnasium as gym

    from rlox import RunSpec

    env: Any = gym.make(env_id)
    config: Any = RunSpec.resolve("awr", env=env_id, preset="paper").config
    obs_dim, action_dim = env.observation_space.shape[0], env.action_space.shape[0]
    critic, actor = (obs_dim, *config.widths, 1), (obs_dim, *config.widths, action_dim)
    parts = [
        (config.n_critic_updates, network(config.batch_size, critic, backward=True)),
        (config.n_actor_updates, network(config.batch_size, actor, backward=True)),
        (2 * config.buffer_size / CHUNK, network(CHUNK, critic, backward=False)),
    ]
    found = []
    for count, wanted in parts:
        calls = [numpy_products(wanted), *([mkl_products(wanted, mkl)] if mkl else [])]
        found.append(count * min(time_calls(call, 0.5) for call in calls))
    return sum(found) / 1e3


def products_worker(env_id: str, mkl: str | None, cores: list[int] | None) -> Row:
    return {"mode": "products", "products_ms": products_ms(env_id, mkl, cores)}


def dispatch(**task: Any) -> Row:
    """Run the worker of a task."""
    return products_worker(**task) if "mkl" in task else worker(**task)


def measure(args: argparse.Namespace) -> None:
    """Run the modes alternately, then print and write."""
    mkl = find_mkl(args)
    machine = describe_machine()
    settings = {name: getattr(args, name) for name in ("env", "modes", "rounds", "turns", "cores")}
    task = {"env_id": args.env, "cores": args.cores}
    rows: list[Row] = []
    for turn in range(args.turns):
        for mode in args.modes:
            for threads in (1, None):
                row = run_worker(__file__, **task, mode=mode, n_rounds=args.rounds, xla_threads=threads)
                rows.append({"turn": turn, **row})
        rows.append({"turn": turn, **run_worker(__file__, **task, mkl=mkl)})
        write_results(args.results / "rounds.json", machine, settings, rows)
    limit = [row["products_ms"] for row in rows if row["mode"] == "products"]
    lines = []
    for mode in args.modes:
        for threads in (1, None):
            own = [row for row in rows if row["mode"] == mode and row["xla_threads"] == threads]
            collect, learn, speed = ([row[k] for row in own] for k in ("collect_ms", "learn_ms", "steps_per_second"))
            cells = spread(collect), spread(learn), ratios(learn, limit), spread(speed, 0)
            lines.append([f"{MODES[mode][0]}, {MODES[mode][1]}", threads or "all", *cells])
    print(f"\n{args.env}, {args.cores or 'all'} cores; products of a round: {spread(limit)} ms\n")
    print_table(["environments", "XLA threads", "collect, ms", "learn, ms", "learn / products", "steps / s"], lines)
    print_machine(machine)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--env", default="HalfCheetah-v5", help="environment, of continuous actions (HalfCheetah-v5)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="where environments step (all)")
    parser.add_argument("--rounds", type=int, default=10, help="rounds timed in each turn (10)")
    parser.add_argument("--turns", type=int, default=3, help="turns (3)")
    parser.add_argument("--cores", type=int, nargs="+", help="cores that each process is bound to; all by default")
    parser.add_argument("--mkl", help="path to libmkl_rt.so; by default MKL is installed in the cache folder")
    parser.add_argument("--no-mkl", action="store_true", help="do without MKL")
    measure(parser.parse_args())


if __name__ == "__main__":
    start(main, dispatch)
