"""What runs have left, read back: their records as series, and runs that differ only in their seed as groups."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlox.errors import ConfigError, did_you_mean, one_line
from rlox.files import writing
from rlox.runs.logs import CONFIG, METRICS, records

COMPARISON = "comparison.json"
"""Marks the folder of a comparison: below it, runs are in ``LABEL/ENV/SEED``."""

Floats = NDArray[np.float64]
T = TypeVar("T")
_COUNTERS = ("time", "env_steps", "gradient_steps")


class Series(NamedTuple):
    """One metric of one run."""

    steps: Floats
    """``(n,)``, rising: environment steps, or gradient steps where it learned offline."""
    values: Floats
    """``(n,)``."""
    seconds: Floats
    """``(n,)``: of training until then, evaluations included; nan if it is not known."""

    def at(self, step: float) -> float:
        """Return the last value up to a step; nan before the first."""
        i = int(np.searchsorted(self.steps, step, side="right")) - 1
        return float(self.values[i]) if i >= 0 else np.nan


def data_name(dataset: str) -> str:
    """Return what data are called: a file by its name, the rest as it is."""
    path = Path(dataset)
    suffix = next((suffix for suffix in _SUFFIXES if path.name.endswith(suffix)), None)
    if suffix is not None:
        return path.name.removesuffix(suffix)
    return path.name if path.is_absolute() else dataset


_SUFFIXES = (".npz", ".hdf5", ".h5", ".parquet", ".csv", ".csv.gz")


class Run(NamedTuple):
    """A run, as its folder has it."""

    path: Path
    spec: Mapping[str, Any]
    """What ``config.json`` says."""
    records: Sequence[Mapping[str, Any]]
    """Lines of ``metrics.jsonl``; what was not finite is None."""
    label: str | None = None
    """What a comparison calls its settings."""
    returned: str | None = None
    """The metric of ``returns``, if ``alike_returns`` chose one for all runs of the place."""

    @property
    def seed(self) -> int:
        """Of everything in it."""
        return int(self.spec.get("seed", 0))

    @property
    def place(self) -> str:
        """Where it learned: its data, or its environment if there are none."""
        data = self.spec.get("dataset")
        return data_name(str(data)) if data else str(self.spec.get("env") or "an environment of its own")

    @property
    def names(self) -> list[str]:
        """Metrics that it has, in the order in which they came."""
        return list(dict.fromkeys(name for record in self.records for name in record if "/" in name))

    def phase(self, *, offline: bool) -> list[Mapping[str, Any]]:
        """Return the records of learning offline, or of learning in an environment."""
        found, before = [], 0
        for record in self.records:
            # Only offline learning leaves the environment where it was.
            if (record["env_steps"] == before) == offline:
                found.append(record)
            before = record["env_steps"]
        return found

    def series(self, name: str, *, offline: bool = False) -> Series:
        """Return one metric over environment steps, or over gradient steps of learning offline."""
        unit = "gradient_steps" if offline else "env_steps"
        began = self.records[0]["time"] if self.records else 0.0
        rows = [
            # None, which becomes nan, if it is not known.
            (record[unit], record[name], record.get("time/seconds", record["time"] - began))
            for record in self.phase(offline=offline)
            if record.get(name) is not None
        ]
        return Series(*np.array(rows, np.float64).reshape(-1, 3).T)

    @property
    def learned_offline_only(self) -> bool:
        """Whether it has records, and none of an environment."""
        return bool(self.records) and not self.phase(offline=False)

    def learned_offline(self, name: str) -> bool:
        """Return whether a metric is known of learning offline only, so that its steps are gradient steps."""
        offline, online = (
            any(record.get(name) is not None for record in self.phase(offline=offline)) for offline in (True, False)
        )
        return offline and not online

    def latest(self, name: str) -> Series:
        """Return one metric of where it learned last, as far as it is known there."""
        return self.series(name, offline=self.learned_offline(name))

    @property
    def returns(self) -> Series:
        """Its evaluations' mean returns; without any, here or in a run beside it, those of training episodes."""
        return self.latest(self.return_name)

    @property
    def return_name(self) -> str:
        """The metric that ``returns`` are; that of evaluations if there will be any, also before the first."""
        if self.returned is not None:
            return self.returned
        planned = self.spec.get("budget", {}).get("eval_interval") is not None and not self.is_over
        return "eval/mean_reward" if planned or "eval/mean_reward" in self.names else "rollout/episode_return"

    @property
    def is_over(self) -> bool:
        """Whether it has taken all the steps of its budget; False if that is not known."""
        return bool(self._planned and self.records) and not self.is_short

    @property
    def is_short(self) -> bool:
        """Whether it has not taken all the steps of its budget; False if that is not known."""
        return bool(self.records) and any(self.records[-1][unit] < n for unit, n in self._planned.items())

    @property
    def _planned(self) -> dict[str, float]:
        budget = self.spec.get("budget", {})
        planned = {"env_steps": budget.get("total_timesteps"), "gradient_steps": budget.get("gradient_steps")}
        return {unit: n for unit, n in planned.items() if isinstance(n, int | float)}


def read_run(path: str | Path, label: str | None = None) -> Run:
    """Return what a run's folder holds; also while the run goes on.

    Raises:
        ConfigError: it is not the folder of a run.
    """
    folder = Path(path)
    try:
        spec = json.loads((folder / CONFIG).read_text())
        _check_spec(spec)
        found = _known(records(folder))
    except FileNotFoundError:
        raise ConfigError(f"'{path}' is not the folder of a run: it has no {CONFIG}.{_near(folder)}") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"The run '{path}' cannot be read: {one_line(error)}.") from None
    return Run(folder, spec, found, label)


def _check_spec(spec: Any) -> None:
    """Refuse settings that a run does not have.

    Raises:
        ValueError: what they are.
    """
    if not isinstance(spec, dict) or not isinstance(spec.get("algorithm"), str):
        raise ValueError("it does not name an algorithm")
    if not isinstance(spec.get("config", {}), dict) or not isinstance(spec.get("budget", {}), dict):
        raise ValueError("its settings are not a table")
    if type(spec.get("seed", 0)) is not int or not isinstance(spec.get("preset"), str | None):
        raise ValueError("its seed is not a whole number, or its preset not a name")


def _known(found: Iterable[Any], **missing: float) -> list[dict[str, float | None]]:
    """Return the numbers of those records that say when they were, with what may be missing.

    Raises:
        ValueError: one is no record.
    """
    given = list(found)
    if not all(isinstance(record, dict) for record in given):
        raise ValueError("a record is not a table")
    numbers = [{**missing, **_numbers(record)} for record in given]
    return [record for record in numbers if None not in map(record.get, _COUNTERS)]


def _numbers(record: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the numbers of a record; what is not finite is None."""
    return {name: _finite(value) for name, value in record.items() if value is None or type(value) in (int, float)}


def _finite(value: float | None) -> float | None:
    try:
        return value if value is not None and math.isfinite(value) else None
    except OverflowError:
        return None


def find_runs(paths: Iterable[str | Path]) -> list[Run]:
    """Return the runs in folders (each is a run, or has runs somewhere below it) and in files of ``write_runs``.

    Those of a comparison come in its order, others by name.

    Raises:
        ConfigError: a folder that is not there, or has no run in it; a file that is of something else.
    """
    found: dict[Path, Run] = {}
    for path in map(Path, paths):
        if path.is_file():
            found |= {path.resolve() / str(i): run for i, run in enumerate(read_runs(path))}
            continue
        order = _order(path)
        below = [file.parent for file in path.rglob(CONFIG) if (file.parent / METRICS).exists()]
        below.sort(key=lambda folder: (order.get(folder, len(order)), folder))
        for folder in below or [path]:
            found.setdefault(folder.resolve(), read_run(folder, _label(folder)))
    if not found:
        raise ConfigError("Name the folder of a run, or one that has runs below it.")
    return list(found.values())


def write_runs(path: str | Path, runs: Sequence[Run], machine: Mapping[str, Any] | None = None) -> Path:
    """Write the settings and the returns of runs to one JSON file, which ``find_runs`` reads like their folders.

    Args:
        path: the file.
        runs: the runs, from folders or from such files.
        machine: what ``describe_machine`` says of where they were measured, to be kept with them.

    Raises:
        ConfigError: it cannot be written.
    """
    kept = [
        {
            "path": "/".join(run.path.parts[-3:]),
            "label": run.label,
            "spec": {name: run.spec[name] for name in _KEPT if name in run.spec},
            "records": [
                {name: value for name, value in record.items() if name in (*_COUNTED, *_returns_to_keep(run))}
                for record in run.records
                # The last one says whether it is over.
                if any(record.get(name) is not None for name in _returns_to_keep(run)) or record is run.records[-1]
            ],
        }
        for run in runs
    ]
    with writing(Path(path)) as side:
        about = f'"machine": {json.dumps(machine)},\n' if machine else ""
        lines = ",\n".join(json.dumps(run) for run in kept)
        side.write_text(f'{{{about}"runs": [\n{lines}\n]}}\n')
    return Path(path)


_KEPT = ("algorithm", "preset", "env", "dataset", "reading", "seed", "config", "budget", "versions")
_COUNTED = ("time", "env_steps", "gradient_steps", "time/seconds")


def _returns_to_keep(run: Run) -> tuple[str, ...]:
    """Return the metrics of a run's returns; both kinds if it is compared by other ones than its own."""
    return (run.return_name,) if run.returned is None else ("eval/mean_reward", "rollout/episode_return")


def read_runs(path: Path) -> list[Run]:
    """Return the runs of a file that ``write_runs`` wrote.

    Raises:
        ConfigError: it is another file.
    """
    try:
        kept = json.loads(path.read_text())["runs"]
        for run in kept:
            _check_spec(run["spec"])
            if not isinstance(run["label"], str | None):
                raise ValueError("its label is not a name")
        # Files of before do not count the gradient steps of runs in an environment.
        return [
            Run(Path(run["path"]), run["spec"], _known(run["records"], gradient_steps=0), run["label"]) for run in kept
        ]
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise ConfigError(f"'{path}' holds no runs ({one_line(error)}): name the folder of a run.") from None


def _order(folder: Path) -> dict[Path, int]:
    """Return the place of each run in a comparison's own order, by its folder; of another folder, none."""
    try:
        names = json.loads((folder / COMPARISON).read_text())["runs"]
        return {folder / name: i for i, name in enumerate(names)}
    except (OSError, ValueError, TypeError, LookupError):
        return {}


def _label(folder: Path) -> str | None:
    above = folder.absolute().parents
    if len(above) > 2 and (above[2] / COMPARISON).exists():
        return above[1].name
    return None


def _near(folder: Path) -> str:
    here = folder.parent
    known = sorted(file.parent.name for file in here.glob(f"*/{CONFIG}")) if here.is_dir() else []
    if not known:
        return ""
    near = did_you_mean(folder.name, known)
    return near if "Did you mean" in near else f" The runs in '{here}' are {', '.join(known[:5])}."


def split(groups: Mapping[str, Sequence[Run]], kind: Callable[[Run], T | None]) -> dict[T, dict[str, list[Run]]]:
    """Return the runs of groups by their kind and then by their label; those of no kind are left out."""
    found: dict[T, dict[str, list[Run]]] = {}
    for label, runs in groups.items():
        for run in runs:
            if (own := kind(run)) is not None:
                found.setdefault(own, {}).setdefault(label, []).append(run)
    return found


def alike_returns(runs: Iterable[Run]) -> list[Run]:
    """Return runs whose returns can be compared: in a place where one has no evaluations, those of training episodes.

    The policy that is evaluated does not explore, and so has another return than its training episodes.
    """
    runs = list(runs)
    found: dict[str, list[Run]] = {}
    for run in runs:
        if len(run.returns.steps):
            found.setdefault(_source(run), []).append(run)
    trained = "rollout/episode_return"
    mixed = {
        source
        for source, own in found.items()
        if len({run.return_name for run in own}) > 1 and all(len(run.latest(trained).steps) for run in own)
    }
    return [run._replace(returned=trained) if _source(run) in mixed else run for run in runs]


def _source(run: Run) -> str:
    """Return the data or the environment that a run learned from, in full."""
    return str(run.spec.get("dataset") or run.place)


def group_runs(runs: Iterable[Run]) -> dict[str, dict[str, list[Run]]]:
    """Return runs by where they learned and then by what tells their settings apart, in the order given.

    In one place, the returns of all are of one kind (``alike_returns``).
    Data of one name are called with as many of their folders as tell them apart. A group is named by what a comparison
    calls it, or else by the algorithm and the preset. What differs between groups of one name (algorithm, preset,
    settings) follows, without values that more than half of them have.
    """
    sources: dict[str, dict[str, list[Run]]] = {}
    for run in alike_returns(runs):
        sources.setdefault(run.place, {}).setdefault(_source(run), []).append(run)
    return {
        name: _group(own)
        for place, alike in sources.items()
        for name, own in zip(_told_apart(place, list(alike)), alike.values(), strict=True)
    }


def _told_apart(place: str, sources: Sequence[str]) -> Sequence[str]:
    """Return what data are called that are all called like one place."""
    if len(sources) == 1:
        return [place]
    folders = [Path(source).parts[:-1] for source in sources]
    for n in range(1, max(map(len, folders)) + 1):
        names = [Path(*parts[max(len(parts) - n, 0) :], place).as_posix() for parts in folders]
        if len(set(names)) == len(names):
            return names
    return sources


def _completed(algorithm: str, configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return settings with those that only some have, being of a later version: they were as the default is."""
    names = {name for config in configs for name in config}
    if all(config.keys() == names for config in configs):
        return configs
    from rlox.algorithms import ALGORITHMS

    fields = ALGORITHMS[algorithm].config.__dataclass_fields__ if algorithm in ALGORITHMS else {}
    # As JSON has them: lists, no tuples.
    defaults = json.loads(json.dumps({name: fields[name].default for name in names if name in fields}))
    return [{**defaults, **config} for config in configs]


def _group(runs: list[Run]) -> dict[str, list[Run]]:
    named: dict[str, dict[tuple[str, str | None], list[Run]]] = {}
    for run in runs:
        algorithm, preset = str(run.spec["algorithm"]), run.spec.get("preset")
        name = run.label or (f"{algorithm}-{preset}" if preset else algorithm)
        named.setdefault(name, {}).setdefault((algorithm, preset), []).append(run)
    groups: dict[str, list[Run]] = {}
    for name, kinds in named.items():
        told = _differences([{"algorithm": algorithm, "preset": preset} for algorithm, preset in kinds])
        for ((algorithm, _), own), what in zip(kinds.items(), told, strict=True):
            configs = _completed(algorithm, [run.spec.get("config", {}) for run in own])
            alike = [{**config, **_beside(run)} for config, run in zip(configs, own, strict=True)]
            for run, settings in zip(own, _differences(alike), strict=True):
                group = groups.setdefault(", ".join([name, *what, *settings]), [])
                # The same run twice, or one and what it was before it went on, is not two seeds.
                twice = next((i for i, other in enumerate(group) if _is_repeated(run, other)), None)
                if twice is None:
                    group.append(run)
                elif len(run.returns.values) > len(group[twice].returns.values):
                    group[twice] = run
    return groups


def _beside(run: Run) -> dict[str, Any]:
    """Return what makes a run another one beside its settings: how its data were read, evaluated, and how long used."""
    spec, budget = run.spec, run.spec.get("budget", {})
    read = {name: value for name, value in (spec.get("reading") or {}).items() if value is not None}
    evaluated = {"env": spec.get("env")} if spec.get("dataset") else {}
    learned = {"gradient_steps": budget.get("gradient_steps")} if budget.get("total_timesteps") is not None else {}
    return {**read, **evaluated, **learned}


def _is_repeated(run: Run, other: Run) -> bool:
    n = min(len(run.returns.values), len(other.returns.values))
    if run.seed != other.seed or not n:
        return False
    return all(
        np.array_equal(ours[:n], theirs[:n]) for ours, theirs in zip(run.returns[:2], other.returns[:2], strict=True)
    )


def _differences(settings: list[dict[str, Any]]) -> list[list[str]]:
    """Return of each what tells it apart, without values that more than half of those that differ have."""
    differing = [
        name
        for name in dict.fromkeys(name for own in settings for name in own)
        if any(own.get(name) != settings[0].get(name) for own in settings)
    ]
    kinds = [own for i, own in enumerate(settings) if own not in settings[:i]]
    return [
        [
            f"{name}={own.get(name)}"
            for name in differing
            if 2 * sum(kind.get(name) == own.get(name) for kind in kinds) <= len(kinds)
        ]
        for own in settings
    ]
