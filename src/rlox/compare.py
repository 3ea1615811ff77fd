"""The runs of a comparison: as many at a time as there are cores."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlox.engine import Engine
from rlox.errors import ConfigError
from rlox.files import make_folder, whole
from rlox.plan import Job
from rlox.processes import POLL, is_finished, last_record, progress_of
from rlox.runs.history import COMPARISON
from rlox.runs.interrupts import Interrupts
from rlox.runs.lock import claimed
from rlox.runs.logs import CONFIG
from rlox.runs.progress import Board


class Failure(NamedTuple):
    """A run that did not end well."""

    job: Job
    why: str


class Outcome(NamedTuple):
    """How the runs of a comparison ended."""

    jobs: Sequence[Job]
    """All runs of the comparison."""
    finished: list[Job]
    """Runs that are complete, those of before included."""
    failures: list[Failure]
    stopped_by: int | None
    """The signal that ended it early."""
    busy: float
    """Share of the cores' time that the runs have used; nan if none had to run."""

    @property
    def folders(self) -> list[Path]:
        """Folders of the finished runs, label by label: one whose first run has failed keeps its place."""
        labels = list(dict.fromkeys(job.label for job in self.jobs))
        return [job.folder for job in sorted(self.finished, key=lambda job: labels.index(job.label))]


def run_jobs(jobs: Sequence[Job], out: Path, *, engine: Engine, progress: bool | None = None) -> Outcome:
    """Run what is not finished yet, as many at a time as there are cores; a stopped run goes on from its checkpoint.

    Seeds of the same settings that learn from data may be one process (see ``at_once``). A signal ends all of them with
    a checkpoint each.

    Args:
        jobs: the runs, in the order in which they begin.
        out: folder of the comparison.
        engine: where they run.
        progress: a live table; None shows it on a terminal only.

    Raises:
        ConfigError: a folder of it has a run with other settings.
        RunInUseError: another comparison runs there.
    """
    make_folder(out)
    with claimed(out), Interrupts() as interrupts, Board(len(jobs), progress) as board, engine:
        engine.fetch(jobs)
        check_same(jobs)
        with whole(out / COMPARISON) as side:
            side.write_text(json.dumps({"runs": [str(job.folder.relative_to(out)) for job in jobs]}, indent=1) + "\n")
        missing = [job for job in jobs if not is_finished(job)]
        waiting = engine.together(missing)
        finished, failures, n_waiting = [job for job in jobs if job not in missing], [], len(waiting)
        board.update(len(finished), 0, {})
        while (waiting or engine.running) and interrupts.number is None:
            while waiting and engine.n_free:
                engine.start(*waiting.pop(0))
            for job, why in engine.ended():
                if why is None:
                    finished.append(job)
                else:
                    failures.append(Failure(job, why))
                board.ended(_name(job), why)
            board.update(len(finished), len(failures), {_name(job): progress_of(job) for job in engine.running})
            time.sleep(POLL)
    return Outcome(jobs, sorted(finished, key=jobs.index), failures, interrupts.number, engine.busy(n_waiting))


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
        settings = {**now["config"], "n_eval_episodes": now["budget"]["n_eval_episodes"]}
        rest = {name: now[name] for name in ("algorithm", "env", "dataset", "seed")}
        known = {**was.get("budget", {}), **was["config"]}
        # Runs of before have no names of columns.
        was |= was.get("reading", {})
        settings |= _of_the_end(job, now, was.get("budget", {}))
        for name, value in {**settings, **rest, **now["reading"]}.items():
            before = known.get(name, value) if name in settings else was.get(name)
            if before != value:
                raise ConfigError(
                    f"'{job.folder}' has a run with {name}={before!r}, not {value!r}: give the comparison another "
                    "folder (--output, or --run-dir of rlox train), or these settings another label."
                )


def _of_the_end(job: Job, now: Mapping[str, Any], budget: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of its budget a run keeps: with more of it, it would not be as one that begins with that."""
    fixed = []
    if now["config"].get("learning_rate_schedule") == "linear":
        fixed.append("total_timesteps")
    if budget.get("gradient_steps") is not None and (last_record(job.folder) or {}).get("env_steps"):
        fixed.append("gradient_steps")
    return {name: now["budget"][name] for name in fixed}


def _name(job: Job) -> str:
    return f"{job.label} {job.folder.parent.name} {job.folder.name}"
