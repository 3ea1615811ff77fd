"""``rlox train``: a command for each algorithm, with its settings as flags."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Group, Parameter

from rlox.algorithms import ALGORITHMS
from rlox.cli.options import RUN, Options, setting_parameters
from rlox.cli.report import describe_algorithm, print_evaluation
from rlox.cli.sources import apply_file, apply_preset
from rlox.cli.values import check_whole_numbers
from rlox.core.algorithm import Algorithm
from rlox.core.config import Config, make_config
from rlox.errors import ConfigError
from rlox.spec import Budget, RunSpec

OFFLINE_STEPS = 20_000
"""Gradient steps on data by default."""

app = App(
    name="train",
    usage="Usage: rlox train ALGORITHM --env ID --total-timesteps N [OPTIONS]\n"
    "       rlox train ALGORITHM --dataset DATA [--gradient-steps N] [--env ID] [OPTIONS]\n"
    "\n`rlox train awr --help` shows the flags of an algorithm, such as awr.",
    group_commands=Group("Algorithms", sort_key=0),
    config=(apply_file, apply_preset, check_whole_numbers),
)


def add_algorithms() -> None:
    """Make a command of every algorithm that has none yet."""
    for name, algorithm in ALGORITHMS.items():
        if name not in app:
            run = _command(name, algorithm)
            summary = describe_algorithm(algorithm.config)
            app.command(App(name=name, help=summary, default_command=run))
            app.command(App(name=name.upper(), help=summary, default_command=run, show=False))


def _command(name: str, algorithm: Algorithm) -> Callable[..., None]:
    def run(**given: Any) -> None:
        train(name, algorithm.config, given.pop("options", Options()), given)

    options = inspect.Parameter(
        "options",
        inspect.Parameter.KEYWORD_ONLY,
        default=Options(),
        annotation=Annotated[Options, Parameter(name="*", group=RUN)],
    )
    signature = inspect.Signature([options, *setting_parameters(name, algorithm.config)])
    run.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    return run


def train(algorithm: str, kind: type[Config], options: Options, settings: Mapping[str, Any]) -> None:
    """Train a policy, save it to a run folder and evaluate it.

    Args:
        algorithm: its name.
        kind: class of its settings.
        options: the run.
        settings: those that flags, a file or a preset gave.

    Raises:
        ConfigError: a setting out of range, or a run that has nothing to learn from.
    """
    config = make_config(kind, algorithm, settings)
    options = _completed(options)
    budget = Budget(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Budget)})
    spec = RunSpec(
        algorithm=algorithm,
        config=config,
        env=options.env,
        dataset=options.dataset,
        preset=options.preset,
        seed=options.seed,
        budget=budget,
    )
    if options.print_config:
        print(spec.to_toml(), end="")
        return
    from rlox.trainer import Trainer

    source = spec.env if spec.dataset is None else Path(spec.dataset).stem
    folder = options.run_dir or _new_run_dir(f"{algorithm}-{source}-{spec.seed}")
    with Trainer.from_spec(spec, run_dir=folder) as trainer:
        _finish(trainer, folder)


def resume(
    run: Annotated[Path, Parameter(metavar="RUN")], /, *, env: str | None = None, dataset: str | None = None
) -> None:
    """Continue a run that was stopped, from its latest checkpoint to the end of its budget, in a new episode.

    Parameters
    ----------
    run
        Folder of the run.
    env
        Environment, if the run's has to be named again (module:Id) or has another id here.
    dataset
        Data, if the run's are not where they were.
    """
    from rlox.trainer import Trainer

    with Trainer.load(run, env=env, dataset=dataset) as trainer:
        budget = trainer.spec.budget
        if budget.gradient_steps is None and budget.total_timesteps is None:
            raise ConfigError(f"'{run}' has no budget to finish: it was saved by Trainer.save before any training.")
        _finish(trainer, run)


def _finish(trainer: Any, folder: Path) -> None:
    """Learn what is left of the budget, and evaluate."""
    spec = trainer.spec
    _learn(trainer, spec)
    if spec.env is None:
        print(f"Saved to {folder}. Its returns in an environment: rlox evaluate {folder} --env ID")
        return
    print_evaluation(trainer.evaluate(spec.budget.n_eval_episodes), spec.env)
    again = f" --env {spec.env}" if ":" in spec.env else ""
    print(f"Saved to {folder}. Watch it: rlox play {folder}{again}")


def _completed(options: Options) -> Options:
    """Return the options with the defaults that follow from others.

    Raises:
        ConfigError: nothing to learn from, or no number of steps.
    """
    env, gradient_steps = options.env, options.gradient_steps
    if options.dataset is not None:
        gradient_steps = OFFLINE_STEPS if gradient_steps is None else gradient_steps
        env = env or _own_env(options.dataset)
    for what, source, how_long, steps in (
        ("env", env, "total-timesteps", options.total_timesteps),
        ("dataset", options.dataset, "gradient-steps", gradient_steps),
    ):
        if steps is not None and source is None:
            raise ConfigError(f"--{how_long} {steps} needs --{what} to learn from.")
    if options.total_timesteps is None and gradient_steps is None:
        raise ConfigError(
            "Say what to learn from and how long: --env ID --total-timesteps N, or --dataset DATA [--gradient-steps "
            "N], or all of them for the data first."
        )
    return dataclasses.replace(options, env=env, gradient_steps=gradient_steps)


def _own_env(dataset: str) -> str | None:
    """Return the environment that bundled data are from, if it can be made here."""
    from rlox.data.bundled import is_bundled, reference
    from rlox.envs.envs import make_envs

    if not is_bundled(dataset):
        return None
    env_id = reference(dataset).env
    try:
        make_envs(env_id).close()
    except ConfigError as error:
        print(f"There will be no evaluation: {error}", file=sys.stderr)
        return None
    return env_id


def _learn(trainer: Any, spec: RunSpec) -> None:
    """Learn from the data, then from the environment, and say how long it took."""
    before = trainer.gradient_steps
    if spec.budget.gradient_steps is not None and before < spec.budget.gradient_steps:
        metrics = trainer.train_offline(progress=True)
        learned = metrics["gradient_steps"] - before
        speed = learned / metrics["seconds"]
        told = f"{learned:,} gradient steps in {metrics['seconds']:.1f} s"
        print(f"Learned from {spec.dataset}: {told} ({speed:,.0f} a second).")
    if spec.budget.total_timesteps is not None:
        metrics = trainer.train(progress=True)
        speed = f"{metrics['seconds']:.1f} s ({metrics['env_steps_per_second']:,.0f} steps/s)"
        print(f"Trained {metrics['env_steps']:,} steps in {speed}.")
        recent = min(metrics["episodes"], 100)
        print(f"Mean reward of the last {recent:.0f} training episodes: {metrics['mean_reward']:.1f}")


def _new_run_dir(name: str) -> Path:
    """Return the first of runs/NAME, runs/NAME-2, ... that does not exist."""
    name = name.replace("/", "-").replace(":", "-")
    candidates = (Path("runs") / (name if i == 1 else f"{name}-{i}") for i in itertools.count(1))
    return next(folder for folder in candidates if not folder.exists())


add_algorithms()
