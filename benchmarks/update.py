"""Time of an update of AWR against that of its matrix products in the best BLAS at hand.

    python benchmarks/update.py                               # installs MKL in the cache folder
    python benchmarks/update.py --mkl path/to/libmkl_rt.so    # with an MKL that is installed

Measured alternately, each time in a fresh process bound to as many cores as it has threads, at CartPole-v1's sizes:

- `learn`: one call of the compiled program that follows an environment step (store, sample, critic step, actor step,
  next action), until its action is computed;
- `update`: critic and actor step alone, in one compiled scan;
- the matrix products of one update in MKL, in NumPy's BLAS and in XLA: the eight hidden x hidden ones (critic forward
  on s and s', its two backward ones, forward on s again, actor forward and its two backward ones), and all of them,
  first and last layers too. Operands stay in cache and results are written in place, so that this is a lower limit.
  XLA's are one compiled call, including its dispatch.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from common import (
    CACHE,
    Row,
    bind,
    describe_machine,
    log,
    make_parser,
    make_venv,
    print_machine,
    print_table,
    ratios,
    run_worker,
    start,
    write_results,
)

OBS_DIM, N_ACTIONS = 4, 2
SETS = ("hidden", "all")
MKL = "mkl==2026.2.0"


class Product(NamedTuple):
    """``C (m, n) = op(A) @ op(B)`` with an inner size of ``k``."""

    m: int
    k: int
    n: int
    transpose_a: bool = False
    transpose_b: bool = False


def layer(batch: int, n_in: int, n_out: int, forward: int, backward: int, input_grad: bool = True) -> list[Product]:
    """Return the products of a layer that is run ``forward`` times, and ``backward`` times back."""
    back = [Product(n_in, batch, n_out, transpose_a=True)]
    if input_grad:
        back.append(Product(batch, n_out, n_in, transpose_b=True))
    return [Product(batch, n_in, n_out)] * forward + back * backward


def products(hidden: int, batch: int) -> dict[str, list[Product]]:
    """Return the products of one update: the hidden layers', and all."""
    middle = layer(batch, hidden, hidden, forward=4, backward=2)
    first = layer(batch, OBS_DIM, hidden, forward=4, backward=2, input_grad=False)
    last = layer(batch, hidden, 1, forward=3, backward=1) + layer(batch, hidden, N_ACTIONS, forward=1, backward=1)
    return {"hidden": middle, "all": first + middle + last}


def operands(product: Product) -> tuple[Any, Any, Any]:
    """Return A and B as they lie in memory, and room for C."""
    import numpy as np

    rng = np.random.default_rng(0)
    m, k, n = product[:3]
    a = rng.standard_normal((k, m) if product.transpose_a else (m, k), np.float32)
    b = rng.standard_normal((n, k) if product.transpose_b else (k, n), np.float32)
    return a, b, np.empty((m, n), np.float32)


def oriented(product: Product, a: Any, b: Any) -> tuple[Any, Any]:
    """Return A and B as they are multiplied."""
    return a.T if product.transpose_a else a, b.T if product.transpose_b else b


def numpy_products(wanted: list[Product]) -> Callable[[], None]:
    """Return a call that computes the products with NumPy."""
    import numpy as np

    def call(product: Product) -> Callable[[], Any]:
        a, b, c = operands(product)
        return functools.partial(np.matmul, *oriented(product, a, b), out=c)

    return _each({product: call(product) for product in set(wanted)}, wanted)


def mkl_products(wanted: list[Product], library: str) -> Callable[[], None]:
    """Return a call that computes the products with MKL's ``cblas_sgemm``."""
    gemm = ctypes.CDLL(library).cblas_sgemm
    gemm.restype = None
    row_major, transposed = 101, {False: 111, True: 112}

    def call(product: Product) -> Callable[[], Any]:
        arrays = a, b, c = operands(product)
        # Pointers made so keep their arrays alive.
        pointer_a, pointer_b, pointer_c = (array.ctypes.data_as(ctypes.c_void_p) for array in arrays)
        one, zero = ctypes.c_float(1), ctypes.c_float(0)
        turned = transposed[product.transpose_a], transposed[product.transpose_b]
        sizes = product.m, product.n, product.k
        a_and_b = pointer_a, a.shape[1], pointer_b, b.shape[1]
        multiply = functools.partial(gemm, row_major, *turned, *sizes, one, *a_and_b, zero, pointer_c, c.shape[1])
        multiply()
        x, y = oriented(product, a, b)
        if abs(c - x @ y).max() > 1e-2:
            raise SystemExit(f"{library} computed a wrong product for {product}.")
        return multiply

    return _each({product: call(product) for product in set(wanted)}, wanted)


def _each(calls: dict[Product, Callable[[], Any]], wanted: list[Product]) -> Callable[[], None]:
    ordered = [calls[product] for product in wanted]

    def run() -> None:
        for call in ordered:
            call()

    return run


def xla_products(wanted: list[Product]) -> Callable[[], None]:
    """Return a call that computes the products in one program of XLA."""
    import jax

    # Operands of their own for every product: equal ones would be computed once.
    pairs = [tuple(jax.device_put(array) for array in operands(product)[:2]) for product in wanted]

    @jax.jit
    def compute(pairs: list[Any]) -> list[Any]:
        turned = [oriented(product, a, b) for product, (a, b) in zip(wanted, pairs, strict=True)]
        return [a @ b for a, b in turned]

    return lambda: jax.block_until_ready(compute(pairs)) and None


def time_calls(run: Callable[[], Any], seconds: float, *, warm_up: int = 5, at_least: int = 3) -> float:
    """Return the median time of a call, in microseconds."""
    for _ in range(warm_up):
        run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < at_least or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e6


def rlox_times(hidden: int, batch: int, n_scan: int, seconds: float) -> Row:
    """Return microseconds of a ``learn`` call, and of an update in a scan."""
    import jax
    import numpy as np
    from jax import lax

    from rlox.algorithms import ALGORITHMS
    from rlox.core import replay as replays
    from rlox.core.programs import Mix, compile_programs
    from rlox.core.state import TrainState, Transition
    from rlox.core.update import init_state, make_update

    algorithm = ALGORITHMS["awr"]
    config: Any = algorithm.config(hidden=hidden, batch_size=batch)
    rows, rng = config.buffer_size, np.random.default_rng(0)
    f32 = np.dtype(np.float32)
    replay = replays.create(rows, 1, OBS_DIM, f32, 1, np.dtype(np.int32))
    columns = Transition(
        obs=rng.standard_normal((rows, 1, OBS_DIM), f32),
        action=rng.integers(N_ACTIONS, size=(rows, 1, 1), dtype=np.int32),
        reward=rng.standard_normal((rows, 1), f32),
        next_obs=rng.standard_normal((rows, 1, OBS_DIM), f32),
        terminated=rng.random((rows, 1)) < 0.05,
        truncated=np.zeros((rows, 1), bool),
    )
    replay = replay._replace(columns=jax.device_put(columns), size=replay.size + rows)

    programs = compile_programs(algorithm, config, 1)

    def fresh() -> TrainState:
        return init_state(algorithm, config, OBS_DIM, (N_ACTIONS,), 1, seed=0)

    state, obs, flag = fresh(), np.zeros((1, OBS_DIM), f32), np.zeros(1, bool)
    transition = Transition(obs, np.zeros((1, 1), np.int32), np.ones(1, f32), obs, flag, flag)

    def learn() -> None:
        nonlocal state, replay
        state, replay, action, _ = programs.learn(state, replay, Mix(), transition, ~flag, obs)
        np.asarray(action)

    learn_us = time_calls(learn, seconds)
    update = make_update(algorithm, config)
    batches = replays.sample(replay, jax.random.key(1), (n_scan, config.n_critic_updates, batch))
    drawn = batches, jax.random.split(jax.random.key(2), n_scan)

    @functools.partial(jax.jit, donate_argnums=0)
    def compiled(state: TrainState, drawn: Any) -> Any:
        return lax.scan(lambda state, batches_and_key: update(state, *batches_and_key), state, drawn)

    state = fresh()

    def scan() -> None:
        nonlocal state
        state, metrics = compiled(state, drawn)
        jax.block_until_ready(metrics)

    scan_us = time_calls(scan, seconds, warm_up=1, at_least=2)
    return {"learn": learn_us, "update": scan_us / n_scan}


def worker(
    kind: str, threads: int, hiddens: list[int], batch: int, n_scan: int, seconds: float, mkl: str | None
) -> Row:
    """Measure one kind at one number of threads, at all sizes."""
    bind(sorted(os.sched_getaffinity(0))[:threads])
    os.environ |= {name: str(threads) for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")}
    os.environ["JAX_PLATFORMS"] = "cpu"
    with_mkl = functools.partial(mkl_products, library=mkl or "")
    runners = {"mkl": with_mkl, "numpy": numpy_products, "xla": xla_products}
    times = {}
    for hidden in hiddens:
        if kind == "rlox":
            times[str(hidden)] = rlox_times(hidden, batch, n_scan, seconds)
        else:
            wanted = products(hidden, batch)
            times[str(hidden)] = {name: time_calls(runners[kind](wanted[name]), seconds) for name in SETS}
    return {"kind": kind, "threads": threads, "microseconds": times}


def find_mkl(args: argparse.Namespace) -> str | None:
    """Return the path of MKL's library, which is installed if none was given; None if it is not wanted."""
    if args.no_mkl:
        return None
    if args.mkl:
        return args.mkl
    lib = make_venv(CACHE / "mkl", MKL).parents[1] / "lib"
    return str(next(lib.glob("libmkl_rt.so*")))


def measure(args: argparse.Namespace) -> None:
    """Run every kind alternately, then print and write."""
    mkl = find_mkl(args)
    kinds = ["rlox", *(["mkl"] if mkl else []), "numpy", "xla"]
    usable = len(os.sched_getaffinity(0))
    threads = [n for n in args.threads if n <= usable]
    if not threads:
        raise SystemExit(f"--threads {args.threads}: this process may use {usable} cores only.")
    if threads != args.threads:
        log(f"This process may use {usable} cores only: measuring --threads {threads}.")
    machine = describe_machine()
    settings = {name: getattr(args, name) for name in ("hidden", "batch", "scan", "rounds", "seconds")}
    task = {"hiddens": args.hidden, "batch": args.batch, "n_scan": args.scan, "seconds": args.seconds, "mkl": mkl}
    rows: list[Row] = []
    for round_ in range(args.rounds):
        for n in threads:
            for kind in kinds:
                rows.append({"round": round_, **run_worker(__file__, kind=kind, threads=n, **task)})
                write_results(args.results / "update.json", machine, settings, rows)
    print_results(rows, args.hidden, threads, kinds)
    print_machine(machine)


def print_results(rows: list[Row], hiddens: list[int], threads: list[int], kinds: list[str]) -> None:
    """Print the update against the fastest products, and then the products in every library."""

    def times(kind: str, n: int, hidden: int, what: str) -> list[float]:
        wanted = (row for row in rows if row["kind"] == kind and row["threads"] == n)
        return [row["microseconds"][str(hidden)][what] for row in wanted]

    lines, libraries = [], []
    for hidden in hiddens:
        for n in threads:
            best: dict[str, tuple[str, list[float]]] = {}
            for what in SETS:
                # Fewer threads than there are may be faster.
                found = {(kind, m): times(kind, m, hidden, what) for kind in kinds[1:] for m in threads if m <= n}
                (kind, m), fastest = min(found.items(), key=lambda item: statistics.median(item[1]))
                best[what] = f"{kind}, {m}", fastest
                own = [f"{statistics.median(times(kind, n, hidden, what)):.1f}" for kind in kinds[1:]]
                libraries.append([hidden, n, what, *own])
            learn, update = (times("rlox", n, hidden, what) for what in ("learn", "update"))
            medians = (f"{statistics.median(x):.0f}" for x in (learn, update, best["hidden"][1], best["all"][1]))
            against = (ratios(x, best[what][1]) for what in SETS for x in (learn, update))
            lines.append([hidden, n, *medians, best["hidden"][0], *against])
    print("\nMicroseconds, medians; ratios median (range), round by round:\n")
    times_of = ["learn call", "update in scan", "8 products", "all products", "best (threads)"]
    print_table(["hidden", "threads", *times_of, "learn / 8", "update / 8", "learn / all", "update / all"], lines)
    print("The products by library, microseconds:\n")
    print_table(["hidden", "threads", "products", *kinds[1:]], libraries)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 256, 1024], help="widths (64 256 1024)")
    parser.add_argument("--batch", type=int, default=256, help="minibatch (256)")
    parser.add_argument("--scan", type=int, default=200, help="updates in a scan (200)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (1 2)")
    parser.add_argument("--rounds", type=int, default=5, help="turns (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement of each turn (1)")
    parser.add_argument("--mkl", help="path to libmkl_rt.so; by default MKL is installed in the cache folder")
    parser.add_argument("--no-mkl", action="store_true", help="do without MKL")
    measure(parser.parse_args())


if __name__ == "__main__":
    start(main, worker)
