"""Offline runs of one program against runs one after another: ten seeds of IQL, and a sweep of ten values of beta.

    taskset -c 0 python benchmarks/seeds_at_once.py

IQL with two hidden layers of 64 on `hopper-medium`, one thread. `steps`: what a gradient step of each run costs, for
one run and for ten in a program (`vmapped` or `in turn`), after both are compiled, at two sizes of the minibatch.
`sweep`: ten values of beta, in one program and in ten processes one after another, each from its start to its policy.
Costs are processor time, which other load on the machine changes less than the time on the clock.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from common import ONE_THREAD, Row, print_table, ratios, run, select, spread

DATA, HIDDEN, N = "hopper-medium", 64, 10
SIZES, STEPS, REPEATS = (256, 32), 50, 5
SWEEP_STEPS = 2_000
BETAS = [0.1 * 1.5**i for i in range(N)]


def tasks() -> Iterator[Row]:
    for batch_size in SIZES:
        for how in ("vmapped", "in turn"):
            yield {"what": "steps", "batch_size": batch_size, "how": how}
    for how in ("one program", "ten processes"):
        yield {"what": "sweep", "how": how}


def where(task: Row) -> Row:
    return {"env": {**os.environ, **ONE_THREAD}}


def worker(what: str, **task: Any) -> Row:
    return steps(**task) if what == "steps" else sweep(**task)


def steps(batch_size: int, how: str) -> Row:
    """Time one run and ten alternately; the least of several is the one that was disturbed least."""
    from rlox.core import together

    together.IN_TURN = 0 if how == "in turn" else 10**9
    one, ten = ([Program(n, batch_size)] for n in (1, N))
    cost = {"one": float("inf"), "ten": float("inf")}
    for _ in range(REPEATS):
        for name, (program,) in (("one", one), ("ten", ten)):
            cost[name] = min(cost[name], program.cost())
    return {"one_us": 1e6 * cost["one"], "ten_us": 1e6 * cost["ten"], "ratio": cost["ten"] / cost["one"]}


class Program:
    """So many runs, compiled and warm."""

    def __init__(self, n: int, batch_size: int, hidden: int = HIDDEN):
        from rlox.assemble import make_learner
        from rlox.core.together import compile_together
        from rlox.data.dataset import make_dataset
        from rlox.regression import RegressionLearner

        data = make_dataset(DATA)
        learners = [make_learner(spec_of(seed, batch_size=batch_size, hidden=hidden), None, data) for seed in range(n)]
        ours = [learner for learner in learners if isinstance(learner, RegressionLearner)]
        self.states, self.data = [learner.state.train for learner in ours], ours[0].data
        self.learn = compile_together(ours[0].algorithm, ours[0].config)
        self.cost()

    def cost(self) -> float:
        """Return the processor's seconds of a gradient step of all of them."""
        began = time.process_time()
        self.learn_steps(STEPS)
        return (time.process_time() - began) / STEPS

    def learn_steps(self, n: int) -> None:
        """Let all of them take so many gradient steps, and wait for their end."""
        self.states, reports = self.learn(self.states, {}, self.data, n)
        reports[-1].values.block_until_ready()


def spec_of(seed: int, **settings: Any) -> Any:
    from rlox import RunSpec
    from rlox.spec import Budget

    budget = Budget(gradient_steps=SWEEP_STEPS, log_interval=SWEEP_STEPS)
    return RunSpec.resolve("iql", config={"hidden": HIDDEN, **settings}, dataset=DATA, seed=seed, budget=budget)


ALONE = """
import sys
from seeds_at_once import spec_of
from rlox import Trainer
Trainer.from_spec(spec_of(0, beta=float(sys.argv[1]))).train_offline(progress=False)
"""


def sweep(how: str) -> Row:
    """Sweep, with nothing compiled before."""
    began, before = time.monotonic(), os.times()
    # Else programs that others of ours have compiled would be found.
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
        if how == "ten processes":
            commands = [[sys.executable, "-c", ALONE, str(beta)] for beta in BETAS]
        else:
            code = "from seeds_at_once import *; from rlox import train_offline_seeds\n"
            code += "train_offline_seeds(spec_of(0), [0], config={'beta': BETAS}, progress=False)"
            commands = [[sys.executable, "-c", code]]
        folder = os.path.dirname(os.path.abspath(__file__))
        path = os.pathsep.join([folder, environment.get("PYTHONPATH", "")])
        for command in commands:
            subprocess.run(command, check=True, env={**environment, "PYTHONPATH": path})
    used = os.times()
    cpu = used.children_user + used.children_system - before.children_user - before.children_system
    return {"seconds": time.monotonic() - began, "cpu_seconds": cpu}


def show(rows: list[Row]) -> None:
    table = []
    for size in SIZES:
        for how in ("vmapped", "in turn"):
            own = {"batch_size": size, "how": how}
            if found := select(rows, "ratio", **own):
                costs = [spread(select(rows, name, **own), 0) for name in ("one_us", "ten_us")]
                table.append((size, how, *costs, spread(found)))
    print_table(("minibatch", "how", "one run, us a step", f"{N} runs at once, us a step", "times one"), table)
    turn, once = (select(rows, "cpu_seconds", how=how) for how in ("ten processes", "one program"))
    if turn and once:
        print_table(
            ("sweep of 10 values of beta", "processor seconds"),
            [
                ("ten processes in turn", spread(turn)),
                ("one program", spread(once)),
                ("times faster", ratios(turn, once)),
            ],
        )


if __name__ == "__main__":
    run(__doc__, worker, tasks, show, where=where)
