"""``rlox tune``: a command for each algorithm, whose flags fix settings; the others are searched."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Group, Parameter

from rlox.algorithms.others import Other
from rlox.cli.options import add_commands, column_flags, setting_parameters, take_reading, with_flags
from rlox.cli.sources import apply_file
from rlox.cli.values import check_no_effect, check_whole_numbers
from rlox.core.algorithm import Algorithm
from rlox.data.reading import AS_IT_IS, Reading
from rlox.errors import ConfigError
from rlox.modules import flags_again

if TYPE_CHECKING:
    from rlox.search.tune import Search

SEARCH = Group("Search", sort_key=1)
SHOWN = 10
"""Trials in the table that is printed."""

app = App(
    name="tune",
    usage="Usage: rlox tune ALGORITHM --env ID --trials 50 --total-timesteps N [OPTIONS]\n"
    "\n`rlox tune awr --help` shows the flags of an algorithm, such as awr.",
    group_commands=Group("Algorithms", sort_key=0),
    config=(apply_file, check_whole_numbers),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is searched, and for how long."""

    env: str | None = None
    """Environment to learn in, or to evaluate in: a Gymnasium id, or module:Id, whose module is imported."""
    trials: int = 50
    """Settings to try in all, those of before included."""
    total_timesteps: int | None = None
    """Environment steps of each run."""
    dataset: str | None = None
    """Data to learn from first: file, a Minari id or folder, or one of `rlox list datasets`."""
    gradient_steps: int | None = None
    """Gradient steps of each run on the data."""
    space: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())] = ()
    """What is tried of settings, in place of the usual: beta=0.1:10:log td_lambda=0.5:1 hidden=64,256."""
    preset: str | None = None
    """Named set of settings to start from, paper or tuned (rlox list presets)."""
    config: Path | None = None
    """TOML file of settings that are fixed and of these options, under the flags."""
    seeds: int = 1
    """Runs of each trial, whose mean counts."""
    seed: int = 0
    """Of what is tried, and of each trial's first run."""
    prune: bool = True
    """End trials early that are behind the median of the others."""
    output: Path | None = None
    """Folder of the search; by default one under runs/."""
    processes: int | None = None
    """Runs at a time; as many as there are cores by default."""
    ray: str | None = None
    """Run on Ray: local for one on this machine, or the address of a cluster."""
    storage: str | None = None
    """Address where runs of a cluster are kept, such as s3://bucket/runs; by default its machines share --output."""
    eval_interval: int | None = None
    """Steps between evaluations; a twentieth of the run by default."""
    n_eval_episodes: int | None = None
    """Episodes of an evaluation; 10 by default."""


def add_algorithms() -> None:
    """Make a command of every algorithm that has none yet."""
    add_commands(app, _command)


def _command(name: str, algorithm: Algorithm | Other) -> Callable[..., None]:
    @with_flags(*column_flags(), *setting_parameters(name, algorithm.config))
    def run(*, options: Annotated[Options, Parameter(name="*", group=SEARCH)] = Options(), **given: Any) -> None:
        reading = take_reading(given)
        tune(name, options, given, reading)

    return run


def tune(algorithm: str, options: Options, settings: Mapping[str, Any], reading: Reading = AS_IT_IS) -> None:
    """Search, and print what it came to.

    Args:
        algorithm: its name.
        options: the search.
        settings: those that are fixed.
        reading: names of the data's columns.

    Raises:
        ConfigError: a space that is not NAME=VALUES, or as ``rlox.tune``.
    """
    from rlox.search import tune as search

    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    del given["config"]
    intervals = {name: given.pop(name) for name in ("eval_interval", "n_eval_episodes")}
    space = dict(map(_named, given.pop("space")))
    if options.dataset is None:
        check_no_effect("without data: name them by --dataset", **reading.given())
    found = search.tune(algorithm, **given, **intervals, config=settings, space=space, reading=reading, progress=True)
    _show(found, options.env)


def _named(text: str) -> tuple[str, str]:
    """Return the setting and what is tried of it.

    Raises:
        ConfigError: there is no ``=``.
    """
    name, given, tried = text.partition("=")
    if not given:
        raise ConfigError(
            f"--space {text}: write NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B, such as beta=0.1:10:log."
        )
    return name.replace("-", "_"), tried


def _show(found: Search, env: str | None) -> None:
    """Print the best trials, and what to do with them."""
    from rlox.search.results import BEST, PICTURE, REPORT, TABLE, table

    best = found.best
    space = tuple(best.settings)
    print(f"\n{table(found, space, SHOWN)}\n")
    states = [trial.outcome.state for trial in found.trials if trial.outcome]
    told = ", ".join(f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed") if state in states)
    files = ", ".join(name for name in (TABLE, REPORT, PICTURE) if (found.output / name).exists())
    print(f"{len(states)} trials: {told}. In {found.output}: {files}.")
    again = flags_again(env)
    algorithm = found.best_spec.algorithm
    settings, run = (shlex.quote(str(path)) for path in (found.output / BEST, found.best_run))
    print(f"Train with the best settings: rlox train {algorithm} --config {settings}{again} --seed 1")
    print(f"Their policy so far: rlox play {run}{again}")


add_algorithms()
