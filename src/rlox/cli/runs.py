"""Commands on a trained policy. Each imports what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from rlox.arguments import check_positive, check_seed
from rlox.cli.options import DATA, flags_to_change, take_reading, with_flags
from rlox.cli.report import print_estimates, print_evaluation
from rlox.cli.values import check_no_effect
from rlox.data.reading import Reading
from rlox.errors import ConfigError

RunFolder = Annotated[Path, Parameter(metavar="RUN")]


@with_flags(*flags_to_change([Reading], DATA))
def evaluate(
    run: RunFolder,
    /,
    *,
    env: str | None = None,
    dataset: str | None = None,
    gradient_steps: int | None = None,
    n_episodes: int | None = None,
    seed: int | None = None,
    deterministic: bool = True,
    **reading: Any,
) -> None:
    """Run episodes with a trained policy and print their returns, or estimate them from data before it runs.

    Parameters
    ----------
    run
        Folder of the run.
    env
        Environment: a Gymnasium id, or module:Id, whose module is imported; the run's by default.
    dataset
        Data to estimate from without an environment, best such that the policy was not trained on.
    gradient_steps
        Of the Q functions that such an estimate fits, 6000 by default; more for long episodes.
    n_episodes
        How many episodes; 20 by default.
    seed
        Of the episodes; one that follows from the run's seed by default.
    deterministic
        The policy's mode; otherwise its samples.
    reading
        Names of the data's columns, and the actions; by default those that the run was told of its own data.
    """
    if seed is not None:
        check_seed(seed)
    how = take_reading(reading)
    if dataset is None:
        check_no_effect("without data to estimate from: name them by --dataset", **how.given())
        check_no_effect("without data to estimate from: name them by --dataset", gradient_steps=gradient_steps)
    elif env is None:
        check_no_effect("on estimates from data: for episodes too, name where by --env", n_episodes=n_episodes)
    n_episodes = 20 if n_episodes is None else n_episodes
    from rlox.assemble import load_policy
    from rlox.data.dataset import make_dataset
    from rlox.envs.envs import make_envs, mode_of_one
    from rlox.policy.episodes import evaluate as run_episodes
    from rlox.runs.checkpoint import header
    from rlox.spec import evaluation_seed
    from rlox.trainer import Trainer

    check_positive(n_episodes=n_episodes)
    if dataset is not None:
        steps = 6_000 if gradient_steps is None else gradient_steps
        settings: dict[str, Any] = {"deterministic": deterministic, "gradient_steps": steps, "progress": True}
        check_run(run)
        with Trainer.load(run, env=env) as trainer:
            data = make_dataset(dataset, how if how.given() else trainer.spec.reading, spaces_known=True)
            print_estimates(trainer.evaluate_offline(data, seed=seed or 0, **settings))
        if env is None:
            return
    policy, spec = load_policy(run), header(run)["spec"]
    env_id = _env_of(run, spec, env)
    start = evaluation_seed(spec.get("seed", 0)) if seed is None else seed
    envs = make_envs(env_id, 1, mode_of_one(spec["config"].get("vectorization_mode", "sync")), start)
    result = run_episodes(policy, envs, n_episodes, deterministic=deterministic, seed=start)
    envs.close()
    print_evaluation(result, env_id)


def check_run(path: Path) -> None:
    """Refuse a file that ``Policy.save`` wrote where a run is needed.

    Raises:
        CheckpointError: there is nothing at the path.
        ConfigError: it is such a file.
    """
    from rlox.runs.checkpoint import header, is_latest

    if not is_latest(path) and "about" in header(path):
        raise ConfigError(f"'{path}' holds a policy only: name the folder of its run.")


def _env_of(run: Path, spec: Mapping[str, Any], env: str | None) -> str:
    """Return the id of the environment to act in: the one that was named, or the run's."""
    from rlox.envs.envs import names_module, unnamed_module

    env_id = env or spec.get("env")
    if env_id is None:
        raise ConfigError(
            f"Run '{run}' was not trained in an environment with an id: say where to act, by --env ID, or estimate "
            "its returns from data, by rlox evaluate --dataset DATA."
        )
    if env is None and names_module(env_id):
        raise unnamed_module(env_id)
    return env_id


def play(
    run: RunFolder,
    /,
    *,
    env: str | None = None,
    video: Path | None = None,
    n_episodes: int = 1,
    seed: int | None = None,
) -> None:
    """Watch a trained policy.

    Parameters
    ----------
    run
        Folder of the run.
    env
        Environment: a Gymnasium id, or module:Id, whose module is imported; the run's by default.
    video
        File to write, such as out.mp4; a window is opened by default.
    n_episodes
        How many episodes.
    seed
        Of the episodes; the run's by default.
    """
    from rlox.assemble import load_policy
    from rlox.policy.play import play as run_episodes
    from rlox.runs.checkpoint import header

    check_positive(n_episodes=n_episodes)
    if seed is not None:
        check_seed(seed)
    policy, spec = load_policy(run), header(run)["spec"]
    env_id = _env_of(run, spec, env)
    episodes = run_episodes(policy, env_id, video, n_episodes, spec.get("seed", 0) if seed is None else seed)
    for i, episode in enumerate(episodes, start=1):
        print(f"Episode {i}: return {episode.episode_return:.1f}, {episode.length} steps", flush=True)
    if video:
        print(f"Wrote {video}.")


def export(run: RunFolder, file: Annotated[Path, Parameter(metavar="FILE.onnx")], /) -> None:
    """Write a trained policy to an ONNX file, which needs only onnxruntime to act.

    Parameters
    ----------
    run
        Folder of the run.
    file
        File to write, ending in .onnx.
    """
    from rlox.assemble import load_policy
    from rlox.policy.onnx import signature
    from rlox.policy.onnx_check import N_CHECKED, can_check
    from rlox.runs.checkpoint import header

    spec = header(run)["spec"]
    load_policy(run).export_onnx(file, about={name: spec.get(name) for name in ("algorithm", "env")})
    checked = f"checked against predict in onnxruntime on {N_CHECKED} observations"
    print(f"Wrote {file}, {checked if can_check() else 'not checked: onnxruntime is not installed'}.")
    for line in signature(file):
        print(f"  {line}")
