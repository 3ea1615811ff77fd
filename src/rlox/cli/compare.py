"""``rlox compare``: many runs, and what they come to."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from rlox.cli.options import column_flags, take_reading, with_flags
from rlox.cli.values import check_no_effect
from rlox.errors import ConfigError, RunsFailedError

if TYPE_CHECKING:
    from rlox.compare import Failure, Outcome
    from rlox.plan import Job
    from rlox.runs.history import Run

Several = Parameter(consume_multiple=True, negative=())
BUDGET_FLAGS = ("total_timesteps", "gradient_steps", "eval_interval", "n_eval_episodes")


@with_flags(*column_flags())
def compare(
    *run: Annotated[Path, Parameter(metavar="RUN")],
    env: Annotated[tuple[str, ...], Several] = (),
    dataset: Annotated[tuple[str, ...], Several] = (),
    algorithms: str | None = None,
    seeds: int | None = None,
    total_timesteps: int | None = None,
    gradient_steps: int | None = None,
    eval_interval: int | None = None,
    n_eval_episodes: int | None = None,
    config: Path | None = None,
    output: Path | None = None,
    processes: int | None = None,
    ray: str | None = None,
    storage: str | None = None,
    threshold: float | None = None,
    save: Path | None = None,
    **columns: Any,
) -> None:
    """Compare algorithms, or settings of one, over seeds: run what is missing, then print a table and write a report.

    Runs are processes on one core each, as many at a time as there are cores; seeds that learn from data only share a
    process. The same command again goes on with what is missing, from checkpoints.

    Parameters
    ----------
    run
        Folders of runs that are there; they are compared as they are.
    env
        Environments to learn in; with data that know none, the one to evaluate them in.
    dataset
        Data to learn from instead: files, Minari ids or folders, or some of `rlox list datasets`.
    algorithms
        What to compare, such as awr,iql,ppo; awr:tuned is awr with that preset.
    seeds
        How many seeds; 5 by default.
    total_timesteps
        Environment steps of each run.
    gradient_steps
        Gradient steps of each run on data.
    eval_interval
        Steps between evaluations; a twentieth of the run by default.
    n_eval_episodes
        Episodes of an evaluation; 10 by default.
    config
        TOML file with what to compare, such as several settings of one algorithm.
    output
        Folder for the runs, the table and the report; by default one under runs/, named for what is compared.
    processes
        Runs at a time; as many as there are cores by default.
    ray
        Run on Ray: local for one on this machine, or the address of a cluster.
    storage
        Address where runs of a cluster are kept, such as s3://bucket/runs; by default its machines share --output.
    threshold
        Return to reach: the table says when. By default the one that the environment names, if it does.
    save
        File to keep settings and returns in (.json), which this command reads like folders.
    columns
        Names of columns.
    """
    from rlox.runs.history import find_runs

    given: dict[str, Any] = {
        "env": env or None,
        "dataset": dataset or None,
        "algorithms": algorithms,
        "seeds": seeds,
        "total_timesteps": total_timesteps,
        "gradient_steps": gradient_steps,
        "eval_interval": eval_interval,
        "n_eval_episodes": n_eval_episodes,
        **take_reading(columns).given(),
    }
    where: dict[str, Any] = {"processes": processes, "ray": ray, "storage": storage}
    outcome = None
    if run:
        check_no_effect("on runs that are there", **given, config=config, **where)
        paths: Sequence[Path] = run
    else:
        output, outcome = _run(given, config, output, where, save)
        if not outcome.finished:
            fail(outcome.failures)
        paths = outcome.folders
    found = find_runs(paths)
    # Runs that were there, and those of a cluster, may have been measured elsewhere.
    measured = outcome is not None and outcome.busy == outcome.busy
    report(found, output, threshold, save, measured=measured)
    if outcome is not None and outcome.failures:
        fail(outcome.failures)


def _run(
    given: dict[str, Any], config: Path | None, output: Path | None, where: dict[str, Any], save: Path | None
) -> tuple[Path, Outcome]:
    """Run what is missing; returns the folder and how the runs ended."""
    from rlox.cli.sources import read_toml
    from rlox.data.steps import check_names
    from rlox.files import as_name, check_place
    from rlox.plan import COLUMNS, Plan, named_settings, plan_of, seeds_of

    columns = {name: given[name] for name in COLUMNS if name in given}
    shared = {**columns, **{name: given[name] for name in BUDGET_FLAGS if given[name] is not None}}
    if config is not None:
        check_no_effect("beside --config, whose tables say what is compared", algorithms=given["algorithms"])
        plan = plan_of(read_toml(config), str(config))
        plan = plan._replace(over=shared)
    elif given["algorithms"] is None:
        raise ConfigError(
            "Say what to compare: --env ID --algorithms awr,iql --total-timesteps N, a file by --config, or folders of "
            "runs."
        )
    else:
        plan = Plan(named_settings(given["algorithms"].split(",")), (), shared=shared)
    envs, datasets = given["env"] or plan.envs, given["dataset"] or plan.datasets
    if not datasets:
        check_no_effect("without data: name them by --dataset", **columns)
    # Some of a file's places leave the tables of its others without effect.
    others = {*plan.envs, *plan.datasets} - {*envs, *datasets}
    plan = plan._replace(
        envs=envs,
        datasets=datasets,
        seeds=plan.seeds if given["seeds"] is None else seeds_of(given["seeds"]),
        on={name: own for name, own in plan.on.items() if name not in others},
    )
    if output is None:
        name = config.stem if config else "-".join([*plan.settings, *plan.envs, *(Path(d).stem for d in plan.datasets)])
        output = Path("runs") / as_name(f"compare-{name}")
    jobs = plan.jobs(output)
    # The output's own folder is made with the first run.
    if save is not None and save.parent != output:
        check_place(save)
    for data, reading in dict.fromkeys((job.spec.dataset, job.spec.reading) for job in jobs):
        if data is not None:
            check_names(data, reading.columns)
    return output, run_all(jobs, output, where)


def run_all(jobs: Sequence[Job], output: Path, where: dict[str, Any]) -> Outcome:
    """Run what is missing; returns how the runs ended.

    Args:
        jobs: the runs.
        output: their folder.
        where: ``processes``, ``ray`` and ``storage``, as ``make_engine`` takes them.

    Raises:
        Interrupted: a signal came.
    """
    from rlox.compare import run_jobs
    from rlox.engine import make_engine
    from rlox.modules import IMPORTED
    from rlox.runs.interrupts import Interrupted

    engine = make_engine(**where, modules=IMPORTED)
    n = f"{len(jobs)} runs, {engine.words}," if len(jobs) > 1 else "One run"
    print(f"{n} in {output}.", flush=True)
    outcome = run_jobs(jobs, output, engine=engine, progress=True)
    if outcome.stopped_by is not None:
        told = f"Stopped: {len(outcome.finished)} of {len(jobs)} runs are finished."
        raise Interrupted(f"{told} The same command goes on with the rest.", outcome.stopped_by)
    if outcome.busy == outcome.busy:
        print(f"The runs kept {outcome.busy:.0%} of the cores' time busy.")
    return outcome


def report(
    runs: Sequence[Run], output: Path | None, threshold: float | None, save: Path | None, *, measured: bool
) -> None:
    """Print the table, and write the report.

    Args:
        runs: what is compared.
        output: folder for table and report; None writes neither.
        threshold: return to reach; None for that of the environment.
        save: file to keep settings and returns in.
        measured: whether the runs were on this machine, just now.
    """
    from rlox.files import make_folder, writing
    from rlox.runs.history import alike_returns, group_runs, write_runs
    from rlox.runs.meanings import axis_of, axis_of_returns
    from rlox.runs.report import write_report
    from rlox.runs.table import as_markdown, by_steps, compare_groups, overall, thresholds_of

    runs = alike_returns(runs)
    groups = group_runs(runs)
    known = thresholds_of(groups, threshold)
    lines = compare_groups(groups, known)
    if not lines:
        raise ConfigError("None of these runs has a return yet: there is nothing to compare.")
    for place, found in groups.items():
        every = [run for own in found.values() for run in own]
        if without := [run for run in every if not len(run.returns.steps)]:
            print(
                f"{place}: {len(without)} of {len(every)} runs have no return, and are left out, such as "
                f"'{without[0].path}'.",
                file=sys.stderr,
            )
    for place, at, offline in dict.fromkeys((line.place, line.steps, line.offline) for line in lines):
        steps = f"{at:,.0f} {axis_of(offline=offline)}"
        own = [run for found in by_steps(groups[place])[offline].values() for run in found]
        what = axis_of_returns(own[0])
        print(f"{place}: {what} after {steps}, the last that all of its runs have reached.")
        short = [run for run in own if run.is_short]
        if 0 < len(short) < len(own):
            print(
                f"{place}: {len(short)} of {len(own)} runs have not taken all steps of their budget, such as "
                f"'{short[0].path}'. Leave these out to compare the others at their end.",
                file=sys.stderr,
            )
        if len({run.return_name for run in own}) > 1:
            print(f"{place}: some runs have evaluations only, and others training episodes only.", file=sys.stderr)
    print(f"\n{as_markdown(lines, known)}")
    if len(groups) > 1:
        first, others = overall(groups)
        for label, (found, n) in others.items():
            over = "all of them" if n == len(groups) else f"{n} of {len(groups)}"
            print(f"\n{label} beats {first} with a probability of {found.value:.2f} over {over}", end="")
            print(f" (95% interval {found.low:.2f} to {found.high:.2f})." if found.low == found.low else ".")
    if output is not None:
        make_folder(output)
        with writing(output / "table.md") as side:
            side.write_text(as_markdown(lines, known) + "\n")
        print(f"\nThe report is {write_report(runs, output / 'report.html', threshold=threshold)}.")
    if save is not None:
        from rlox.runs.machine import describe_machine

        machine = describe_machine() if measured else None
        print(f"\nKept settings and returns in {write_runs(save, runs, machine)}.")


def fail(failures: Sequence[Failure]) -> None:
    """Name the first of the runs that failed.

    Raises:
        RunsFailedError: always.
    """
    first = failures[0]
    n = f"{len(failures)} runs failed, and are" if len(failures) > 1 else "One run failed, and is"
    raise RunsFailedError(
        f"{n} not in the table. The first was '{first.job.folder}': {first.why} The same command tries them again."
    )
