"""Runs in processes of their own, one on each core: started, watched, and ended with a checkpoint each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from rlox.arguments import check_positive
from rlox.launch import ANY_CORE, Launch
from rlox.runs.lock import LOCK
from rlox.runs.logs import FINISHED, METRICS

if TYPE_CHECKING:
    from rlox.plan import Job

POLL = 0.1
"""Seconds between two looks at the processes."""
PATIENCE = 60.0
"""Seconds that a run waits for one in the same folder, whose parent was killed, to end."""


class Processes:
    """Runs that go on at the same time. A context manager: leaving it ends them, with a checkpoint each.

    Args:
        cores: numbers of the cores to use, for one run each.
        modules: what each run imports first.
    """

    def __init__(self, cores: Sequence[int], modules: Sequence[str] = ()):
        self._cores, self._modules = cores, modules
        self._running: dict[int, tuple[tuple[Job, ...], Launch, subprocess.Popen[bytes]]] = {}
        self._began, self._used = time.monotonic(), _seconds_of_children()

    @property
    def words(self) -> str:
        """How many at a time, for a message."""
        return f"{len(self._cores)} at a time"

    @property
    def running(self) -> list[Job]:
        """Runs that were started and have not been seen to end."""
        return [job for jobs, _, _ in self._running.values() for job in jobs]

    @property
    def n_free(self) -> int:
        """How many more processes there are cores for."""
        return len(self._cores) - len(self._running)

    def fetch(self, jobs: Sequence[Job]) -> None:
        """Bring what there is of runs to their folders: it is there."""

    def together(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Return what to start at a time: seeds that learn from the same data are one process."""
        from rlox.groups import at_once

        return at_once(jobs, len(self._cores))

    def start(self, *jobs: Job) -> None:
        """Start a run, or several that are learned at once, on a core that is free, or let them go on.

        A run with collectors is not kept on a core, since they would be kept there too.
        """
        slot = min(set(range(len(self._cores))) - self._running.keys())
        launch = Launch.of(jobs, self._modules)
        launch.write()
        collecting = any(getattr(job.spec.config, "n_workers", 0) for job in jobs)
        self._running[slot] = jobs, launch, launch.start(ANY_CORE if collecting else self._cores[slot])

    def ended(self) -> list[tuple[Job, str | None]]:
        """Return the runs that have ended since the last call, and why they ended badly; None if all is well."""
        found = []
        for slot, (jobs, launch, process) in list(self._running.items()):
            if (code := process.poll()) is not None:
                del self._running[slot]
                found += zip(jobs, launch.ended(code), strict=True)
        return found

    def stop(self, job: Job) -> None:
        """Ask a run to end with a checkpoint; it counts as running until it has."""
        next(process for jobs, _, process in self._running.values() if job in jobs).terminate()

    def busy(self, n_jobs: int) -> float:
        """Return the share of the cores' time that the runs have used so far, if there were so many in all."""
        seconds = (time.monotonic() - self._began) * min(len(set(self._cores)), max(n_jobs, 1))
        return (_seconds_of_children() - self._used) / seconds if n_jobs else float("nan")

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        for _, _, process in self._running.values():
            process.send_signal(signal.SIGTERM)
        for _, _, process in self._running.values():
            process.wait()


def cores_for(processes: int | None = None) -> list[int]:
    """Return a core for each of so many runs at a time; None makes it one for each core that this process may use.

    Raises:
        ConfigError: ``processes`` below 1.
    """
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = sorted(affinity)
    if processes is None:
        return cores
    check_positive(processes=processes)
    return [cores[i % len(cores)] for i in range(processes)]


def is_finished(job: Job) -> bool:
    """Return whether a run has taken all its steps, and has ended well."""
    last, budget = last_record(job.folder), job.spec.budget
    return (
        job.folder.with_suffix(FINISHED).exists()
        and last is not None
        and last["env_steps"] >= (budget.total_timesteps or 0)
        and last["gradient_steps"] >= (budget.gradient_steps or 0)
    )


def last_record(folder: Path) -> dict[str, Any] | None:
    """Return the last record of a run; None before the first."""
    try:
        with (folder / METRICS).open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 20_000, 0))
            lines = file.read().split(b"\n")[:-1]
        return json.loads(lines[-1]) if lines else None
    except (OSError, ValueError):
        return None


def progress_of(job: Job) -> tuple[float, str]:
    """Return how far a run is, from 0 to 1, and its last return in words."""
    last, budget = last_record(job.folder), job.spec.budget
    if last is None:
        return 0.0, "starting"
    total = (budget.total_timesteps or 0) + (budget.gradient_steps or 0)
    offline = min(last["gradient_steps"], budget.gradient_steps or 0)
    found = last.get("rollout/episode_return")
    return min((last["env_steps"] + offline) / total, 1.0), "" if found is None else f"return {found:.4g}"


def work() -> None:
    """Run the command line, on one core if one is named, and no longer than the process that started it."""
    core, parent, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    # It is how runs are ended, also if whoever started their parent has it ignored.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if core != ANY_CORE and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core)})
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    wait_for_writer(folder)
    from rlox.cli import main

    main(sys.argv[4:])


def _end_with(parent: int) -> None:
    """Ask this process once to end when its parent has.

    The kernel can do so (PR_SET_PDEATHSIG), but it sends a signal for each thread of the parent, and a second signal
    ends a run without a checkpoint.
    """
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def wait_for_writer(folder: Path) -> None:
    """Wait while another process writes to a folder: the run of a parent that was killed, as it saves."""
    if (folder / LOCK).exists():
        with contextlib.suppress(Timeout), FileLock(folder / LOCK, timeout=PATIENCE):
            pass


def _seconds_of_children() -> float:
    """Return the processor time of the processes that have ended."""
    used = os.times()
    return used.children_user + used.children_system


if __name__ == "__main__":
    work()
