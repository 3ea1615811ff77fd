"""A search: its runs go on beside each other, and one parent asks, looks at what they log, prunes and tells."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from rlox.algorithms import find_algorithm
from rlox.arguments import check_positive
from rlox.assemble import is_discrete, named
from rlox.data.reading import AS_IT_IS, Reading
from rlox.data.steps import check_names
from rlox.engine import Engine, make_engine
from rlox.envs.envs import find_spec
from rlox.errors import ConfigError, RunsFailedError, did_you_mean
from rlox.files import make_folder
from rlox.modules import IMPORTED
from rlox.plan import N_EVALUATIONS, Job, budget_of, env_of, folder_of
from rlox.processes import POLL, is_finished, progress_of
from rlox.runs.interrupts import Interrupted, Interrupts
from rlox.runs.lock import claimed
from rlox.runs.logs import METRICS
from rlox.runs.progress import Board
from rlox.search import trials as folder
from rlox.search.results import write_results
from rlox.search.space import check_space, space_of
from rlox.search.study import JOURNAL, Study, require
from rlox.search.trials import Outcome, Task, Trial
from rlox.spec import Intervals, RunSpec

BROKEN = 3
"""Runs that may end for another reason than their settings, before the search ends: the next would, too."""
DIVERGED = "Training diverged"


class Search(NamedTuple):
    """What a search has come to."""

    output: Path
    """Its folder."""
    trials: Sequence[Trial]
    """In their order; but for those that broke, all have ended."""
    broken: Mapping[str, str] = {}
    """Trials of which a run ended for another reason than its settings, and why."""

    @property
    def best(self) -> Trial:
        """The complete trial with the highest return; of equal ones the first."""
        return self.ranked[0]

    @property
    def best_spec(self) -> RunSpec:
        """The best trial's first run, as ``Trainer.from_spec`` takes it."""
        return self.best.jobs[0].spec

    @property
    def best_run(self) -> Path:
        """Folder of that run, as ``Trainer.load`` and ``Policy.load`` take it."""
        return self.best.jobs[0].folder

    @property
    def ranked(self) -> list[Trial]:
        """The complete trials, the best first.

        Raises:
            RunsFailedError: there are none.
        """
        ended = [(trial, trial.outcome) for trial in self.trials if trial.outcome is not None]
        found = [(trial, outcome.value) for trial, outcome in ended if outcome.state == "complete"]
        if not found:
            why = ended[0][1].why if ended else "there are none."
            raise RunsFailedError(f"None of the trials in '{self.output}' is complete. The first: {why}")
        return [trial for trial, _ in sorted(found, key=lambda pair: -(pair[1] or 0.0))]


def tune(
    algorithm: str,
    env: str | None = None,
    *,
    trials: int = 50,
    total_timesteps: int | None = None,
    dataset: str | Path | None = None,
    gradient_steps: int | None = None,
    config: Mapping[str, Any] | None = None,
    space: Mapping[str, object] | None = None,
    preset: str | None = None,
    seeds: int = 1,
    seed: int = 0,
    prune: bool = True,
    output: str | Path | None = None,
    processes: int | None = None,
    ray: str | None = None,
    storage: str | None = None,
    modules: Sequence[str] = (),
    reading: Reading = AS_IT_IS,
    progress: bool | None = None,
    **intervals: Unpack[Intervals],
) -> Search:
    """Search for the settings with the highest evaluation return; called again, it goes on where it was stopped.

    Every trial is a run (or a run for each seed) in a process of its own on one core. Trials that are behind the median
    of the others end early. Afterwards the folder has ``best.toml``, which ``rlox train --config`` reads, ``table.md``,
    ``report.html`` and, with the extra ``rlox[plots]``, ``search.png``.

    Args:
        algorithm: a name, in any case.
        env: id of the environment to learn in, or to evaluate in; that of bundled data may be left out.
        trials: how many in all, those of before included.
        total_timesteps: environment steps of each run.
        dataset: data to learn from first: a file, a Minari id or a bundled name.
        gradient_steps: gradient steps of each run on the data.
        config: settings that are fixed.
        space: what is tried of a setting, in place of the usual: ``(low, high)``, ``(low, high, "log")`` or a list of
            choices, or a ``Range`` or ``Choice`` of ``rlox.search.space``, by its name.
        preset: settings to start from.
        seeds: runs of each trial, whose mean counts. They run one after another, and the first decides on pruning.
        seed: of what is tried, and of each trial's first run; the others have those after it.
        prune: whether trials that are behind end early.
        output: folder of the search; by default one under ``runs/``, named for the algorithm and where it learns.
        processes: runs at a time; as many as there are cores by default.
        ray: ``"local"`` runs the trials as tasks of a Ray on this machine, an address as those of a cluster (extra
            ``rlox[ray]``).
        storage: an address where runs of a cluster are kept, such as ``"s3://bucket/search"``; without it, ``output``
            must be a folder that all of its machines share.
        modules: modules that register an algorithm or an environment of your own, for the runs to import.
        reading: names of the data's columns, such as ``Reading(observations=("x", "v"), episode="batch")`` of
            ``rlox.data.reading``.
        progress: a live table; None shows it on a terminal only.
        intervals: other parts of the budget, as ``Trainer.train`` has them; ``eval_interval`` is a twentieth of the
            run by default.

    Raises:
        ConfigError: something that cannot be searched, or a folder of another search.
        RunInUseError: the search is going on in another process.
        RunsFailedError: no trial was complete, or several runs broke for another reason than their settings.
        KeyboardInterrupt: a signal ended it; the same call goes on.
    """
    require()
    check_positive(trials=trials, seeds=seeds)
    for name in intervals.keys() - Intervals.__annotations__.keys():
        raise ConfigError(f"tune has no argument '{name}'.{did_you_mean(name, Intervals.__annotations__)}")
    given = {"total_timesteps": total_timesteps, "gradient_steps": gradient_steps, **intervals}
    budget = {name: n for name, n in given.items() if n is not None or name == "checkpoint_minutes"}
    fixed = dict(config or {})

    def base_of(settings: Mapping[str, Any]) -> RunSpec:
        return _base(algorithm, env, None if dataset is None else str(dataset), settings, preset, seed, budget)

    try:
        base = base_of(fixed)
    except ConfigError:
        # AWR's defaults are no rounds, which some settings need; all that is tried from an environment is.
        if find_algorithm(algorithm)[0] != "awr" or dataset is not None or "rollout_steps" in fixed:
            raise
        base = base_of({"rollout_steps": 2048, **fixed})
    base = dataclasses.replace(base, reading=reading)
    if base.dataset is not None:
        check_names(base.dataset, reading.columns)
    actions = "discrete" if is_discrete(base.env, None) else "continuous"
    tried = space_of(base, fixed, space or {}, actions=actions)
    task = Task(base=base, space=tried, seeds=seeds, prune=prune)
    check_space(tried, lambda settings: task.spec(settings).config.check_actions(actions))
    out = Path(output or Path("runs") / f"tune-{base.algorithm}-{folder_of(base.env, base.dataset)}")
    engine = make_engine(processes=processes, ray=ray, storage=storage, modules=[*IMPORTED, *modules])
    found = run_trials(task, out, trials, engine=engine, progress=progress)
    if found.broken:
        with contextlib.suppress(RunsFailedError):
            write_results(found, tried)
        label, why = next(iter(found.broken.items()))
        raise RunsFailedError(
            f"{len(found.broken)} of the trials broke, for another reason than their settings. The first was "
            f"'{out / label}': {why} The same command tries them again."
        )
    write_results(found, tried)
    return found


def _base(
    algorithm: str,
    env: str | None,
    dataset: str | None,
    config: Mapping[str, Any],
    preset: str | None,
    seed: int,
    budget: dict[str, Any],
) -> RunSpec:
    """Return the run that the search starts from.

    Raises:
        ConfigError: no environment, no number of steps, or something that makes no run.
    """
    env = env or env_of(dataset)
    if env is None:
        where = f"'{dataset}' has no environment to evaluate in" if dataset else "There is no environment"
        raise ConfigError(
            f"{where}, and a search is for the settings with the highest evaluation return: name one (env=, --env ID)."
        )
    find_spec(env)
    if dataset is None and "gradient_steps" in budget:
        raise ConfigError(f"gradient_steps={budget['gradient_steps']} needs data to learn from (dataset=, --dataset).")
    name = find_algorithm(algorithm)[0]
    if dataset is not None and "total_timesteps" in budget:
        # Returns of the environment count, which comes last.
        check_positive(total_timesteps=budget["total_timesteps"])
        budget = {"eval_interval": max(budget["total_timesteps"] // N_EVALUATIONS, 1), **budget}
    spec = RunSpec.resolve(
        name,
        config=config,
        preset=preset,
        env=env,
        discrete=lambda: is_discrete(env, None),
        dataset=named(dataset),
        seed=seed,
    )
    return dataclasses.replace(spec, budget=budget_of(name, dataset, budget))


def run_trials(task: Task, out: Path, n: int, *, engine: Engine, progress: bool | None = None) -> Search:
    """Run what is missing of ``n`` trials, as many at a time as there are cores.

    A signal ends them with a checkpoint each.

    Raises:
        ConfigError: the folder is that of another search.
        RunInUseError: the search is going on in another process.
        Interrupted: a signal came.
    """
    if task.n_evaluations < 1:
        raise ConfigError(f"eval_interval={task.base.budget.eval_interval} leaves no evaluation of a run: lower it.")
    make_folder(out)
    with claimed(out):
        folder.begin(out, task)
        trials = folder.read_trials(out, task)
        study = Study(out / JOURNAL, task, trials)
        with Interrupts() as interrupts, Board(n, progress, what="trials") as board, engine as runs:
            loop = _Loop(out, task, n, trials, study, runs, board)
            while interrupts.number is None and len(loop.broken) < BROKEN and loop.step():
                time.sleep(POLL)
    ended = [trial for trial in trials.values() if trial.outcome is not None]
    if interrupts.number is not None:
        told = f"Stopped: {len(ended)} of {n} trials are finished."
        raise Interrupted(f"{told} The same command goes on with the rest.", interrupts.number)
    return Search(out, [trials[number] for number in sorted(trials)], loop.broken)


class _Loop:
    """What happens between two looks at the processes."""

    def __init__(
        self, out: Path, task: Task, n: int, trials: dict[int, Trial], study: Study, runs: Engine, board: Board
    ):
        self._out, self._task, self._n, self._trials = out, task, n, trials
        self._study, self._runs, self._board = study, runs, board
        self._active: dict[Job, int] = {}
        """Number of the trial of each run that goes on."""
        self._over: set[Job] = set()
        """Runs that have ended, whether or not their logs say so."""
        self._seen: dict[int, int] = {}
        """By trial, the last evaluation that was looked at."""
        self._sizes: dict[int, int] = {}
        """By trial, bytes of the log that were looked at."""
        self.broken: dict[str, str] = {}
        """Trials of which a run broke, and why."""
        for number, trial in trials.items():
            # What is there when a search goes on was judged then, beside the trials of then.
            found = folder.evaluations(trial.jobs[0]) if trial.outcome is None else {}
            for evaluation, value in found.items():
                study.report(number, evaluation, value)
            self._seen[number] = len(found)

    def step(self) -> bool:
        """Look at what goes on, and start what there are cores for; returns whether anything goes on."""
        for job, why in self._runs.ended():
            self._over.add(job)
            self._ended(self._active.pop(job), why)
        for job in self._runs.running:
            if self._look(self._active[job]):
                self._runs.stop(job)
        while self._runs.n_free and len(self.broken) < BROKEN and (found := self._next()) is not None:
            number, job = found
            self._active[job] = number
            self._runs.start(job)
        self._show()
        return bool(self._runs.running)

    def _next(self) -> tuple[int, Job] | None:
        """Return a run of a trial that was begun, or of a new one, and that trial's number; None if there is none."""
        for trial in self._trials.values():
            busy = trial.number in self._active.values() or trial.label in self.broken
            if trial.outcome is None and not busy:
                if (job := self._job_of(trial)) is not None:
                    return trial.number, job
                # Killed between the end of its last run and the judgement.
                self._ended(trial.number, None)
        number = next((i for i in range(self._n) if i not in self._trials), None)
        return None if number is None else (number, self._new(number).jobs[0])

    def _job_of(self, trial: Trial) -> Job | None:
        """Return the first run of a trial that has not ended."""
        return next((job for job in trial.jobs if job not in self._over and not is_finished(job)), None)

    def _new(self, number: int) -> Trial:
        """Make a trial; the first one has the settings that the search starts from, if its space has them."""
        start = self._task.start
        if number == 0 and start is not None:
            self._study.begin(number, start)
            settings = start
        else:
            settings = self._study.ask(number)
        trial = folder.make_trial(self._out, self._task, number, settings)
        folder.keep(self._out, number, settings)
        self._trials[number] = trial
        return trial

    def _ended(self, number: int, why: str | None) -> None:
        """Judge a trial of which a run has ended."""
        trial = self._trials[number]
        # However fast it was: a trial that falls behind is pruned.
        if trial.outcome is not None or self._look(number):
            return
        if why is not None and why.startswith(DIVERGED):
            self._finish(trial, Outcome("failed", None, self._seen.get(number, 0), why))
        elif why is not None:
            self.broken[trial.label] = why
            self._study.tell(number, None)
            self._board.ended(trial.label, why)
        elif self._job_of(trial) is None:
            value = trial.value()
            if value is None:
                self._finish(trial, Outcome("failed", None, 0, "It has no finite evaluation."))
            else:
                self._finish(trial, Outcome("complete", value, self._seen.get(number, 0)))

    def _look(self, number: int) -> bool:
        """Report what is new of a trial's first run; returns whether the trial was pruned for it."""
        trial = self._trials[number]
        try:
            size = (trial.jobs[0].folder / METRICS).stat().st_size
        except OSError:
            return False
        if trial.outcome is not None or size == self._sizes.get(number):
            return False
        self._sizes[number] = size
        found = folder.evaluations(trial.jobs[0])
        for i, (evaluation, value) in enumerate(found.items(), start=1):
            if i > self._seen.get(number, 0):
                self._seen[number] = i
                behind = self._study.report(number, evaluation, value)
                # The last one decides nothing: the run is over.
                if behind and self._task.prune and evaluation < self._task.n_evaluations:
                    self._finish(trial, Outcome("pruned", value, i))
                    return True
        return False

    def _finish(self, trial: Trial, outcome: Outcome) -> None:
        self._trials[trial.number] = folder.finish(self._out, trial, outcome)
        self._study.tell(trial.number, outcome)
        result = f"return {outcome.value:.4g}" if outcome.value is not None else ""
        failure = outcome.why if outcome.state == "failed" else None
        self._board.ended(trial.label, failure, f"pruned at {result}" if outcome.state == "pruned" else result)

    def _show(self) -> None:
        ended = [trial.outcome for trial in self._trials.values() if trial.outcome is not None]
        complete = [outcome.value for outcome in ended if outcome.state == "complete" and outcome.value is not None]
        pruned = sum(outcome.state == "pruned" for outcome in ended)
        note = f" | {pruned} pruned" if pruned else ""
        note += f" | best return {max(complete):.4g}" if complete else ""
        failed = sum(outcome.state == "failed" for outcome in ended) + len(self.broken)
        running = {self._trials[i].label: progress_of(job) for job, i in self._active.items()}
        self._board.update(len(ended) + len(self.broken) - failed, failed, running, note)
