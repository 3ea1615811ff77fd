"""How cost grows: with the steps of a run, and with the size of the replay.

    python benchmarks/scaling.py

Steps: a Trainer on CartPole-v1 with a small network; the time of a step, and peak memory, should not depend on how
many there are. Replay: a full one at CartPole-v1's sizes; the time to store and learn should not depend on its size,
and resident memory should grow by the bytes of its columns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

from common import (
    Row,
    describe_machine,
    make_parser,
    print_machine,
    print_table,
    run_worker,
    spread,
    start,
    write_results,
)

HIDDEN, BATCH, WARM_UP = 32, 64, 1000


def steps_worker(steps: int) -> Row:
    """Train ``steps`` environment steps, after some in which everything is compiled."""
    from rlox import Trainer

    config = {"hidden": HIDDEN, "batch_size": BATCH, "learning_starts": BATCH}
    trainer = Trainer("awr", env="CartPole-v1", config=config, seed=0)
    trainer.train(WARM_UP)
    return {"steps": steps, "us": trainer.train(steps)["seconds"] / steps * 1e6, "resident_mib": resident_mib()}


def replay_worker(size: int, calls: int) -> Row:
    """Store into a full replay and learn from it, ``calls`` times, in the compiled call that training makes."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from rlox.algorithms import ALGORITHMS
    from rlox.core import replay as replays
    from rlox.core.programs import Mix, compile_programs
    from rlox.core.state import Transition
    from rlox.core.update import init_state

    algorithm = ALGORITHMS["awr"]
    config = algorithm.config(hidden=HIDDEN, batch_size=BATCH, buffer_size=size)
    programs = compile_programs(algorithm, config, 1)
    f32, i32 = np.dtype(np.float32), np.dtype(np.int32)
    # In place: a second copy would count in the peak.
    fill = jax.jit(lambda replay: jax.tree.map(lambda x: ~x if x.dtype == bool else x + 1, replay), donate_argnums=0)
    replay = fill(replays.create(size, 1, 4, f32, 1, i32))
    replay = replay._replace(position=jnp.zeros(1, jnp.int32), size=jnp.full(1, size, jnp.int32))
    state = init_state(algorithm, config, 4, (2,), 1, seed=0)
    obs, flag = np.zeros((1, 4), f32), np.zeros(1, bool)
    transition = Transition(obs, np.zeros((1, 1), i32), np.ones(1, f32), obs, flag, flag)
    times: list[float] = []
    for _ in range(calls):
        begin = time.perf_counter()
        state, replay, action, _ = programs.learn(state, replay, Mix(), transition, ~flag, obs)
        np.asarray(action)
        times.append((time.perf_counter() - begin) * 1e6)
    return {
        "size": size,
        "us": statistics.median(times[calls // 10 :]),
        "raw_mib": sum(column.nbytes for column in replay.columns) / 2**20,
        "resident_mib": resident_mib(),
    }


def resident_mib() -> float:
    """Return this process's resident memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def worker(what: str, **task: Any) -> Row:
    """Run in the child process."""
    return {"steps": steps_worker, "replay": replay_worker}[what](**task)


def measure(args: argparse.Namespace) -> None:
    """Run the sizes alternately, then print and write."""
    machine = describe_machine()
    settings = {name: getattr(args, name) for name in ("steps", "sizes", "calls", "rounds")}
    tasks = [{"what": "steps", "steps": steps} for steps in args.steps]
    tasks += [{"what": "replay", "size": size, "calls": args.calls} for size in args.sizes]
    rows: list[Row] = []
    for round_ in range(args.rounds):
        for task in tasks:
            rows.append({"round": round_, "what": task["what"], **run_worker(__file__, **task)})
            write_results(args.results / "scaling.json", machine, settings, rows)

    def values(task: Row, key: str) -> list[float]:
        name = "steps" if task["what"] == "steps" else "size"
        return [row[key] for row in rows if row["what"] == task["what"] and row[name] == task[name]]

    print(f"\nSteps of a Trainer on CartPole-v1, hidden {HIDDEN}, batch {BATCH}, median (range):\n")
    chosen = [task for task in tasks if task["what"] == "steps"]
    print_table(
        ["steps", "us a step", "peak memory, MiB"],
        [[f"{task['steps']:,}", spread(values(task, "us")), spread(values(task, "peak_mib"))] for task in chosen],
    )
    print("A full replay at CartPole-v1's sizes, median (range); growth is over the smallest, of the medians:\n")
    chosen = sorted((task for task in tasks if task["what"] == "replay"), key=lambda task: task["size"])
    lines = []
    for task in chosen:
        medians = {key: statistics.median(values(task, key)) for key in ("raw_mib", "resident_mib", "peak_mib")}
        grown = {key: medians[key] - statistics.median(values(chosen[0], key)) for key in medians}
        growth = [f"{grown[key] / grown['raw_mib']:.2f}" if grown["raw_mib"] else "" for key in list(grown)[1:]]
        numbers = (f"{medians[key]:.1f}" for key in medians)
        lines.append([f"{task['size']:,}", spread(values(task, "us")), *numbers, *growth])
    header = ["transitions", "us a call", "columns, MiB", "resident, MiB", "peak, MiB"]
    print_table([*header, "growth resident / columns", "growth peak / columns"], lines)
    print_machine(machine)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[10_000, 100_000], help="of a run (10000 100000)")
    sizes = [100_000, 1_000_000]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, help="of a replay (100000 1000000)")
    parser.add_argument("--calls", type=int, default=5000, help="calls that store and learn at each size (5000)")
    parser.add_argument("--rounds", type=int, default=3, help="turns (3)")
    measure(parser.parse_args())


if __name__ == "__main__":
    start(main, worker)
