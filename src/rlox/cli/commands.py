"""The commands of the command line, each a function whose parameters are its flags.

Importing this module imports no JAX: each command imports what it needs.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rlox.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from rlox.presets import Preset

OFFLINE_STEPS = 20_000
"""Gradient steps on data where nothing else is said."""
FEW = 0.05
"""Where fewer of the episodes than this share speak for a policy, their estimate is not to be trusted."""

RunFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


def train(
    *,
    env: str | None = None,
    total_timesteps: int | None = None,
    dataset: str | None = None,
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
        dataset: Data to learn from: a file (.npz, .hdf5, .h5, .parquet), a Minari id or folder, or a bundled name
            (rlox list datasets).
        gradient_steps: Gradient steps on the data, before any environment step; 20,000 by default.
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

    if dataset is not None:
        gradient_steps = OFFLINE_STEPS if gradient_steps is None else gradient_steps
        env = env or _own_env(dataset)
    for what, source, how_long, steps in (
        ("env", env, "total-timesteps", total_timesteps),
        ("dataset", dataset, "gradient-steps", gradient_steps),
    ):
        if steps is not None and source is None:
            raise ConfigError(f"--{how_long} {steps} needs --{what} to learn from.")
    if total_timesteps is None and gradient_steps is None:
        raise ConfigError(
            "Say what to learn from and how long: --env ID --total-timesteps N, or --dataset DATA [--gradient-steps "
            "N], or all of them for the data first."
        )
    source = env if dataset is None else Path(dataset).stem
    folder = run_dir or _new_run_dir(f"{algorithm}-{str(source).replace('/', '-')}-{seed}")
    trainer = Trainer(algorithm, env, dataset=dataset, config=config, seed=seed, run_dir=folder)
    trainer.preset = preset
    settings: dict[str, Any] = {
        "n_eval_episodes": n_eval_episodes, "log_interval": log_interval, "checkpoint_interval": checkpoint_interval,
        "eval_interval": eval_interval, "progress": True,
    }  # fmt: skip
    if gradient_steps is not None:
        metrics = trainer.train_offline(gradient_steps, **settings)
        speed = metrics["gradient_steps"] / metrics["seconds"]
        told = f"{metrics['gradient_steps']:,} gradient steps in {metrics['seconds']:.1f} s"
        print(f"Learned from {dataset}: {told} ({speed:,.0f} a second).")
    if total_timesteps is not None:
        metrics = trainer.train(total_timesteps, **settings)
        speed = f"{metrics['seconds']:.1f} s ({metrics['env_steps_per_second']:,.0f} steps/s)"
        print(f"Trained {metrics['env_steps']:,} steps in {speed}.")
        recent = min(metrics["episodes"], 100)
        print(f"Mean reward of the last {recent:.0f} training episodes: {metrics['mean_reward']:.1f}")
    if env is None:
        print(f"Saved to {folder}. Its returns in an environment: rlox evaluate {folder} --env ID")
        return
    _print_evaluation(trainer.evaluate(n_eval_episodes), env)
    print(f"Saved to {folder}. Watch it: rlox play {folder}")


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


def evaluate(
    run: RunFolder,
    *,
    env: str | None = None,
    dataset: str | None = None,
    gradient_steps: int = 6_000,
    n_episodes: int = 20,
    seed: int | None = None,
    deterministic: bool = True,
) -> None:
    """Run episodes with a trained policy and print their returns, or estimate them from data before it runs.

    Args:
        run: Folder of the run.
        env: Gymnasium id of the environment; the run's by default.
        dataset: Data to estimate from without an environment, best such that the policy was not trained on.
        gradient_steps: Of the Q functions that such an estimate fits; more for long episodes.
        n_episodes: How many episodes.
        seed: Of the episodes; one that follows from the run's seed by default.
        deterministic: The policy's mode; otherwise its samples.
    """
    from rlox.trainer import Trainer

    trainer = Trainer.load(run, env=env)
    if dataset is not None:
        settings: dict[str, Any] = {"deterministic": deterministic, "gradient_steps": gradient_steps, "progress": True}
        _print_estimates(trainer.evaluate_offline(dataset, seed=seed or 0, **settings))
        if env is None:
            return
    if env is None and trainer.env_id is None:
        raise ConfigError(
            f"Run '{run}' knows of no environment: say where to evaluate it, by --env ID, or estimate it from data, by "
            "--dataset DATA."
        )
    _print_evaluation(trainer.evaluate(n_episodes, deterministic=deterministic, seed=seed), env or trainer.env_id)


def play(run: RunFolder, *, video: Path | None = None, n_episodes: int = 1, seed: int | None = None) -> None:
    """Watch a trained policy.

    Args:
        run: Folder of the run.
        video: File to write, such as out.mp4; a window is opened by default.
        n_episodes: How many episodes.
        seed: Of the episodes; the run's by default.
    """
    from rlox.policy.play import play as run_episodes
    from rlox.trainer import Trainer

    trainer = Trainer.load(run)
    if trainer.env_id is None:
        raise ConfigError(f"Run '{run}' was not trained by an environment's id: write a script around Trainer.predict.")
    episodes = run_episodes(trainer.predict, trainer.env_id, video, n_episodes, trainer.seed if seed is None else seed)
    for i, episode in enumerate(episodes, start=1):
        print(f"Episode {i}: return {episode.episode_return:.1f}, {episode.length} steps", flush=True)
    if video:
        print(f"Wrote {video}.")


def export(run: RunFolder, file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.onnx")]) -> None:
    """Write a trained policy to an ONNX file, which needs only onnxruntime to act.

    Args:
        run: Folder of the run.
        file: File to write, ending in .onnx.
    """
    from rlox.policy.onnx import N_CHECKED, can_check, signature
    from rlox.trainer import Trainer

    Trainer.load(run).export_onnx(file)
    checked = f"checked against predict in onnxruntime on {N_CHECKED} observations"
    print(f"Wrote {file}, {checked if can_check() else 'not checked: onnxruntime is not installed'}.")
    for line in signature(file):
        print(f"  {line}")


def list_(what: Annotated[str, tyro.conf.Positional] = "algorithms") -> None:
    """List the algorithms, their presets, or the bundled data.

    Args:
        what: algorithms, presets or datasets.
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
    elif what == "datasets":
        from rlox.data.bundled import bundled_names, reference
        from rlox.data.dataset import Dataset

        for name in bundled_names():
            data, made_for = Dataset.load(name), reference(name)
            mean = float(data.episode_returns.mean())
            size = f"{len(data):,} steps, {data.n_episodes} episodes"
            score = f"mean return {mean:.1f}, score {made_for.score(mean):.1f}"
            print(f"{name:26} {made_for.env:15} {size:28} {score}")
    else:
        known = ["algorithms", "presets", "datasets"]
        raise ConfigError(f"'{what}' is nothing that rlox lists.{did_you_mean(what, known)}")


def _score(preset: Preset) -> str:
    """Return what a preset reached, in words."""
    if preset.score is None:
        return ""
    score = preset.score
    seeds = f"{score.n_seeds} seeds" if score.n_seeds > 1 else "1 seed"
    return f"{score.mean_reward:8.1f} after {score.env_steps:,} steps, {score.seconds:.0f} s ({seeds})"


def _print_evaluation(result: dict[str, float], env_id: str | None) -> None:
    from rlox.data.bundled import reference_of

    print(
        f"Evaluation over {result['n_episodes']} episodes: mean {result['mean_reward']:.1f}, "
        f"std {result['std_reward']:.1f}, min {result['min_reward']:.1f}, max {result['max_reward']:.1f}, "
        f"mean length {result['mean_length']:.1f}"
    )
    if ends := reference_of(env_id):
        score, known = ends.score(result["mean_reward"]), f"(0: random actions, {ends.random}; 100: the bundled expert,"
        print(f"Normalised score: {score:.1f} {known} {ends.expert})")


def _print_estimates(found: dict[str, float]) -> None:
    """Print what data say of a policy."""

    def line(what: str, name: str, note: str) -> None:
        interval = f"(95% interval {found[f'{name}/low']:.2f} to {found[f'{name}/high']:.2f})"
        print(f"{what:28} {found[f'{name}/value']:.2f} {interval}{note}")

    print("Discounted returns from the data's first states:")
    line("  fitted Q evaluation", "fqe", "")
    if "wis/value" in found:
        share = found["wis/effective_sample_size"]
        few = ", too few to trust" if share < FEW else ""
        line("  importance sampling", "wis", f", by the weight of {share:.1%} of the episodes{few}")
    print(f"{'  the data themselves':28} {found['data/value']:.2f}")
    distance = found["behavior/action_distance"]
    print(f"Distance of the policy's actions from the data's: {distance:.3f}")
    print(f"Share of the data that its weights use: {found['weight/effective_sample_size']:.1%}")


def _new_run_dir(name: str) -> Path:
    """Return the first of runs/NAME, runs/NAME-2, ... that does not exist."""
    candidates = (Path("runs") / (name if i == 1 else f"{name}-{i}") for i in itertools.count(1))
    return next(folder for folder in candidates if not folder.exists())
