"""A search's folder: what is searched, its trials and how they ended. All else is made of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlox.errors import ConfigError, one_line
from rlox.files import whole
from rlox.plan import Job, folder_of
from rlox.runs.history import COMPARISON, read_run
from rlox.search.space import Space
from rlox.spec import RunSpec

SEARCH, TRIAL, OUTCOME = "search.json", "trial.json", "outcome.json"
_LABEL = "trial-"


class Outcome(NamedTuple):
    """How a trial ended: once, for good."""

    state: str
    """``complete``, ``pruned`` (it was behind the others) or ``failed`` (its settings cannot be learned with)."""
    value: float | None = None
    """Its return: over the last quarter of the evaluations of each seed, or where it was pruned."""
    evaluations: int = 0
    """Evaluations of its first seed that count."""
    why: str = ""
    """Why it failed."""


class Trial(NamedTuple):
    """Settings that were tried."""

    number: int
    settings: Mapping[str, Any]
    """Those that are searched."""
    jobs: tuple[Job, ...]
    """A run for each seed."""
    outcome: Outcome | None = None
    """None while it goes on."""

    @property
    def label(self) -> str:
        """Name of its folder."""
        return f"{_LABEL}{self.number:04}"

    def evaluations(self) -> dict[int, float]:
        """Return the mean return of each evaluation of the first seed, by its number from 1 on."""
        found = evaluations(self.jobs[0])
        return found if self.outcome is None else dict(list(found.items())[: self.outcome.evaluations])

    def value(self) -> float | None:
        """Return the mean over its seeds of the return in the last quarter of their evaluations."""
        each = [list(evaluations(job).values()) for job in self.jobs]
        if not all(each):
            return None
        last = [returns[-max(len(returns) // 4, 1) :] for returns in each]
        return sum(sum(own) / len(own) for own in last) / len(last)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is searched."""

    base: RunSpec
    """Of every run, but for the settings that are searched; its seed is that of each trial's first run."""
    space: Space
    seeds: int = 1
    """Runs of a trial."""
    prune: bool = True
    """Whether trials that are behind the others end early."""

    def spec(self, settings: Mapping[str, Any], seed: int | None = None) -> RunSpec:
        """Return a run with some settings.

        Raises:
            ConfigError: settings that it does not take.
        """
        base = self.base
        config = {**dataclasses.asdict(base.config), **settings}
        found = RunSpec.resolve(base.algorithm, config=config, env=base.env, dataset=base.dataset, budget=base.budget)
        seed = base.seed if seed is None else seed
        return dataclasses.replace(found, preset=base.preset, reading=base.reading, seed=seed)

    @property
    def start(self) -> dict[str, Any] | None:
        """The settings that the search starts from; None if the space does not have them."""
        config = dataclasses.asdict(self.base.config)
        found = {name: config[name] for name in self.space}
        return found if all(found[name] in tried for name, tried in self.space.items()) else None

    @property
    def n_evaluations(self) -> int:
        """Evaluations of a run, in its environment if it learns there."""
        budget = self.base.budget
        return (budget.total_timesteps or budget.gradient_steps or 0) // (budget.eval_interval or 1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: what a search that goes on has to keep."""
        base = self.base.to_dict()
        space = {f"space.{name}": str(tried) for name, tried in self.space.items()}
        values = {**base.pop("config"), **base.pop("budget"), **base, **space, "seeds": self.seeds, "prune": self.prune}
        return json.loads(json.dumps(values))


def begin(out: Path, task: Task) -> None:
    """Make a search's folder, or go on in one.

    Raises:
        ConfigError: a folder of something else, or of a search that differs.
    """
    file, now = out / SEARCH, task.to_dict()
    if file.exists():
        # A setting that a search of before does not know is of a later version.
        known = {name: now[name] for name in (*task.base.to_dict()["config"], *task.base.to_dict()["budget"])}
        was = {**known, **_read(file)}
        for name in [name for name in {**was, **now} if was.get(name) != now.get(name)]:
            raise ConfigError(
                f"'{out}' has a search with {name}={was.get(name)!r}, not {now.get(name)!r}: give this one another "
                "folder (output, --output)."
            )
    elif any(not path.name.startswith(".") for path in out.iterdir()):
        raise ConfigError(f"'{out}' holds something else than a search: name a new folder (output, --output).")
    else:
        write_json(file, now)
    if not (out / COMPARISON).exists():
        # It marks the folders of runs as LABEL/PLACE/SEED, for tables and reports.
        write_json(out / COMPARISON, {"runs": []})


def make_trial(
    out: Path, task: Task, number: int, settings: Mapping[str, Any], outcome: Outcome | None = None
) -> Trial:
    """Return a trial in a search's folder; nothing is written.

    Raises:
        ConfigError: settings that cannot be used together.
    """
    place = folder_of(task.base.env, task.base.dataset)
    label = f"{_LABEL}{number:04}"
    specs = [task.spec(settings, task.base.seed + i) for i in range(task.seeds)]
    jobs = tuple(Job(label, spec, out / label / place / str(spec.seed)) for spec in specs)
    return Trial(number, dict(settings), jobs, outcome)


def keep(out: Path, number: int, settings: Mapping[str, Any]) -> None:
    """Write what a trial tries, before it begins."""
    folder = out / f"{_LABEL}{number:04}"
    folder.mkdir(exist_ok=True)
    write_json(folder / TRIAL, {"number": number, "settings": settings})


def finish(out: Path, trial: Trial, outcome: Outcome) -> Trial:
    """Write how a trial ended; returns it with that."""
    write_json(out / trial.label / OUTCOME, outcome._asdict())
    return trial._replace(outcome=outcome)


def read_trials(out: Path, task: Task) -> dict[int, Trial]:
    """Return the trials that a folder has, by number.

    Raises:
        ConfigError: a file that is not one of a search.
    """
    found = {}
    for file in sorted(out.glob(f"{_LABEL}*/{TRIAL}")):
        values, ended = _read(file), file.with_name(OUTCOME)
        outcome = _read(ended) if ended.exists() else None
        try:
            settings = {
                name: tuple(value) if isinstance(value, list) else value for name, value in values["settings"].items()
            }
            if settings.keys() != task.space.keys():
                raise ValueError(f"it has {', '.join(settings)}")
            number = int(file.parent.name.removeprefix(_LABEL))
            found[number] = make_trial(out, task, number, settings, None if outcome is None else Outcome(**outcome))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _broken(file, error) from None
    return dict(sorted(found.items()))


def evaluations(job: Job) -> dict[int, float]:
    """Return the mean return of each evaluation of a run so far, by its number from 1 on."""
    budget = job.spec.budget
    try:
        returns = read_run(job.folder).series("eval/mean_reward", offline=budget.total_timesteps is None)
    except ConfigError:  # It has not begun.
        return {}
    # With several environments, or rounds, an evaluation is later than it is due.
    numbers = (int(step // (budget.eval_interval or 1)) for step in returns.steps)
    return dict(zip(numbers, map(float, returns.values), strict=True))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file that is in place whole, or not at all."""
    with whole(path) as side:
        side.write_text(json.dumps(values, indent=1) + "\n")


def _read(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text())
        if not isinstance(values, dict):
            raise ValueError("it is not a table")
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(file, error) from None
    return values


def _broken(file: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"'{file}' cannot be read ({one_line(error)}): remove its folder, and that trial is run again."
        if file.name != SEARCH
        else f"'{file}' cannot be read ({one_line(error)}): name a new folder (output, --output)."
    )
