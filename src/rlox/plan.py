"""What a comparison is of: settings x environments (or data) x seeds, from flags or from a TOML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlox.algorithms import find_algorithm
from rlox.arguments import check_positive
from rlox.assemble import is_discrete, named
from rlox.data.bundled import is_bundled, reference
from rlox.data.reading import ACTIONS, Reading
from rlox.envs.envs import find_spec, names_module
from rlox.errors import ConfigError, suggest
from rlox.files import as_name
from rlox.presets import TUNED, resolve_tuned
from rlox.runs.history import data_name
from rlox.spec import Budget, RunSpec

N_EVALUATIONS = 20
"""Of a run, if no interval is given."""
MOST_SEEDS = 10_000
"""Beyond it, what is meant to be a number of seeds is a seed."""
BUDGET = {field.name for field in dataclasses.fields(Budget)}
COLUMNS = [field.name for field in dataclasses.fields(Reading) if field.name not in ACTIONS]
"""How data are read. The actions are those of the environment, which there always is."""


class Job(NamedTuple):
    """A run of a comparison."""

    label: str
    """What its settings are called."""
    spec: RunSpec
    folder: Path


class Plan(NamedTuple):
    """A comparison: every setting, at every place, with every seed."""

    settings: Mapping[str, Mapping[str, Any]]
    """By label: ``algorithm``, ``preset``, and settings, parts of the budget or names of columns."""
    envs: Sequence[str]
    """Ids of environments; a single one is where data are evaluated that know no environment."""
    datasets: Sequence[str] = ()
    """Data to learn from instead."""
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    shared: Mapping[str, Any] = {}
    """Settings, parts of the budget and names of columns of every run."""
    on: Mapping[str, Mapping[str, Any]] = {}
    """Those of one place; for data also its ``env``."""
    over: Mapping[str, Any] = {}
    """Parts of the budget and names of columns that outweigh all of these."""

    def jobs(self, out: Path) -> list[Job]:
        """Return its runs, in folders ``LABEL/PLACE/SEED`` of ``out``, all settings with the first seed first.

        Raises:
            ConfigError: an unknown algorithm, preset, environment or setting, or nothing that says how long.
        """
        envs = () if self._lent else self.envs
        places = [(env, None) for env in envs] + [(None, data) for data in self.datasets]
        if not places:
            raise ConfigError("Say where to compare: env = ['CartPole-v1'] (--env), or dataset = [...] (--dataset).")
        for env in self.envs:
            find_spec(env)
        for name in self.on.keys() - {*envs, *self.datasets}:
            raise ConfigError(f"[on.\"{name}\"]: '{name}' is not among the environments and data that are compared.")
        for label in self.settings:
            if not label or label.startswith(".") or not label.isprintable() or set(label) & set("/\\:"):
                raise ConfigError(f"{label!r} cannot name settings, since it names a folder: use letters and digits.")
        folders = [folder_of(*place) for place in dict.fromkeys(places)]
        if len(set(folders)) < len(folders):
            twice = next(name for name in folders if folders.count(name) > 1)
            raise ConfigError(
                f"Two of the data are called '{twice}', which names their folder: rename one of the files."
            )
        specs = {
            (label, place): self._spec(label, *place) for place in dict.fromkeys(places) for label in self.settings
        }
        return [
            Job(label, dataclasses.replace(spec, seed=seed), out / label / folder_of(*place) / str(seed))
            for seed in self.seeds
            for (label, place), spec in specs.items()
        ]

    @property
    def _lent(self) -> str | None:
        """The environment that is named for data that know none, and is not learned in by itself."""
        lonely = [data for data in self.datasets if "env" not in self.on.get(data, {}) and env_of(data) is None]
        return self.envs[0] if lonely and len(self.envs) == 1 else None

    def _spec(self, label: str, env: str | None, data: str | None) -> RunSpec:
        given = {**self.shared, **self.on.get(env or data or "", {}), **self.settings[label], **self.over}
        given = {name: None if value == "none" else value for name, value in given.items()}
        if data is None:
            given.pop("gradient_steps", None)
            if "env" in given:
                raise ConfigError(f"'{label}' names an env of its own: environments stand at the top, as env = [...].")
        algorithm, preset = str(given.pop("algorithm", label)), given.pop("preset", None)
        env = given.pop("env", env) or env_of(data) or self._lent
        if env is None:
            raise ConfigError(
                f"'{data}' has no environment to evaluate in: name one, env = 'ID' (--env), or for each of several "
                f"data in a file, [on.\"{data}\"] env = 'ID'."
            )
        if not isinstance(env, str):
            raise ConfigError(f"env = {env!r} of '{data}' must be the id of an environment.")
        if data is None:
            algorithm, preset = resolve_tuned(algorithm, preset, env, lambda: is_discrete(env, None))
        columns = {name: given.pop(name) for name in COLUMNS if name in given}
        budget = {name: value for name, value in given.items() if name in BUDGET}
        config = {name: value for name, value in given.items() if name not in BUDGET}
        known = [field.name for field in dataclasses.fields(find_algorithm(algorithm)[1].config)]
        for name in config:
            if name not in known:
                near = suggest(name, [*known, *BUDGET, *COLUMNS])
                raise ConfigError(f"'{name}' is not a setting of {algorithm} ('{label}') or part of a budget.{near}")
        spec = RunSpec.resolve(
            algorithm,
            config=config,
            preset=preset,
            env=env,
            discrete=lambda: is_discrete(env, None),
            dataset=named(data),
            reading=Reading(**(columns if data else {})),
        )
        return dataclasses.replace(spec, budget=budget_of(label, data, budget))


def budget_of(label: str, data: str | None, given: Mapping[str, Any]) -> Budget:
    """Return how long ``label`` learns, in an environment or on data, with evaluations on the way.

    Raises:
        ConfigError: it is not said how long.
    """
    name = "gradient_steps" if data else "total_timesteps"
    steps = {each: given[each] for each in (name, "total_timesteps") if given.get(each) is not None}
    if name not in given or not steps:
        flag = name.replace("_", "-")
        raise ConfigError(f"Say how long '{label}' learns: {name} (--{flag}), such as 50000.")
    check_positive(**steps)
    # At least one in the shorter part.
    interval = min(max(max(steps.values()) // N_EVALUATIONS, 1), *steps.values())
    return Budget(**{"eval_interval": interval, **given})


def env_of(data: str | None) -> str | None:
    """Return the environment that bundled data are from; None of other data."""
    return reference(data).env if data is not None and is_bundled(data) else None


def folder_of(env: str | None, data: str | None) -> str:
    """Return what the folder of runs in an environment, or on data, is called."""
    name = str(env) if data is None else data_name(data)
    return as_name(name)


def named_settings(algorithms: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the settings that ``awr``, ``awr:tuned`` with its preset, or ``tuned``, stand for, by label.

    Raises:
        ConfigError: an unknown algorithm.
    """
    found = {}
    for entry in algorithms:
        name, _, preset = entry.strip().partition(":")
        algorithm = TUNED if name.lower() == TUNED else find_algorithm(name)[0]
        found[f"{algorithm}-{preset}" if preset else algorithm] = {"algorithm": algorithm, "preset": preset or None}
    return found


def plan_of(values: Mapping[str, Any], source: str) -> Plan:
    """Return the plan that a TOML file has.

    ``env`` and ``dataset`` are names or lists of them, ``seeds`` a number or a list; every table ``[settings.LABEL]``
    is one line of the comparison, with ``algorithm`` (the label, if left out), ``preset`` and what differs; a table
    ``[on."ENV"]`` has what differs there; the rest is of all runs.

    Raises:
        ConfigError: a value of another kind.
    """
    rest = dict(values)
    settings, on = rest.pop("settings", {}), rest.pop("on", {})
    for name, table in (("settings", settings), ("on", on)):
        if not isinstance(table, Mapping) or not all(isinstance(entry, Mapping) for entry in table.values()):
            raise ConfigError(
                f"'{source}': '{name}' must be tables, such as [{name}.{'awr' if name == 'settings' else 'ENV'}]."
            )
    if not settings:
        raise ConfigError(f"'{source}' compares nothing: add a table for each line of it, such as [settings.awr].")
    envs, datasets = (_texts(rest.pop(name, []), name, source) for name in ("env", "dataset"))
    for name, value in rest.items():
        if isinstance(value, Mapping):
            raise ConfigError(
                f"'{source}': [{name}] is not a table of a comparison, which has [settings.…] and [on.…]."
            )
    named_envs = [*envs, *(own["env"] for own in on.values() if isinstance(own.get("env"), str))]
    if modules := [env for env in named_envs if names_module(env)]:
        raise ConfigError(
            f"'{source}': '{modules[0]}' names a module, and a file never imports one: pass --env {modules[0]} instead."
        )
    seeds = seeds_of(rest.pop("seeds", 5))
    return Plan({str(label): dict(own) for label, own in settings.items()}, envs, datasets, seeds, rest, on)


def _texts(value: object, name: str, source: str) -> list[str]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ConfigError(f"'{source}': {name} = {value!r} must be a name, or a list of names.")
    return found


def seeds_of(value: object) -> list[int]:
    """Return the seeds that a number of them (from 0 on) or a list stands for.

    Raises:
        ConfigError: it is neither, or too many.
    """
    if isinstance(value, int) and value > MOST_SEEDS:
        raise ConfigError(
            f"seeds = {value} would be as many runs, but at most {MOST_SEEDS:,} are made. For one run with this seed: "
            f"--seed {value}, or seeds = [{value}] in a file."
        )
    found = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(found, list) or not found or not all(type(seed) is int and seed >= 0 for seed in found):
        raise ConfigError(f"seeds = {value!r} must be a number of seeds, or a list of whole numbers from 0 on.")
    return list(dict.fromkeys(found))
