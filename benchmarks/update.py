"""Time of an update of AWR against that of its matrix products in the best BLAS at hand.

    python benchmarks/update.py    # installs MKL in the cache folder

Measured alternately, each time in a fresh process bound to as many cores as it has threads, at CartPole-v1's sizes:

- `learn`: one call of the compiled program that follows an environment step (store, sample, critic step, actor step,
  next action), until its action is computed;
- `update`: critic and actor step alone, in one compiled scan;
- `products`: its eight hidden x hidden matrix products in MKL and in NumPy's BLAS (critic forward on s and s', its two
  backward ones, forward on s again, actor forward and its two backward ones). Operands stay in cache and results are
  written in place, so that this is a lower limit.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from common import ONE_THREAD, Row, other_python, print_table, ratios, run, select

OBS_DIM, N_ACTIONS, BATCH, N_SCAN, SECONDS = 4, 2, 256, 50, 0.5
HIDDEN, THREADS, KINDS = (64, 256, 1024), (1, 2), ("rlox", "mkl", "numpy")


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


def time_products(wanted: list[Product], library: str | None = None) -> float:
    """Return microseconds of all products, in MKL if its library is given and otherwise in NumPy's BLAS."""
    make = functools.partial(mkl_call, ctypes.CDLL(library).cblas_sgemm) if library else numpy_call
    calls = {product: make(product) for product in set(wanted)}
    ordered = [calls[product] for product in wanted]

    def every() -> None:
        for call in ordered:
            call()

    return time_calls(every)


def operands(product: Product) -> tuple[Any, Any, Any]:
    """Return A and B as they lie in memory, and room for C."""
    import numpy as np

    rng = np.random.default_rng(0)
    m, k, n = product[:3]
    a = rng.standard_normal((k, m) if product.transpose_a else (m, k), np.float32)
    b = rng.standard_normal((n, k) if product.transpose_b else (k, n), np.float32)
    return a, b, np.empty((m, n), np.float32)


def numpy_call(product: Product) -> Callable[[], Any]:
    import numpy as np

    a, b, c = operands(product)
    return functools.partial(np.matmul, a.T if product.transpose_a else a, b.T if product.transpose_b else b, out=c)


def mkl_call(gemm: Any, product: Product) -> Callable[[], Any]:
    """Return a call of MKL's ``cblas_sgemm``."""
    gemm.restype = None
    row_major, transposed = 101, {False: 111, True: 112}
    a, b, c = operands(product)
    # Pointers made so keep their arrays alive.
    pointer_a, pointer_b, pointer_c = (array.ctypes.data_as(ctypes.c_void_p) for array in (a, b, c))
    how = row_major, transposed[product.transpose_a], transposed[product.transpose_b], product.m, product.n, product.k
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    call = functools.partial(gemm, *how, one, pointer_a, a.shape[1], pointer_b, b.shape[1], zero, pointer_c, c.shape[1])
    call()
    if abs(c - (a.T if product.transpose_a else a) @ (b.T if product.transpose_b else b)).max() > 1e-2:
        raise SystemExit(f"MKL computed a wrong product for {product}.")
    return call


def time_calls(call: Callable[[], Any], *, warm_up: int = 5, at_least: int = 3) -> float:
    """Return the median time of a call, in microseconds."""
    for _ in range(warm_up):
        call()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < at_least or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e6


class Compiled:
    """The programs that training compiles, at CartPole-v1's sizes, with a full replay."""

    def __init__(self, hidden: int, batch: int, size: int):
        import jax
        import jax.numpy as jnp
        import numpy as np

        from rlox.algorithms import ALGORITHMS
        from rlox.core import replay as replays
        from rlox.core.programs import Mix, compile_programs
        from rlox.core.transition import Layout, Transition
        from rlox.core.update import init_state

        self.algorithm: Any = ALGORITHMS["awr"]
        self.config: Any = self.algorithm.config(hidden=hidden, batch_size=batch, buffer_size=size)
        f32, i32 = np.dtype(np.float32), np.dtype(np.int32)
        # In place: a second copy would count in the peak.
        fill = jax.jit(
            lambda replay: jax.tree.map(lambda x: ~x if x.dtype == bool else x + 1, replay), donate_argnums=0
        )
        replay = fill(replays.create(size, 1, Layout(OBS_DIM, f32, 1, i32)))
        self.replay = replay._replace(position=jnp.zeros(1, jnp.int32), size=jnp.full(1, size, jnp.int32))
        self.state = init_state(self.algorithm, self.config, OBS_DIM, (N_ACTIONS,), 1, seed=0)
        obs, flag = np.zeros((1, OBS_DIM), f32), np.zeros(1, bool)
        transition = Transition(obs, np.zeros((1, 1), i32), np.ones(1, f32), obs, flag, flag)
        self.step, self.args = compile_programs(self.algorithm, self.config, 1).learn, (Mix(), transition, ~flag, obs)

    def learn(self) -> None:
        """Store and learn, in the call that training makes after an environment step."""
        self.state, self.replay, action, _ = self.step(self.state, self.replay, *self.args)
        action.block_until_ready()

    def scan(self, n: int) -> Callable[[], None]:
        """Return a call of ``n`` updates alone."""
        import jax
        from jax import lax

        from rlox.core.replay import sample
        from rlox.core.update import make_update

        update = make_update(self.algorithm, self.config)
        batches = sample(self.replay, jax.random.key(1), (n, self.config.n_critic_updates, self.config.batch_size))
        drawn = batches, jax.random.split(jax.random.key(2), n)
        compiled = jax.jit(lambda state, drawn: lax.scan(lambda s, x: update(s, *x), state, drawn), donate_argnums=0)

        def call() -> None:
            self.state, metrics = compiled(self.state, drawn)
            jax.block_until_ready(metrics)

        return call


def worker(kind: str, threads: int, hidden: int, mkl: str) -> Row:
    """Measure one kind at one number of threads and one size, in microseconds."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ |= {name: str(threads) for name in ONE_THREAD if name != "PJRT_NPROC"} | {"JAX_PLATFORMS": "cpu"}
    if kind != "rlox":
        wanted = layer(BATCH, hidden, hidden, forward=4, backward=2)
        return {"products": time_products(wanted, mkl if kind == "mkl" else None)}
    own = Compiled(hidden, BATCH, 100_000)
    learn = time_calls(own.learn)
    return {"learn": learn, "update": time_calls(own.scan(N_SCAN), warm_up=1, at_least=2) / N_SCAN}


def find_mkl() -> str:
    """Return the path of MKL's library, which is installed if it is missing."""
    lib = other_python("mkl==2026.2.0").parents[1] / "lib"
    return str(next(lib.glob("libmkl_rt.so*")))


def tasks() -> list[Row]:
    every = itertools.product(THREADS, KINDS, HIDDEN)
    return [{"kind": kind, "threads": n, "hidden": hidden, "mkl": find_mkl()} for n, kind, hidden in every]


def show(rows: list[Row]) -> None:
    """Print the update against the fastest products."""
    lines = []
    for hidden, n in itertools.product(HIDDEN, THREADS):
        # Fewer threads than there are may be faster.
        tried = [(kind, m) for kind in KINDS[1:] for m in THREADS if m <= n]
        found = [select(rows, "products", kind=kind, threads=m, hidden=hidden) for kind, m in tried]
        best = min(found, key=statistics.median)
        learn, update = (select(rows, key, kind="rlox", threads=n, hidden=hidden) for key in ("learn", "update"))
        medians = (f"{statistics.median(x):.0f}" for x in (learn, update, best))
        lines.append([hidden, n, *medians, ratios(learn, best), ratios(update, best)])
    names = ["compiled call", "update in a scan", "eight products, best BLAS", "call / products", "update / products"]
    print_table(["hidden", "threads", *names], lines)


if __name__ == "__main__":
    run(__doc__, worker, tasks, show, turns=5)
