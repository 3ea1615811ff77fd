"""The commands of ``rlox dataset``. Each imports what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from rlox.arguments import check_seed
from rlox.cli.options import DATA, flags_to_change, take_reading, with_flags
from rlox.cli.values import check_no_effect
from rlox.data.reading import Reading
from rlox.errors import ConfigError

if TYPE_CHECKING:
    from rlox.data.dataset import Dataset

app = App(name="dataset")

Source = Annotated[str, Parameter(metavar="DATA")]
Target = Annotated[Path, Parameter(metavar="OUT")]


@with_flags(*flags_to_change([Reading], DATA))
def info(data: Source, /, *, env: str | None = None, **reading: Any) -> None:
    """Say what data hold: episodes, returns, coverage of the actions, and what is suspicious.

    Parameters
    ----------
    data
        A file (.npz, .hdf5, .h5, .parquet, .csv, .csv.gz), a Minari id or folder, or a bundled name.
    env
        Environment that the data must fit: a Gymnasium id, or module:Id, whose module is imported.
    reading
        Names of columns, and the actions.
    """
    from rlox.data.summary import format_summary

    print(format_summary(_open(data, env, reading).summary()))


@app.command(sort_key=2)
def create(
    out: Target,
    /,
    *,
    env: str | None = None,
    run: Path | None = None,
    replay: bool = False,
    n_steps: int | None = None,
    deterministic: bool = False,
    seed: int | None = None,
) -> None:
    """Record whole episodes of a random agent or of a trained policy, or write a run's replay.

    Parameters
    ----------
    out
        File to write (.npz, .hdf5), or without a suffix the folder of a Minari dataset.
    env
        Environment: a Gymnasium id, or module:Id, whose module is imported; the run's by default.
    run
        Folder of the run whose policy acts; a random agent by default.
    replay
        Write the steps that the run's replay holds, instead of new ones.
    n_steps
        Least number of steps; 10000 by default.
    deterministic
        The policy's modes; otherwise its samples, whose log-probabilities are kept.
    seed
        Of the episodes; 0 by default.
    """
    from rlox.data.formats import check_target

    check_target(out)
    if seed is not None:
        check_seed(seed)
    if replay:
        told = {"n_steps": n_steps, "deterministic": deterministic, "seed": seed}
        check_no_effect("with --replay, which writes the steps that the run kept: leave one of them out", **told)
    n_steps, seed = 10_000 if n_steps is None else n_steps, 0 if seed is None else seed
    if n_steps < 1:
        raise ConfigError(f"--n-steps {n_steps} must be at least 1.")
    if run is not None:
        dataset = _of_run(run, env, replay, n_steps, deterministic, seed)
    elif env is not None and not replay:
        check_no_effect("on a random agent: name a policy by --run, or leave it out", deterministic=deterministic)
        dataset = _of_random_agent(env, n_steps, seed)
    else:
        raise ConfigError(
            "Say what to record: --env ID for a random agent, --run RUN for a policy, or --run RUN --replay."
        )
    dataset.save(out)
    _print_written(out, dataset)


@with_flags(*flags_to_change([Reading], DATA))
def convert(data: Source, out: Target, /, *, env: str | None = None, **reading: Any) -> None:
    """Write data in another format.

    Parameters
    ----------
    data
        A file (.npz, .hdf5, .h5, .parquet, .csv, .csv.gz), a Minari id or folder, or a bundled name.
    out
        File to write (.npz, .hdf5), or without a suffix the folder of a Minari dataset.
    env
        Environment that the data are from, whose spaces are kept with them: a Gymnasium id, or module:Id.
    reading
        Names of columns, and the actions.
    """
    from rlox.data.formats import check_target

    check_target(out)
    dataset = _open(data, env, reading)
    dataset.save(out)
    _print_written(out, dataset)


app.command(info, sort_key=1)
app.command(convert, sort_key=3)


def _open(data: str, env_id: str | None, flags: dict[str, Any]) -> Dataset:
    """Return the data that flags say how to read, as those of an environment, if one is named."""
    from rlox.data.dataset import make_dataset

    dataset = make_dataset(data, take_reading(flags))
    if env_id is None:
        return dataset
    from rlox.envs.envs import make_envs

    envs = make_envs(env_id)
    envs.close()
    return dataset.within(envs.observation_space, envs.action_space)


def _of_run(run: Path, env: str | None, replay: bool, n_steps: int, deterministic: bool, seed: int) -> Dataset:
    from rlox.cli.runs import check_run
    from rlox.trainer import Trainer

    check_run(run)
    trainer = Trainer.load(run, env=env)
    return trainer.replay_dataset() if replay else trainer.record(n_steps, deterministic=deterministic, seed=seed)


def _of_random_agent(env: str, n_steps: int, seed: int) -> Dataset:
    from rlox.envs.envs import make_envs
    from rlox.policy.episodes import RandomPolicy
    from rlox.policy.recording import record

    envs = make_envs(env)
    try:
        return record(RandomPolicy(envs.observation_space, envs.action_space, seed), envs, n_steps, seed=seed)
    finally:
        envs.close()


def _print_written(out: Path, dataset: Dataset) -> None:
    returns = dataset.episode_returns
    told = f", mean return {returns.mean():.1f}" if len(returns) else ""
    print(f"Wrote {out}: {len(dataset):,} steps, {len(returns):,} whole episodes{told}.")
