"""Trials on a Ray of this machine: how long eight take, and how long if a worker is killed in the middle of them.

The worker and the run that it has started are killed (SIGKILL) when half of all steps are taken. The run goes on from
its last checkpoint in another worker; the rows say after how many steps, and whether all runs ended with the same bits.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common import Row, print_table, ratios, run, select, spread

if TYPE_CHECKING:
    from rlox.plan import Job

N_TRIALS, AT_A_TIME = 8, 2
STEPS = 20_000


def measure(killed: bool) -> Row:
    from rlox.compare import run_jobs
    from rlox.engine import make_engine
    from rlox.plan import Plan

    shared = {"total_timesteps": STEPS, "checkpoint_interval": max(STEPS // 20, 1)}
    plan = Plan({"awr": {"hidden": 64}}, ["CartPole-v1"], seeds=range(N_TRIALS), shared=shared)
    out = Path(tempfile.mkdtemp(prefix="ray-trials-"))
    jobs = plan.jobs(out)
    began = time.monotonic()
    engine = make_engine(ray="local", processes=AT_A_TIME)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, out, ignore_errors=True)
        if killed:
            threading.Thread(target=kill_one, args=(jobs,), daemon=True).start()
        outcome = run_jobs(jobs, out, engine=engine, progress=False)
        seconds = time.monotonic() - began
        went_on = [int(steps.replace(",", "")) for job in jobs for steps in continued(job.folder)]
        return {
            "seconds": seconds,
            "finished": len(outcome.finished),
            "went_on_after_steps": went_on,
            "bits": [bits_of(job.folder) for job in jobs],
        }


def kill_one(jobs: Sequence[Job]) -> None:
    """Kill a worker, and the run that it has started, when half of all steps are taken."""
    from rlox.processes import progress_of

    while sum(progress_of(job)[0] for job in jobs) < len(jobs) / 2:
        time.sleep(0.1)
    run, worker = next(runs_of(str(jobs[0].folder.parent)))
    for pid in (worker, run):
        os.kill(pid, signal.SIGKILL)


def runs_of(folder: str) -> Iterator[tuple[int, int]]:
    """Yield the processes of runs below a folder, and the workers that have started them."""
    table = subprocess.run(["ps", "-ewwo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    for pid, parent, command in re.findall(r"^ *(\d+) +(\d+) (.*)$", table, flags=re.MULTILINE):
        if " -m rlox.processes " in command and f" {folder}/" in command:
            yield int(pid), int(parent)


def continued(folder: Path) -> list[str]:
    """Return after how many environment steps a run went on, if it did."""
    return re.findall(r"Continuing .* after ([\d,]+) environment steps", folder.with_suffix(".log").read_text())


def bits_of(folder: Path) -> int:
    """Return a checksum of all that a run has learned."""
    from rlox.core.pack import checksum
    from rlox.runs import checkpoint

    arrays, _ = checkpoint.load(folder, only=("train.",))
    return functools.reduce(lambda before, name: checksum(arrays[name], before), sorted(arrays), 0)


def show(rows: list[Row]) -> None:
    undisturbed, killed = (select(rows, "seconds", killed=which) for which in (False, True))
    print_table(
        ("8 trials, 2 at a time", "seconds", "runs that ended well"),
        [
            ("undisturbed", spread(undisturbed), min(select(rows, "finished", killed=False))),
            ("a worker killed", spread(killed), min(select(rows, "finished", killed=True), default="")),
        ],
    )
    if killed:
        print(f"killed / undisturbed: {ratios(killed, undisturbed)}")
        after = [steps for row in rows for steps in row["went_on_after_steps"]]
        print(f"Went on after {', '.join(map(str, after))} of {STEPS:,} steps.")
    same = len({tuple(row["bits"]) for row in rows}) == 1
    print(f"All runs of all turns ended with {'the same' if same else 'OTHER'} bits.")


if __name__ == "__main__":
    run(__doc__, measure, lambda: [{"killed": False}, {"killed": True}], show, turns=3)
