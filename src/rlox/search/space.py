"""What a search tries: a range or some choices for each setting, by algorithm."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_type_hints

from rlox.core.config import ActionKind, Settings
from rlox.errors import ConfigError, suggest
from rlox.spec import RunSpec


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones if both are."""

    low: float
    high: float
    log: bool = False
    """Whether each factor, and not each difference, is equally likely."""

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (", log" if self.log else "")

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    @property
    def values(self) -> tuple[Any, ...]:
        """Both ends."""
        return self.low, self.high


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return ", ".join(map(shown, self.values))

    def __contains__(self, value: object) -> bool:
        return value in self.values


Space = dict[str, Range | Choice]

_RATE = Range(1e-4, 3e-3, log=True)
_GAMMA = Choice((0.95, 0.98, 0.99, 0.995))
_HIDDEN = Choice((64, 128, 256))
_BATCH = Choice((64, 128, 256, 512))
_TAU = Range(0.002, 0.05, log=True)
_WIDTHS = Choice(((64, 64), (128, 128), (256, 256)))
_COMMON: Space = {"learning_rate": _RATE, "gamma": _GAMMA, "hidden": _HIDDEN}

AWR_STEPS = "awr, after every step"
SPACES: dict[str, Space] = {
    "awr": {
        **_COMMON,
        "beta": Range(0.05, 5.0, log=True),
        "normalize_advantage": Choice((False, True)),
        "rollout_steps": Choice((512, 1024, 2048)),
        "n_critic_updates": Choice((100, 200, 400)),
        "n_actor_updates": Choice((200, 400, 800)),
        "td_lambda": Range(0.5, 1.0),
        "entropy_coef": Choice((0.0, 0.005, 0.02, 0.05)),
    },
    AWR_STEPS: {
        **_COMMON,
        "beta": Range(0.05, 5.0, log=True),
        "normalize_advantage": Choice((False, True)),
        "n_critic_updates": Range(1, 4),
        "tau": Choice((0.005, 0.05, 1.0)),
        "expectile": Range(0.5, 0.9),
        "entropy_coef": Choice((0.0, 0.005, 0.02, 0.05)),
    },
    "bc": {"learning_rate": _RATE, "hidden": _HIDDEN, "batch_size": _BATCH, "layer_norm": Choice((False, True))},
    "marwil": {
        **_COMMON,
        "beta": Range(0.1, 10.0, log=True),
        "rollout_steps": Choice((512, 1024, 2048)),
        "n_critic_updates": Choice((100, 200, 400)),
        "n_actor_updates": Choice((100, 200, 400)),
    },
    "awac": {
        **_COMMON,
        "beta": Range(0.1, 10.0, log=True),
        "batch_size": _BATCH,
        "tau": _TAU,
        "n_action_samples": Choice((1, 4)),
    },
    "crr": {
        **_COMMON,
        "beta": Range(0.1, 10.0, log=True),
        "batch_size": _BATCH,
        "tau": _TAU,
        "baseline": Choice(("mean", "max")),
        "n_action_samples": Choice((1, 4)),
    },
    "iql": {
        **_COMMON,
        "beta": Range(0.05, 3.0, log=True),
        "expectile": Range(0.5, 0.95),
        "batch_size": _BATCH,
        "tau": _TAU,
    },
    "mpo": {
        **_COMMON,
        "epsilon": Range(0.02, 0.5, log=True),
        "target_std": Range(0.1, 0.6),
        "target_entropy": Range(0.01, 0.5, log=True),
        "n_action_samples": Choice((4, 8, 16)),
        "tau": _TAU,
    },
    "ppo": {
        **_COMMON,
        "hidden": _WIDTHS,
        "rollout_steps": Choice((256, 512, 1024, 2048)),
        "batch_size": Choice((32, 64, 128, 256)),
        "n_epochs": Choice((4, 10, 20)),
        "td_lambda": Range(0.9, 1.0),
        "clip_range": Range(0.1, 0.4),
        "entropy_coef": Choice((0.0, 0.001, 0.01, 0.05)),
    },
    "sac": {**_COMMON, "hidden": _WIDTHS, "batch_size": _BATCH, "tau": _TAU, "train_freq": Choice((1, 4, 8))},
    "td3": {
        **_COMMON,
        "hidden": Choice(((128, 128), (256, 256), (400, 300))),
        "batch_size": _BATCH,
        "tau": _TAU,
        "policy_delay": Range(1, 3),
        "action_noise": Range(0.0, 0.5),
    },
}
"""By algorithm; awr has another one where it does not learn in rounds: on data, or with ``rollout_steps`` None."""


def space_of(base: RunSpec, fixed: Mapping[str, Any], own: Mapping[str, object], *, actions: ActionKind) -> Space:
    """Return what a search tries.

    Args:
        base: the run that it starts from. For an algorithm of your own, step size, discount and width are tried.
        fixed: settings that are not searched.
        own: what is tried of some settings, in place of the usual, as ``entry`` takes it.
        actions: their kind. What has no effect on them, or beside a setting that is not tried, is left out.

    Raises:
        ConfigError: a setting that the algorithm does not have, one that is both fixed and tried, or nothing to try.
    """
    algorithm, kind = base.algorithm, type(base.config)
    known = {field.name: field for field in dataclasses.fields(kind)}
    for name in own:
        if name not in known:
            raise ConfigError(f"'{name}' is not a setting of {algorithm}.{suggest(name, known)}")
        if name in fixed:
            raise ConfigError(
                f"'{name}' is fixed to {fixed[name]!r}, and there is a space for it: leave one of them out."
            )
    usual = SPACES.get(algorithm, _COMMON)
    if algorithm == "awr" and "rollout_steps" not in own and getattr(base.config, "rollout_steps", None) is None:
        # Rounds, as published, unless there are data, or they are turned off.
        usual = SPACES[AWR_STEPS] if base.dataset is not None or "rollout_steps" in fixed else usual
    tried = {name: values for name, values in usual.items() if name not in fixed}
    settled = {**vars(base.config), "actions": actions}
    settled = {name: value for name, value in settled.items() if name not in tried and name not in own}

    def has_effect(name: str) -> bool:
        needs = known[name].metadata.get("needs", {})
        return all(settled.get(other, wanted) == wanted for other, wanted in needs.items())

    hints = get_type_hints(kind)
    given = {name: _typed(entry(name, values), hints[name]) for name, values in own.items()}
    beside = [{}, *({name: value} for name, values in given.items() for value in values.values)]
    found = {
        name: _taken(base.config, name, values, beside, actions) for name, values in tried.items() if has_effect(name)
    }
    found = {name: values for name, values in found.items() if len(values.values) > 1} | given
    if not found:
        raise ConfigError(f"All settings that are searched ({', '.join(usual)}) are fixed: leave one of them out.")
    return found


def _taken(
    config: Settings, name: str, tried: Range | Choice, beside: Sequence[Mapping[str, Any]], actions: ActionKind
) -> Range | Choice:
    """Return what is tried of a setting, without the choices that these actions rule out beside other settings."""

    def is_taken(value: object, others: Mapping[str, Any]) -> bool:
        try:
            changed = dataclasses.replace(config, **{**others, name: value})
        except ConfigError:  # it may go with what is tried of the others
            return True
        try:
            changed.check_actions(actions)
        except ConfigError:
            return False
        return True

    if not isinstance(tried, Choice):
        return tried
    return Choice(tuple(value for value in tried.values if all(is_taken(value, others) for others in beside)))


def entry(name: str, tried: object) -> Range | Choice:
    """Return what is tried of a setting.

    Args:
        name: the setting.
        tried: a ``Range``, a ``Choice``, ``(low, high)``, ``(low, high, "log")``, a list of choices, or a text such as
            ``"0.1:10:log"`` or ``"64,128"``.

    Raises:
        ConfigError: something else, or an empty range.
    """
    if isinstance(tried, str):
        parts = tried.split(":")
        tried = tuple(map(_value, parts)) if len(parts) > 1 else [_value(part) for part in tried.split(",")]
    if isinstance(tried, Range):
        tried = (tried.low, tried.high, tried.log)
    if isinstance(tried, Choice):
        tried = list(tried.values)
    if isinstance(tried, list) and tried:
        return Choice(tuple(tuple(value) if isinstance(value, list) else value for value in tried))
    match tried:
        case (int() | float() as low, int() | float() as high, *rest) if rest in ([], ["log"], [True], [False]):
            log = rest in (["log"], [True])
            if low < high and (low > 0 or not log) and not isinstance(low, bool) and not isinstance(high, bool):
                return Range(low, high, log)
    raise ConfigError(
        f"The space of '{name}' is {tried!r}: it must be a range from a lower to a higher number, such as 0.1:10 or "
        "0.1:10:log (above 0), or choices, such as 64,128."
    )


def _typed(tried: Range | Choice, hint: Any) -> Range | Choice:
    """Return a range of a setting that is no whole number with ends that are none, such as 1 to 4 of beta."""
    if isinstance(tried, Range) and float in (hint, *get_args(hint)):
        return Range(float(tried.low), float(tried.high), tried.log)
    return tried


def check_space(space: Space, make: Callable[[dict[str, Any]], object]) -> None:
    """Refuse a space that has a value which its setting does not take, or not beside a value of another setting.

    Args:
        space: what is tried.
        make: makes a run of some settings, and raises an error if it cannot.

    Raises:
        ConfigError: as ``make`` does.
    """
    for i in range(max(len(tried.values) for tried in space.values())):
        make({name: tried.values[min(i, len(tried.values) - 1)] for name, tried in space.items()})
    first = {name: tried.values[0] for name, tried in space.items()}
    for one, other in itertools.combinations(space, 2):
        for pair in itertools.product(space[one].values, space[other].values):
            try:
                make({**first, one: pair[0], other: pair[1]})
            except ConfigError as error:
                raise ConfigError(
                    f"The space has values that do not go together: {error} Any value of one setting must go with any "
                    "of the others."
                ) from None


def shown(value: object) -> str:
    """Return a setting's value as it would be typed."""
    if isinstance(value, tuple):
        return " ".join(map(shown, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _value(text: str) -> Any:
    """Return the value that a word stands for."""
    words = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
