"""Many runs: each in a process of its own on one core, as many at a time as there are cores."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlox.errors import ConfigError
from rlox.files import whole
from rlox.plan import Job
from rlox.runs.history import COMPARISON
from rlox.runs.interrupts import Interrupts
from rlox.runs.logs import CONFIG, METRICS
from rlox.runs.progress import Board

ONE_THREAD = dict.fromkeys(("PJRT_NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
POLL = 0.1
"""Seconds between two looks at the processes."""


class Failure(NamedTuple):
    """A run that did not end well."""

    job: Job
    why: str


class Outcome(NamedTuple):
    """How the runs of a comparison ended."""

    finished: list[Job]
    """Runs that are complete, those of before included."""
    failures: list[Failure]
    stopped_by: int | None
    """The signal that ended it early."""
    busy: float
    """Share of the cores' time that the runs have used; nan if none had to run."""


def run_jobs(
    jobs: Sequence[Job], out: Path, *, cores: Sequence[int], modules: Sequence[str] = (), progress: bool | None = None
) -> Outcome:
    """Run what is not finished yet, one run on each core at a time; a run that was stopped goes on from its checkpoint.

    A signal ends all of them with a checkpoint each.

    Args:
        jobs: the runs, in the order in which they begin.
        out: folder of the comparison.
        cores: numbers of the cores to use.
        modules: what each run imports first.
        progress: a live table; None shows it on a terminal only.

    Raises:
        ConfigError: a folder of it has a run with other settings.
    """
    _check_same(jobs)
    out.mkdir(parents=True, exist_ok=True)
    with whole(out / COMPARISON) as side:
        side.write_text(json.dumps({"runs": [str(job.folder.relative_to(out)) for job in jobs]}, indent=1) + "\n")
    waiting = [job for job in jobs if not is_finished(job)]
    finished, failures, running = [job for job in jobs if job not in waiting], [], {}
    began, used = time.monotonic(), _seconds_of_children()
    n_waiting = len(waiting)
    with Interrupts() as interrupts, Board(len(jobs), progress) as board, contextlib.ExitStack() as stack:
        stack.callback(_end, running)
        board.update(len(finished), 0, {})
        while (waiting or running) and interrupts.number is None:
            for slot, core in enumerate(cores):
                if slot not in running and waiting:
                    job = waiting.pop(0)
                    running[slot] = job, _start(job, core, modules)
            for slot, (job, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[slot]
                why = _why(job, process.returncode) if process.returncode else None
                if why is None:
                    _mark(job).touch()
                    finished.append(job)
                else:
                    failures.append(Failure(job, why))
                board.ended(_name(job), why)
            board.update(len(finished), len(failures), {_name(job): _at(job) for job, _ in running.values()})
            time.sleep(POLL)
    seconds = (time.monotonic() - began) * min(len(cores), max(n_waiting, 1))
    busy = (_seconds_of_children() - used) / seconds if n_waiting else float("nan")
    return Outcome(sorted(finished, key=jobs.index), failures, interrupts.number, busy)


def usable_cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def is_finished(job: Job) -> bool:
    """Return whether a run has taken all its steps, and has ended well."""
    last, budget = last_record(job.folder), job.spec.budget
    return (
        _mark(job).exists()
        and last is not None
        and last["env_steps"] >= (budget.total_timesteps or 0)
        and last["gradient_steps"] >= (budget.gradient_steps or 0)
    )


def _mark(job: Job) -> Path:
    """Return the file that says that a run has ended well."""
    return job.folder.with_suffix(".finished")


def last_record(folder: Path) -> dict[str, Any] | None:
    """Return the last record of a run; None before the first."""
    try:
        with (folder / METRICS).open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 20_000, 0))
            lines = file.read().split(b"\n")[:-1]
        return json.loads(lines[-1]) if lines else None
    except (OSError, ValueError):
        return None


def _check_same(jobs: Sequence[Job]) -> None:
    """Refuse a folder whose run has other settings: its curve would be of both.

    Raises:
        ConfigError: naming the first that differs.
    """
    for job in jobs:
        try:
            was = json.loads((job.folder / CONFIG).read_text())
        except (OSError, ValueError):
            continue
        now = json.loads(json.dumps(job.spec.to_dict()))
        flat = {**now["config"], **{name: now[name] for name in ("algorithm", "env", "dataset", "seed")}}
        for name, value in flat.items():
            before = was["config"].get(name, value) if name in now["config"] else was.get(name)
            if before != value:
                raise ConfigError(
                    f"'{job.folder}' has a run with {name}={before!r}, not {value!r}: give the comparison another "
                    "folder (--output), or these settings another label."
                )


def _start(job: Job, core: int, modules: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a run on a core; what it says goes to a file beside its folder."""
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    settings = job.folder.with_suffix(".toml")
    with whole(settings) as side:
        side.write_text(job.spec.to_toml())
    command = [sys.executable, "-m", "rlox.compare", str(core), str(os.getpid())]
    command += [word for name in modules for word in ("--import", name)]
    command += ["train", job.spec.algorithm, "--config", str(settings), "--run-dir", str(job.folder), "--resume"]
    if job.spec.env is not None:
        command += ["--env", job.spec.env]
    with job.folder.with_suffix(".log").open("wb") as log:
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
    core, parent = int(sys.argv[1]), int(sys.argv[2])
    # It is how a comparison ends its runs, also if whoever started that has it ignored.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    from rlox.cli import main

    main(sys.argv[3:])


def _end_with(parent: int) -> None:
    """Ask this process once to end when its parent has.

    The kernel can do so (PR_SET_PDEATHSIG), but it sends a signal for each thread of the parent, and a second signal
    ends a run without a checkpoint.
    """
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def _end(running: Mapping[int, tuple[Job, subprocess.Popen[bytes]]]) -> None:
    """End the runs, each with a checkpoint."""
    for _, process in running.values():
        process.send_signal(signal.SIGTERM)
    for _, process in running.values():
        process.wait()


def _name(job: Job) -> str:
    return f"{job.label} {job.folder.parent.name} {job.folder.name}"


def _at(job: Job) -> tuple[float, str]:
    """Return how far a run is, from 0 to 1, and its last return in words."""
    last, budget = last_record(job.folder), job.spec.budget
    if last is None:
        return 0.0, "starting"
    total = (budget.total_timesteps or 0) + (budget.gradient_steps or 0)
    offline = min(last["gradient_steps"], budget.gradient_steps or 0)
    found = last.get("rollout/episode_return")
    return min((last["env_steps"] + offline) / total, 1.0), "" if found is None else f"return {found:.4g}"


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
