"""The command line. Flags of ``rlox train`` are generated from the settings' dataclasses.

Importing this module imports no JAX, so that ``rlox --help`` is quick; each command imports what it needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import tyro

from rlox import __version__
from rlox.errors import ConfigError, DivergedError, RloxError, did_you_mean

if TYPE_CHECKING:
    from rlox.core.config import Config
    from rlox.presets import Preset

RunFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]

_USAGE = """\
usage: rlox COMMAND ...

Advantage-weighted reinforcement learning.

commands:
  train ALGORITHM    learn from an environment, e.g. rlox train awr --env CartPole-v1 --total-timesteps 50000,
                     or from data, e.g. rlox train iql --dataset logs.npz --gradient-steps 50000
  evaluate RUN       returns of a trained policy
  play RUN           watch a trained policy, in a window or as a video
  list [presets]     the algorithms, or their presets

`rlox COMMAND --help` shows a command's flags.

options:
  -h, --help         show this help
  --version          show the version"""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 2 on bad input, 1 where training diverged, 130 where it was interrupted."""
    args = list(sys.argv[1:] if args is None else args)
    try:
        _run(args)
    except DivergedError as error:
        _fail(error, 1)
    except RloxError as error:
        _fail(error, 2)
    except KeyboardInterrupt:
        print("rlox: interrupted.", file=sys.stderr)
        sys.exit(130)


def _fail(error: Exception, code: int) -> None:
    print(f"rlox: error: {error}", file=sys.stderr)
    sys.exit(code)


def _run(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(_USAGE)
        return
    if args[0] == "--version":
        print(f"rlox {__version__}")
        return
    commands: dict[str, Callable[..., None]] = {"train": _train, "evaluate": _evaluate, "play": _play, "list": _list}
    command = commands.get(args[0])
    if command is None:
        raise ConfigError(f"'{args[0]}' is not a command of rlox.{did_you_mean(args[0], commands)}")
    if command is _train:
        _train(args[1:])
    else:
        _call(command, f"rlox {args[0]}", args[1:])


def _train(args: list[str]) -> None:
    from rlox.algorithms import ALGORITHMS, find_algorithm

    if not args or args[0] in ("-h", "--help"):
        print("usage: rlox train ALGORITHM --env ID --total-timesteps N [OPTIONS]")
        print("       rlox train ALGORITHM --dataset FILE --gradient-steps N [--env ID] [OPTIONS]\n")
        print(f"algorithms: {', '.join(ALGORITHMS)}. `rlox train {next(iter(ALGORITHMS))} --help` shows the flags.")
        return
    if args[0].startswith("-"):
        raise ConfigError(f"The first argument of `rlox train` is the algorithm, not '{args[0]}': rlox train awr ....")
    name, member = find_algorithm(args[0])
    config = _preset_config(name, member.config, args[1:])
    _call(functools.partial(_train_command, algorithm=name), f"rlox train {name}", args[1:], config=config)


def _preset_config(algorithm: str, kind: type[Config], args: list[str]) -> Config:
    """Return the settings that flags start from: the preset's that is named among them, or the defaults."""
    preset, env = (_value_of(flag, args) for flag in ("--preset", "--env"))
    if preset is None:
        return kind()
    from rlox.presets import check_preset, with_preset

    check_preset(algorithm, preset)
    if env is None:
        raise ConfigError(f"--preset {preset} needs --env: presets are values for an environment.")
    return kind(**with_preset(algorithm, preset, env, None))


def _value_of(flag: str, args: list[str]) -> str | None:
    """Return the value of a flag among arguments, as ``--flag value`` or ``--flag=value``."""
    for word, following in itertools.zip_longest(args, args[1:]):
        if word == flag:
            return following
        if word.startswith(flag + "="):
            return word.partition("=")[2]
    return None


def _train_command(
    *,
    env: str | None = None,
    total_timesteps: int | None = None,
    dataset: Path | None = None,
    gradient_steps: int | None = None,
    preset: str | None = None,
    seed: int = 42,
    run_dir: Path | None = None,
    eval_interval: int | None = None,
    n_eval_episodes: int = 20,
    log_interval: int = 1000,
    checkpoint_interval: int = 10_000,
    config: Any,
    algorithm: str,
) -> None:
    """Train a policy on an environment, on data, or on data first; save it to a run folder and evaluate it.

    Args:
        env: Gymnasium id of the environment, to learn from or to evaluate in.
        total_timesteps: Environment steps to learn from.
        dataset: File of logged data to learn from.
        gradient_steps: Gradient steps on the data, before any environment step.
        preset: Named set of settings, paper or tuned, which the other flags override (rlox list presets).
        seed: Covers networks, sampling, environments and random actions.
        run_dir: New folder for configuration, metrics and checkpoint; by default one under runs/.
        eval_interval: Environment steps between evaluations; none by default.
        n_eval_episodes: Episodes of an evaluation, and of the one at the end.
        log_interval: Environment steps between records of metrics.
        checkpoint_interval: Environment steps between checkpoints.
        config: Settings of the algorithm.
        algorithm: Its name.
    """
    from rlox.trainer import Trainer

    for what, source, how_long, steps in (
        ("env", env, "total-timesteps", total_timesteps),
        ("dataset", dataset, "gradient-steps", gradient_steps),
    ):
        if steps is not None and source is None:
            raise ConfigError(f"--{how_long} {steps} needs --{what} to learn from.")
    if total_timesteps is None and gradient_steps is None:
        raise ConfigError(
            "Say what to learn from and how long: --env ID --total-timesteps N, or --dataset FILE --gradient-steps N, "
            "or all four for the data first."
        )
    if total_timesteps is not None and dataset is not None and gradient_steps is None:
        raise ConfigError(
            f"--dataset {dataset} needs --gradient-steps: how long to learn from it before the environment."
        )
    folder = run_dir or _new_run_dir(f"{algorithm}-{(env or Path(str(dataset)).stem).replace('/', '-')}-{seed}")
    trainer = Trainer(algorithm, env, dataset=dataset, config=config, seed=seed, run_dir=folder)
    trainer.preset = preset
    settings: dict[str, Any] = {
        "n_eval_episodes": n_eval_episodes, "log_interval": log_interval, "checkpoint_interval": checkpoint_interval,
        "eval_interval": eval_interval, "progress": True,
    }  # fmt: skip
    if gradient_steps is not None:
        metrics = trainer.train_offline(gradient_steps, **settings)
        speed = metrics["gradient_steps"] / metrics["seconds"]
        done = f"{metrics['gradient_steps']:,} gradient steps in {metrics['seconds']:.1f} s"
        print(f"Learned from {dataset}: {done} ({speed:,.0f} a second).")
    if total_timesteps is not None:
        metrics = trainer.train(total_timesteps, **settings)
        speed = f"{metrics['seconds']:.1f} s ({metrics['env_steps_per_second']:,.0f} steps/s)"
        print(f"Trained {metrics['env_steps']:,} steps in {speed}.")
        recent = min(metrics["episodes"], 100)
        print(f"Mean reward of the last {recent:.0f} training episodes: {metrics['mean_reward']:.1f}")
    if env is None:
        print(f"Saved to {folder}. Its returns in an environment: rlox evaluate {folder} --env ID")
        return
    _print_evaluation(trainer.evaluate(n_eval_episodes))
    print(f"Saved to {folder}. Watch it: rlox play {folder}")


def _evaluate(
    run: RunFolder,
    *,
    env: str | None = None,
    n_episodes: int = 20,
    seed: int | None = None,
    deterministic: bool = True,
) -> None:
    """Run episodes with a trained policy and print their returns.

    Args:
        run: Folder of the run.
        env: Gymnasium id of the environment; the run's by default.
        n_episodes: How many episodes.
        seed: Of the episodes; one that follows from the run's seed by default.
        deterministic: The policy's mode; otherwise its samples.
    """
    from rlox.trainer import Trainer

    trainer = Trainer.load(run, env=env)
    if env is None and trainer.env_id is None:
        raise ConfigError(f"Run '{run}' knows of no environment: say where to evaluate it, by --env ID.")
    _print_evaluation(trainer.evaluate(n_episodes, deterministic=deterministic, seed=seed))


def _play(run: RunFolder, *, video: Path | None = None, n_episodes: int = 1, seed: int | None = None) -> None:
    """Watch a trained policy.

    Args:
        run: Folder of the run.
        video: File to write, such as out.mp4; a window is opened by default.
        n_episodes: How many episodes.
        seed: Of the episodes; the run's by default.
    """
    from rlox.runs.play import play
    from rlox.trainer import Trainer

    trainer = Trainer.load(run)
    if trainer.env_id is None:
        raise ConfigError(f"Run '{run}' was not trained by an environment's id: write a script around Trainer.predict.")
    episodes = play(trainer.predict, trainer.env_id, video, n_episodes, trainer.seed if seed is None else seed)
    for i, episode in enumerate(episodes, start=1):
        print(f"Episode {i}: return {episode.episode_return:.1f}, {episode.length} steps", flush=True)
    if video:
        print(f"Wrote {video}.")


def _list(what: Annotated[str, tyro.conf.Positional] = "algorithms") -> None:
    """List the algorithms, or their presets.

    Args:
        what: algorithms or presets.
    """
    if what == "algorithms":
        from rlox.algorithms import ALGORITHMS

        for name, member in ALGORITHMS.items():
            print(f"{name:8} {(member.config.__doc__ or '').splitlines()[0]}")
    elif what == "presets":
        from rlox.presets import PRESETS

        for algorithm, presets in PRESETS.items():
            for name, environments in presets.items():
                for env, preset in environments.items():
                    print(f"{algorithm:8} {name:8} {env:28} {_score(preset)}".rstrip())
    else:
        raise ConfigError(f"'{what}' is nothing that rlox lists.{did_you_mean(what, ['algorithms', 'presets'])}")


def _score(preset: Preset) -> str:
    """Return what a preset reached, in words."""
    if preset.score is None:
        return ""
    score = preset.score
    seeds = f"{score.n_seeds} seeds" if score.n_seeds > 1 else "1 seed"
    return f"{score.mean_reward:8.1f} after {score.env_steps:,} steps, {score.seconds:.0f} s ({seeds})"


def _print_evaluation(result: dict[str, float]) -> None:
    print(
        f"Evaluation over {result['n_episodes']} episodes: mean {result['mean_reward']:.1f}, "
        f"std {result['std_reward']:.1f}, min {result['min_reward']:.1f}, max {result['max_reward']:.1f}, "
        f"mean length {result['mean_length']:.1f}"
    )


def _new_run_dir(name: str) -> Path:
    """Return the first of runs/NAME, runs/NAME-2, ... that does not exist."""
    candidates = (Path("runs") / (name if i == 1 else f"{name}-{i}") for i in itertools.count(1))
    return next(folder for folder in candidates if not folder.exists())


def _call(command: Callable[..., None], prog: str, args: list[str], config: Config | None = None) -> None:
    """Call ``command`` with the flags in ``args``, and with ``config`` as flags of its own change it.

    Raises:
        ConfigError: an unknown flag (the nearest is named), a missing one, or a value of the wrong type.
    """
    function = command.func if isinstance(command, functools.partial) else command
    hints = {name: hint for name, hint in get_type_hints(function, include_extras=True).items() if name != "return"}
    fixed = command.keywords if isinstance(command, functools.partial) else {}
    parameters = [p.replace(annotation=hints[p.name]) for p in inspect.signature(function).parameters.values()]
    parameters = [p for p in parameters if p.name not in fixed]
    if config:
        parameters = [
            p.replace(annotation=Annotated[type(config), tyro.conf.arg(name="")], default=config)
            if p.name == "config"
            else p
            for p in parameters
        ]

    def collect(*values: Any, **named: Any) -> Callable[[], None]:
        return functools.partial(command, *values, **named)

    collect.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    collect.__annotations__ = {p.name: p.annotation for p in parameters}
    collect.__doc__ = function.__doc__
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages), _wide(not {"-h", "--help"} & set(args)):
            call, unknown = tyro.cli(collect, prog=prog, args=args, return_unknown_args=True)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(f"{_first_sentence(messages.getvalue())} See `{prog} --help`.") from None
    if unknown:
        flag = next((word for word in unknown if word.startswith("-")), unknown[0]).split("=")[0]
        names = [p.name for p in parameters] + [field.name for field in (dataclasses.fields(config) if config else ())]
        known = ["--" + name.replace("_", "-") for name in names if name != "config"]
        raise ConfigError(f"'{flag}' is not a flag of `{prog}`.{did_you_mean(flag, known)}")
    call()


@contextlib.contextmanager
def _wide(active: bool) -> Iterator[None]:
    """Make tyro think that the terminal is wide, so that its messages are not wrapped."""
    before = os.environ.get("COLUMNS")
    if active:
        os.environ["COLUMNS"] = "2000"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = before


def _first_sentence(box: str) -> str:
    """Return the message in one of tyro's boxes, without its frame, its title and its help text."""
    lines = [line.strip("│╭╮╰╯─ ") for line in box.splitlines()]
    message = itertools.takewhile(bool, itertools.dropwhile(lambda line: not line, lines[1:]))
    return " ".join(" ".join(message).split()).rstrip(".") + "."
