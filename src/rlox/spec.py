"""A run's specification: what it learns, with which settings, from what and how long. A value, in JSON or TOML."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, TypedDict

import numpy as np
import tomli_w

from rlox import habits
from rlox.algorithms import find_algorithm
from rlox.arguments import check_positive, check_seed
from rlox.core.config import Settings, make_config
from rlox.data.reading import AS_IT_IS, Reading
from rlox.errors import ConfigError, did_you_mean, one_line
from rlox.presets import resolve_tuned, with_preset


def evaluation_seed(seed: int) -> int:
    """Return the seed of a run's evaluations, which follows from the run's."""
    return int(np.random.SeedSequence([seed, 1]).generate_state(2)[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a run learns, and what happens on the way. Steps are environment steps, or offline gradient steps."""

    total_timesteps: int | None = None
    """Environment steps after which the run ends, from its beginning."""
    gradient_steps: int | None = None
    """Gradient steps on the data after which that part ends, from its beginning."""
    eval_interval: int | None = None
    """Steps between evaluations; None for none."""
    n_eval_episodes: int = 10
    """Episodes of an evaluation."""
    log_interval: int = 1000
    """Steps between records of metrics, and between calls of callbacks and logger."""
    checkpoint_interval: int = 10_000
    """Steps between checkpoints, if there is a run folder."""
    checkpoint_minutes: float | None = 10.0
    """Minutes after which there is a checkpoint in any case; None for never."""
    checkpoint_replay: bool = True
    """Whether checkpoints hold the replay. Without it they are small, and a run continues with an empty one."""

    def __post_init__(self) -> None:
        rest = ("checkpoint_minutes", "checkpoint_replay")
        numbers = {name: n for name, n in dataclasses.asdict(self).items() if n is not None and name not in rest}
        check_positive(**numbers)
        minutes, replay = self.checkpoint_minutes, self.checkpoint_replay
        if minutes is not None:
            if isinstance(minutes, bool) or not isinstance(minutes, Real) or not float(minutes) > 0:
                raise ConfigError(f"checkpoint_minutes={minutes!r} must be a number greater than 0, or None.")
            object.__setattr__(self, "checkpoint_minutes", float(minutes))
        # Those of NumPy are no JSON.
        for name, n in numbers.items():
            object.__setattr__(self, name, int(n))
        if not isinstance(replay, bool):
            raise ConfigError(f"checkpoint_replay={replay!r} must be True or False.")

    def extended(self, unit: str, at: int, n: int | None, how: Mapping[str, Any]) -> tuple[Budget, int]:
        """Return the budget of a training that begins, and where it ends.

        Args:
            unit: ``total_timesteps`` or ``gradient_steps``.
            at: steps so far.
            n: how many more; None finishes what is left.
            how: ``Intervals`` that change.

        Raises:
            ConfigError: an unknown name, a number below 1, or none although there is nothing to finish.
        """
        for name in how.keys() - Intervals.__annotations__.keys():
            told = f": {habits.ARGUMENTS[name]}." if name in habits.ARGUMENTS else ""
            near = told or f".{did_you_mean(name, Intervals.__annotations__)}"
            raise ConfigError(f"train has no argument '{name}'{near}")
        may_be_none = ("eval_interval", "checkpoint_minutes")
        given = {name: value for name, value in how.items() if value is not None or name in may_be_none}
        if n is not None:
            check_positive(**{unit: n})
            given[unit] = at + n
        budget = dataclasses.replace(self, **given)
        end = getattr(budget, unit)
        if end is None:
            raise ConfigError(f"Say how long to learn: {unit} is not given, and there is nothing to finish.")
        return budget, end


class Intervals(TypedDict, total=False):
    """What may be given to ``Trainer.train`` and ``train_offline``; fields of ``Budget``."""

    eval_interval: int | None
    n_eval_episodes: int | None
    log_interval: int | None
    checkpoint_interval: int | None
    checkpoint_minutes: float | None
    checkpoint_replay: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSpec:
    """All that makes a run, but for live objects (an environment, a dataset), which are passed beside it."""

    algorithm: str
    config: Settings
    """Resolved settings."""
    env: str | None = None
    """Id of the environment, if it was given by one."""
    dataset: str | None = None
    """File, Minari id or bundled name of the data, if they were given by one."""
    reading: Reading = AS_IT_IS
    """What the columns of that file are called, and which actions there are."""
    preset: str | None = None
    """The preset that settings came from; only remembered."""
    seed: int = 42
    """Covers networks, sampling, environments and random actions."""
    budget: Budget = Budget()

    def __post_init__(self) -> None:
        check_seed(self.seed)
        object.__setattr__(self, "seed", int(self.seed))

    @classmethod
    def resolve(
        cls,
        algorithm: str,
        *,
        config: Mapping[str, Any] | Settings | None = None,
        preset: str | None = None,
        env: str | None = None,
        discrete: Callable[[], bool] = lambda: False,
        **rest: Any,
    ) -> RunSpec:
        """Return a specification, its settings from ``config`` over those of ``preset`` over the defaults.

        Args:
            algorithm: a name, in any case; ``"tuned"`` is the best for the environment, with its preset.
            config: the algorithm's settings, as a dict or its dataclass.
            preset: a named set of settings.
            env: id of the environment, if it has one.
            discrete: tells whether its actions are discrete; asked if the preset has no values for the id.
            rest: other fields.

        Raises:
            ConfigError: an unknown algorithm, preset or setting, or a value out of range.
        """
        algorithm, preset = resolve_tuned(algorithm, preset, env, discrete)
        name, found = find_algorithm(algorithm)
        if preset is not None:
            config = with_preset(name, preset, env, discrete, config)
        return cls(algorithm=name, config=make_config(found.config, name, config), preset=preset, env=env, **rest)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """Return the specification that ``to_dict`` wrote.

        Raises:
            ConfigError: an algorithm or setting that is not known here, or values that are no specification.
        """
        try:
            name, found = find_algorithm(values["algorithm"])
            config = make_config(found.config, name, values["config"])
            rest = {key: values[key] for key in ("env", "dataset", "preset", "seed")}
            for key in ("env", "dataset", "preset"):
                if not isinstance(rest[key], str | None):
                    raise ConfigError(f"{key}={rest[key]!r} must be a text.")
            # Runs of before have none.
            reading = Reading(**values.get("reading", {}))
            return cls(algorithm=name, config=config, budget=Budget(**values["budget"]), reading=reading, **rest)
        except (LookupError, TypeError, AttributeError) as error:
            raise ConfigError(f"This is not the specification of a run ({one_line(error)}).") from None

    def continued(self, settings: Mapping[str, Any], budget: Mapping[str, Any]) -> RunSpec:
        """Return the specification of the same run with other settings and another budget.

        Args:
            settings: of those that a run that continues may change.
            budget: fields of ``Budget``.

        Raises:
            ConfigError: an unknown name, a value out of range, or a setting that the run's state is made with.
        """
        known = [field.name for field in dataclasses.fields(Budget)]
        for name in budget:
            if name not in known:
                raise ConfigError(f"'{name}' is no part of a budget.{did_you_mean(name, known)}")
        config = make_config(type(self.config), self.algorithm, {**dataclasses.asdict(self.config), **settings})
        for field in dataclasses.fields(config):
            was, now = getattr(self.config, field.name), getattr(config, field.name)
            if was != now and field.metadata.get("fixed"):
                raise ConfigError(
                    f"{field.name} is {was!r} in this run and cannot become {now!r}: its state is made with it. Leave "
                    f"it out, or start a new run."
                )
        return dataclasses.replace(self, config=config, budget=dataclasses.replace(self.budget, **budget))

    def to_toml(self) -> str:
        """Return the file that ``rlox train --config FILE`` takes: one level, ``"none"`` for settings of None."""
        values = self.to_dict()
        config = {name: "none" if value is None else value for name, value in values.pop("config").items()}
        budget, _ = values.pop("budget"), values.pop("reading")
        if budget["checkpoint_minutes"] is None:
            budget["checkpoint_minutes"] = "none"
        run = {**values, **self.reading.given(), **budget}
        return tomli_w.dumps({**{name: value for name, value in run.items() if value is not None}, **config})

    @classmethod
    def from_toml(cls, text: str) -> RunSpec:
        """Return the specification that ``to_toml`` wrote.

        Raises:
            ConfigError: an algorithm or setting that is not known here, or values that are no specification.
        """
        values = {name: None if value == "none" else value for name, value in tomllib.loads(text).items()}

        def part(names: Iterable[str]) -> dict[str, Any]:
            return {name: values.pop(name) for name in list(names) if name in values}

        run = {"env": None, "dataset": None, "preset": None, **part(("algorithm", "env", "dataset", "preset", "seed"))}
        parts = {
            name: part(field.name for field in dataclasses.fields(kind))
            for name, kind in (("budget", Budget), ("reading", Reading))
        }
        return cls.from_dict({**run, **parts, "config": values})
