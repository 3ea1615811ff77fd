"""``rlox train --seeds N``: the same run with several seeds, beside each other, and what they come to."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from rlox.arguments import check_positive
from rlox.cli.options import Options
from rlox.cli.values import check_no_effect
from rlox.errors import ConfigError
from rlox.spec import RunSpec


def check_alone(options: Options, n_workers: int) -> None:
    """Refuse the flags of several runs for one; ``--ray`` is also where the collectors of one are.

    Raises:
        ConfigError: the first of them.
    """
    given = {name: getattr(options, name) for name in ("processes", "storage")}
    check_no_effect("on one run: it is for several, by --seeds N", **given)
    if not n_workers:
        check_no_effect("on one run without collectors: add --n-workers N, or --seeds N", ray=options.ray)
    elif options.ray is not None:
        os.environ["RAY_ADDRESS"] = options.ray


def train_seeds(spec: RunSpec, options: Options) -> None:
    """Run a specification with as many seeds, from its own on, in folders ``ALGORITHM/PLACE/SEED``; print a table.

    Raises:
        ConfigError: flags that cannot go with it.
        RunsFailedError: a run did not end well.
        Interrupted: a signal came; the same command goes on.
    """
    from rlox.cli.compare import fail, report, run_all
    from rlox.plan import Job, folder_of, seeds_of
    from rlox.runs.history import find_runs

    check_positive(seeds=options.seeds)
    check_no_effect("with --seeds", logger=options.logger or None)
    place = folder_of(None if spec.dataset is not None else spec.env, spec.dataset)
    out = options.run_dir or Path("runs") / f"{spec.algorithm}-{place}"
    if out.is_dir() and (out / "config.json").exists():
        raise ConfigError(f"'{out}' has one run: name another folder for several seeds (--run-dir).")
    budget = spec.budget
    if spec.env is not None and budget.total_timesteps is None and budget.eval_interval is None:
        # On data, the table is of returns at the end.
        spec = dataclasses.replace(spec, budget=dataclasses.replace(budget, eval_interval=budget.gradient_steps))
    specs = [dataclasses.replace(spec, seed=spec.seed + i) for i in seeds_of(options.seeds)]
    jobs = [Job(spec.algorithm, own, out / spec.algorithm / place / str(own.seed)) for own in specs]
    where = {"processes": options.processes, "ray": options.ray, "storage": options.storage}
    outcome = run_all(jobs, out, where)
    if outcome.finished:
        found = find_runs([job.folder for job in outcome.finished])
        if any(len(run.returns.steps) for run in found):
            report(found, out, None, None, measured=True)
        else:
            print("They were evaluated nowhere. Their returns in an environment: rlox evaluate RUN --env ID")
    if outcome.failures:
        fail(outcome.failures)
