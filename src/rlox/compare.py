"""The runs of a comparison: as many at a time as there are cores."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rlox.algorithms import find_algorithm
from rlox.core.algorithm import Algorithm
from rlox.errors import ConfigError
from rlox.files import whole
from rlox.plan import Job
from rlox.processes import POLL, Processes, is_finished, progress_of
from rlox.runs.history import COMPARISON
from rlox.runs.interrupts import Interrupts
from rlox.runs.logs import CONFIG
from rlox.runs.progress import Board
from rlox.spec import RunSpec


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
    """Run what is not finished yet, one process on each core at a time; a stopped run goes on from its checkpoint.

    Seeds of the same settings that learn from data are one process (see ``at_once``). A signal ends all of them with a
    checkpoint each.

    Args:
        jobs: the runs, in the order in which they begin.
        out: folder of the comparison.
        cores: numbers of the cores to use.
        modules: what each run imports first.
        progress: a live table; None shows it on a terminal only.

    Raises:
        ConfigError: a folder of it has a run with other settings.
    """
    check_same(jobs)
    out.mkdir(parents=True, exist_ok=True)
    with whole(out / COMPARISON) as side:
        side.write_text(json.dumps({"runs": [str(job.folder.relative_to(out)) for job in jobs]}, indent=1) + "\n")
    missing = [job for job in jobs if not is_finished(job)]
    waiting = at_once(missing, len(cores))
    finished, failures, n_waiting = [job for job in jobs if job not in missing], [], len(waiting)
    processes = Processes(cores, modules)
    with Interrupts() as interrupts, Board(len(jobs), progress) as board, processes:
        board.update(len(finished), 0, {})
        while (waiting or processes.running) and interrupts.number is None:
            while waiting and processes.n_free:
                processes.start(*waiting.pop(0))
            for job, why in processes.ended():
                if why is None:
                    finished.append(job)
                else:
                    failures.append(Failure(job, why))
                board.ended(_name(job), why)
            board.update(len(finished), len(failures), {_name(job): progress_of(job) for job in processes.running})
            time.sleep(POLL)
    return Outcome(sorted(finished, key=jobs.index), failures, interrupts.number, processes.busy(n_waiting))


def at_once(jobs: Sequence[Job], n_cores: int) -> list[list[Job]]:
    """Return runs in the order in which they begin, those together that are one program.

    These are seeds of the same settings that learn from data only, by an algorithm of ours; no more of them than keeps
    all cores busy.
    """
    most = -(-len(jobs) // n_cores)
    same: dict[object, list[Job]] = {}
    for job in jobs:
        alone = job if not learns_offline(job.spec) else None
        same.setdefault((job.label, dataclasses.replace(job.spec, seed=0), alone), []).append(job)
    groups = []
    for seeds in same.values():
        n = -(-len(seeds) // most)
        groups += [seeds[i::n] for i in range(n)]
    return sorted(groups, key=lambda group: jobs.index(group[0]))


def learns_offline(spec: RunSpec) -> bool:
    """Return whether a run learns from data only, by an algorithm of ours."""
    budget = spec.budget
    ours = isinstance(find_algorithm(spec.algorithm)[1], Algorithm)
    return ours and spec.dataset is not None and budget.gradient_steps is not None and budget.total_timesteps is None


def check_same(jobs: Sequence[Job]) -> None:
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
        # Runs of before have no names of columns.
        was |= was.get("reading", {})
        for name, value in {**flat, **now["reading"]}.items():
            before = was["config"].get(name, value) if name in now["config"] else was.get(name)
            if before != value:
                raise ConfigError(
                    f"'{job.folder}' has a run with {name}={before!r}, not {value!r}: give the comparison another "
                    "folder (--output), or these settings another label."
                )


def _name(job: Job) -> str:
    return f"{job.label} {job.folder.parent.name} {job.folder.name}"
