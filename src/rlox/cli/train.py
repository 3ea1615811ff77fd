"""``rlox train``: a command for each algorithm, with its settings as flags."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from cyclopts import App, Group, Parameter

from rlox.algorithms import ALGORITHMS
from rlox.algorithms.others import Other
from rlox.cli.options import (
    DATA,
    RUN,
    Options,
    add_commands,
    flags_to_change,
    setting_parameters,
    take_reading,
    with_flags,
)
from rlox.cli.report import print_evaluation
from rlox.cli.seeds import check_alone, train_seeds
from rlox.cli.sources import apply_file, apply_preset
from rlox.cli.values import check_no_effect, check_whole_numbers
from rlox.core.algorithm import Algorithm
from rlox.core.config import Settings, make_config
from rlox.data.reading import ACTIONS, AS_IT_IS, Reading
from rlox.errors import ConfigError, SaveError, one_line
from rlox.files import as_name
from rlox.modules import flags_again
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
    add_commands(app, _command)


def tuned(*tokens: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]) -> None:
    """Train with the best algorithm for the environment, and its preset (rlox list presets).

    Where none was measured, that is mpo for continuous and awr for discrete actions. Takes the flags of that algorithm:
    `rlox train mpo --help`, `rlox train awr --help`.

    Raises:
        ConfigError: no environment is named.
    """
    from rlox.assemble import is_discrete
    from rlox.cli import app as whole
    from rlox.presets import TUNED, resolve_tuned

    given = [after for flag, after in itertools.pairwise([*tokens, ""]) if flag == "--env"]
    given += [token.removeprefix("--env=") for token in tokens if token.startswith("--env=")]
    if not given or not given[0]:
        raise ConfigError("rlox train tuned needs --env ID, since it is the best algorithm for an environment.")
    if any(token.partition("=")[0] == "--preset" for token in tokens):
        raise ConfigError("rlox train tuned has a preset of its own: leave out --preset, or name the algorithm.")
    algorithm, preset = resolve_tuned(TUNED, None, given[0], lambda: is_discrete(given[0], None))
    print(f"The best for {given[0]}: {algorithm}, preset {preset}.", file=sys.stderr, flush=True)
    whole(["train", algorithm, "--preset", str(preset), *tokens])


def _command(name: str, algorithm: Algorithm | Other) -> Callable[..., None]:
    @with_flags(*flags_to_change([Reading], DATA), *setting_parameters(name, algorithm.config))
    def run(*, options: Annotated[Options, Parameter(name="*", group=RUN)] = Options(), **given: Any) -> None:  # noqa: B008
        reading = take_reading(given)
        train(name, algorithm.config, options, given, reading)

    return run


def train(
    algorithm: str, kind: type[Settings], options: Options, settings: Mapping[str, Any], reading: Reading = AS_IT_IS
) -> None:
    """Train a policy, save it to a run folder and evaluate it.

    Args:
        algorithm: its name.
        kind: class of its settings.
        options: the run.
        settings: those that flags, a file or a preset gave.
        reading: what the columns of the data are called, and which actions there are.

    Raises:
        ConfigError: a setting out of range, or a run that has nothing to learn from.
    """
    from rlox.assemble import named

    config = make_config(kind, algorithm, settings)
    options = _completed(options)
    if options.dataset is None:
        check_no_effect("without data: name them by --dataset", **reading.given())
    if options.env is not None:
        bounds = {name: value for name, value in reading.given().items() if name in ACTIONS}
        check_no_effect("with an environment, which says it", **bounds)
    budget = Budget(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Budget)})
    spec = RunSpec(
        algorithm=algorithm,
        config=config,
        env=options.env,
        dataset=named(options.dataset),
        reading=reading,
        preset=options.preset,
        seed=options.seed,
        budget=budget,
    )
    if options.print_config:
        print(spec.to_toml() + _beside(options), end="")
        return
    if options.seeds is not None:
        train_seeds(spec, options)
        return
    check_alone(options, getattr(config, "n_workers", 0))
    from rlox.runs.checkpoint import exists
    from rlox.trainer import Trainer

    source = spec.env if spec.dataset is None else Path(spec.dataset).stem
    name = as_name(f"{algorithm}-{source}-{spec.seed}")
    if options.resume:
        folder = options.run_dir or _last_run_dir(name)
        if folder and exists(folder):
            with Trainer.load(folder, **_changes(folder, spec), logger=options.logger) as trainer:
                _check_continues(trainer, folder)
                _continue(trainer, folder)
            return
    folder = options.run_dir or _new_run_dir(name)
    with Trainer.from_spec(spec, logger=options.logger, run_dir=folder) as trainer:
        finish(trainer, folder)


def _beside(options: Options) -> str:
    """Return those of the options that were given and are not of the run itself, such as its folder, in TOML."""
    ours = {field.name for kind in (RunSpec, Budget) for field in dataclasses.fields(kind)} | {"config", "print_config"}
    given = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if field.name not in ours and getattr(options, field.name) != field.default
    }
    return tomli_w.dumps({name: str(value) if isinstance(value, Path) else value for name, value in given.items()})


def _changes(folder: Path, spec: RunSpec) -> dict[str, Any]:
    """Return what ``Trainer.load`` is told to continue a run by the command that started it, or one like it.

    Raises:
        ConfigError: it is the command of another run.
    """
    from rlox.runs.checkpoint import header

    was = header(folder)["spec"]
    now = {"algorithm": spec.algorithm, "env": spec.env, "dataset": spec.dataset, "seed": spec.seed}
    was, reading = {**was, **Reading(**was.get("reading", {})).given()}, spec.reading.given()
    now |= {field.name: reading.get(field.name) for field in dataclasses.fields(Reading)}
    for name, value in now.items():
        if was.get(name) != value:
            raise ConfigError(
                f"--resume: {name} is {was.get(name)!r} in '{folder}' and cannot become {value!r}: start a new run for "
                "it, in another --run-dir."
            )
    return {"env": spec.env, "config": dataclasses.asdict(spec.config), "budget": dataclasses.asdict(spec.budget)}


@with_flags(
    *flags_to_change([Budget], RUN),
    *flags_to_change((found.config for found in ALGORITHMS.values()), Group("Settings to change", sort_key=2)),
)
def resume(
    run: Annotated[Path, Parameter(metavar="RUN")],
    /,
    *,
    env: str | None = None,
    dataset: str | None = None,
    logger: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())] = (),
    **changes: Any,
) -> None:
    """Continue a run that was stopped or killed, from its latest checkpoint, as if it had never stopped.

    Parameters
    ----------
    run
        Folder of the run.
    env
        Environment, if the run's has to be named again (module:Id) or has another id here.
    dataset
        Data, if the run's are not where they were.
    logger
        Where metrics go besides the run folder: csv, trackio, wandb, mlflow. The run goes on in the same run there.
    changes
        Settings and parts of the budget that change.
    """
    from rlox.cli.runs import check_run
    from rlox.trainer import Trainer

    check_run(run)
    budget = {field.name: changes.pop(field.name) for field in dataclasses.fields(Budget) if field.name in changes}
    with Trainer.load(run, env=env, dataset=dataset, config=changes, budget=budget, logger=logger) as trainer:
        _check_continues(trainer, run)
        known = trainer.spec.budget
        if known.gradient_steps is None and known.total_timesteps is None:
            raise ConfigError(f"'{run}' has no budget to finish: say how long, such as --total-timesteps 100000.")
        _continue(trainer, run)


def _check_continues(trainer: Any, run: Path) -> None:
    if trainer.folder is None:
        raise ConfigError(
            f"'{run}' is a copy or an older checkpoint, in which no run continues: name the folder of a run."
        )


def _continue(trainer: Any, folder: Path) -> None:
    """Say where a loaded run is, and finish it."""
    at = f"{trainer.env_steps:,} environment steps and {trainer.gradient_steps:,} gradient steps"
    print(f"Continuing {folder} after {at}.", flush=True)
    if left := trainer.loggers.left:
        print(f"It was logged to {', '.join(left)} too: --logger {' '.join(left)} goes on there.", file=sys.stderr)
    finish(trainer, folder)


def finish(trainer: Any, folder: Path) -> None:
    """Learn what is left of the budget, and evaluate."""
    spec = trainer.spec
    if isinstance(ALGORITHMS[spec.algorithm], Other):
        from rlox.sb3.model import use_one_thread

        use_one_thread()
        print(f"{spec.algorithm} runs on Stable-Baselines3. PyTorch uses one thread.", flush=True)
    _learn(trainer, spec)
    failed = trainer.folder.failed
    if spec.env is not None:
        print_evaluation(trainer.evaluate(spec.budget.n_eval_episodes), spec.env)
    if failed:
        raise SaveError(f"The policy could not be saved to '{folder}': {one_line(failed)}. {trainer.folder.last_saved}")
    _show(folder)
    again = flags_again(spec.env)
    named = shlex.quote(str(folder))
    then = f"Watch it: rlox play {named}{again}"
    if spec.env is None:
        then = f"Its returns in an environment: rlox evaluate {named} --env ID{again}"
    print(f"Saved to {folder}. {then}")


def _show(folder: Path) -> None:
    """Say what is wrong with a run, as far as its records show it, and write its report."""
    from rlox.runs.diagnosis import diagnose
    from rlox.runs.history import read_run
    from rlox.runs.report import write_report

    run = read_run(folder)
    for finding in diagnose(run):
        # A command that ends has just evaluated.
        if finding.what != "Nothing was evaluated.":
            print(f"{finding.what} {finding.why} {finding.try_.replace('RUN', shlex.quote(str(folder)))}")
    try:
        print(f"Curves: {write_report([run], folder / 'report.html')}")
    except ConfigError as error:
        print(error, file=sys.stderr)


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
    before, cursor = trainer.gradient_steps, trainer.standing.cursor
    # After steps in the environment, gradient steps count those of both.
    offline = not trainer.env_steps or (cursor is not None and cursor.offline)
    if spec.budget.gradient_steps is not None and offline and before < spec.budget.gradient_steps:
        print(what_was_learned(spec, before, trainer.train_offline(progress=True)))
    elif spec.budget.gradient_steps is not None and before < spec.budget.gradient_steps:
        print("No more gradient steps are made on the data: this run learns in its environment already.")
    total = spec.budget.total_timesteps
    if total is not None and trainer.env_steps >= total:
        print(f"{trainer.env_steps:,} of {total:,} environment steps are taken: a larger --total-timesteps adds more.")
    elif total is not None:
        began = trainer.env_steps
        metrics = trainer.train(progress=True)
        speed = f"{metrics['seconds']:.1f} s ({metrics['env_steps_per_second']:,.0f} steps/s)"
        all_steps = f" ({metrics['env_steps']:,} in all)" if began else ""
        print(f"Trained {metrics['env_steps'] - began:,} steps{all_steps} in {speed}.")
        if recent := min(metrics["episodes"], 100):
            print(f"Mean reward of the last {recent:.0f} training episodes: {metrics['mean_reward']:.1f}")


def what_was_learned(spec: RunSpec, before: int, metrics: Mapping[str, float]) -> str:
    """Return a sentence about offline learning that began after ``before`` gradient steps."""
    learned = metrics["gradient_steps"] - before
    told = f"{learned:,} gradient steps in {metrics['seconds']:.1f} s"
    return f"Learned from {spec.dataset}: {told} ({learned / metrics['seconds']:,.0f} a second)."


def _run_dirs(name: str) -> Iterator[Path]:
    """Yield runs/NAME, runs/NAME-2, ..."""
    return (Path("runs") / (name if i == 1 else f"{name}-{i}") for i in itertools.count(1))


def _new_run_dir(name: str) -> Path:
    """Return the first of the folders of that name that does not exist."""
    return next(folder for folder in _run_dirs(name) if not folder.exists())


def _last_run_dir(name: str) -> Path | None:
    """Return the last of the folders of that name that exists."""
    return next(reversed(list(itertools.takewhile(Path.exists, _run_dirs(name)))), None)


app.command(tuned, sort_key=0, config=())
add_algorithms()
