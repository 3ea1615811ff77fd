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

from rlox.files import whole
from rlox.runs.lock import LOCK
from rlox.runs.logs import METRICS

if TYPE_CHECKING:
    from rlox.plan import Job

ONE_THREAD = dict.fromkeys(("PJRT_NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
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
        self._running: dict[int, tuple[tuple[Job, ...], subprocess.Popen[bytes]]] = {}
        self._began, self._used = time.monotonic(), _seconds_of_children()

    @property
    def running(self) -> list[Job]:
        """Runs that were started and have not been seen to end."""
        return [job for jobs, _ in self._running.values() for job in jobs]

    @property
    def n_free(self) -> int:
        """How many more processes there are cores for."""
        return len(self._cores) - len(self._running)

    def start(self, *jobs: Job) -> None:
        """Start a run, or several that are learned at once, on a core that is free, or let them go on."""
        slot = min(set(range(len(self._cores))) - self._running.keys())
        self._running[slot] = jobs, _start(jobs, self._cores[slot], self._modules)

    def ended(self) -> list[tuple[Job, str | None]]:
        """Return the runs that have ended since the last call, and why they ended badly; None if all is well."""
        found = []
        for slot, (jobs, process) in list(self._running.items()):
            if process.poll() is not None:
                del self._running[slot]
                if len(jobs) == 1 and process.returncode == 0:
                    mark_of(jobs[0].folder).touch()
                found += [(job, _how(job, jobs[0], process.returncode)) for job in jobs]
        return found

    def stop(self, job: Job) -> None:
        """Ask a run to end with a checkpoint; it counts as running until it has."""
        next(process for jobs, process in self._running.values() if job in jobs).terminate()

    def busy(self, n_jobs: int) -> float:
        """Return the share of the cores' time that the runs have used so far, if there were so many in all."""
        seconds = (time.monotonic() - self._began) * min(len(self._cores), max(n_jobs, 1))
        return (_seconds_of_children() - self._used) / seconds if n_jobs else float("nan")

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        for _, process in self._running.values():
            process.send_signal(signal.SIGTERM)
        for _, process in self._running.values():
            process.wait()


def cores_for(processes: int | None = None) -> list[int]:
    """Return a core for each of so many runs at a time; None makes it one for each core that this process may use.

    Raises:
        ConfigError: ``processes`` below 1.
    """
    from rlox.spec import check_positive  # It imports JAX, which a run's own process does later.

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
        mark_of(job.folder).exists()
        and last is not None
        and last["env_steps"] >= (budget.total_timesteps or 0)
        and last["gradient_steps"] >= (budget.gradient_steps or 0)
    )


def mark_of(folder: Path) -> Path:
    """Return the file that says that the run in a folder has ended well."""
    return folder.with_suffix(".finished")


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


def _start(jobs: Sequence[Job], core: int, modules: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start runs on a core; what each says goes to a file beside its folder, what all say to the first one's."""
    for job in jobs:
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        with whole(job.folder.with_suffix(".toml")) as side:
            side.write_text(job.spec.to_toml())
        job.folder.with_suffix(".log").write_bytes(b"")
    first = jobs[0]
    command = [sys.executable, "-m", "rlox.processes", str(core), str(os.getpid()), str(first.folder)]
    command += [word for name in modules for word in ("--import", name)]
    if len(jobs) > 1:
        for job in jobs:
            mark_of(job.folder).unlink(missing_ok=True)  # Each makes its own as it ends.
        command += ["learn-at-once", *(str(job.folder) for job in jobs)]
    else:
        settings = str(first.folder.with_suffix(".toml"))
        command += ["train", first.spec.algorithm, "--config", settings, "--run-dir", str(first.folder), "--resume"]
    if first.spec.env is not None:
        command += ["--env", first.spec.env]
    with first.folder.with_suffix(".log").open("wb") as log:
        # Not in the terminal's group: Ctrl-C reaches us, and we end them in order.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **ONE_THREAD},
            start_new_session=True,
        )


def work() -> None:
    """Run the command line on one core, and no longer than the process that started it."""
    core, parent, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    # It is how runs are ended, also if whoever started their parent has it ignored.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
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


def _how(job: Job, first: Job, code: int) -> str | None:
    """Return why a run ended badly whose process ended with a code; None if all is well.

    One of several says so itself, unless the process ended before: then ``first`` has what it said.
    """
    if code == 0 or is_finished(job):
        return None
    log = job.folder.with_suffix(".log")
    own = code > 0 and log.exists() and log.stat().st_size
    return _why(job if own else first, code)


def _why(job: Job, code: int) -> str:
    """Return why a process ended badly, in its own words if it has left any."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"{name} ended it{', as the system does when memory runs out' if name == 'SIGKILL' else ''}."
    with contextlib.suppress(OSError):
        lines = job.folder.with_suffix(".log").read_text(errors="replace").split("\n")
        told = [line for line in lines if line.startswith("rlox: error:")] or [line for line in lines if line.strip()]
        if told:
            return told[-1].removeprefix("rlox: error: ")
    return f"it ended without a word: see '{job.folder.with_suffix('.log')}'"


def _seconds_of_children() -> float:
    """Return the processor time of the processes that have ended."""
    used = os.times()
    return used.children_user + used.children_system


if __name__ == "__main__":
    work()
