"""Settings: frozen dataclasses whose fields carry their own bounds, checked when one is made."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from rlox.errors import ConfigError, suggest

C = TypeVar("C", bound="Config")


def setting(
    default: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    """Return a dataclass field with a default and the range that its value (or each of its values) must lie in."""
    bounds = {"greater than": above, "at least": at_least, "at most": at_most, "less than": below}
    return dataclasses.field(default=default, metadata={k: v for k, v in bounds.items() if v is not None})


_HOLDS = {
    "greater than": lambda value, bound: value > bound,
    "at least": lambda value, bound: value >= bound,
    "at most": lambda value, bound: value <= bound,
    "less than": lambda value, bound: value < bound,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings that every member of the family has."""

    # What only some members have a setting for; in the others it is this.
    n_critic_updates = 1
    tau = 1.0
    max_advantage = math.inf
    rollout_steps = None

    learning_rate: float = setting(3e-4, above=0)
    """Step size of actor and critic."""
    actor_learning_rate: float | None = setting(None, above=0)
    """Step size of the actor, where it differs."""
    critic_learning_rate: float | None = setting(None, above=0)
    """Step size of the critic, where it differs."""
    actor_decay_steps: int | None = setting(None, at_least=1)
    """Gradient steps in which the actor's step size falls to 0 along a cosine; None keeps it."""
    optimizer: Literal["adam", "sgd"] = setting("adam")
    """Adam, or gradient descent with momentum."""
    momentum: float = setting(0.9, at_least=0, below=1)
    """Momentum of `sgd`."""
    gamma: float = setting(0.99, at_least=0, at_most=1)
    """Discount factor."""
    batch_size: int = setting(256, at_least=1)
    """Transitions in a minibatch."""
    buffer_size: int = setting(100_000, at_least=1)
    """Replay capacity in transitions, shared evenly by the environments; the oldest are overwritten."""
    hidden: int = setting(256, at_least=1)
    """Width of the two hidden layers of actor and critic."""
    hidden_sizes: tuple[int, ...] = setting((), at_least=1)
    """Width of each hidden layer, for another depth or uneven widths; replaces `hidden` where given."""
    actor_hidden_sizes: tuple[int, ...] = setting((), at_least=1)
    """Width of each hidden layer of the actor, where it differs."""
    critic_hidden_sizes: tuple[int, ...] = setting((), at_least=1)
    """Width of each hidden layer of the critic, where it differs."""
    network_init: Literal["he", "glorot"] = setting("he")
    """Initial weights: He normal, or Glorot uniform with biases of 0."""
    actor_output_scale: float = setting(0.01, above=0)
    """The actor's last layer starts uniform in +-this, with biases of 0: a policy that prefers nothing yet."""
    normalize_obs: bool = setting(False)
    """Whiten observations by the running mean and standard deviation of those seen in training."""
    normalize_obs_until: int | None = setting(None, at_least=1)
    """Environment steps after which that normaliser is frozen; None never freezes it."""
    value_scale: float = setting(1.0, above=0)
    """Unit of the critic's network: it predicts V / value_scale, and its loss is taken of that."""
    data_ratio: float = setting(0.5, at_least=0, at_most=1)
    """Learning from an environment after data: share of the minibatches that comes from the data."""
    data_ratio_decay: int | None = setting(None, at_least=1)
    """Environment steps in which that share falls linearly to 0; None keeps it."""
    critic_warmup_steps: int = setting(0, at_least=0)
    """Learning from an environment after data: environment steps in which the critic learns and the actor waits."""
    learning_starts: int = setting(1000, at_least=0)
    """Environment steps with random actions before the first update."""
    updates_per_step: int = setting(1, at_least=1)
    """Updates (each `n_critic_updates` critic steps and an actor step) per environment step."""
    n_envs: int = setting(1, at_least=1)
    """Environments stepped together, when `env` is an id or a callable."""
    vectorization_mode: Literal["sync", "async", "envpool"] = setting("sync")
    """How several are stepped: one after another, in processes of their own, or by EnvPool (an extra; ids only)."""
    entropy_coef: float = setting(0.0, at_least=0)
    """Weight of an entropy bonus in the actor's loss."""
    layer_norm: bool = setting(False)
    """Layer normalisation before each activation of actor and critic."""
    max_grad_norm: float | None = setting(None, above=0)
    """Largest global gradient norm of actor and of critic; larger ones are scaled down."""
    bound_coef: float = setting(0.0, at_least=0)
    """Continuous actions: weight of a penalty on means outside the action range (half their squared excess)."""
    logit_coef: float = setting(0.0, at_least=0)
    """Discrete actions: weight of a penalty on large logits (half their squares)."""
    learn_std: bool = setting(True)
    """Continuous actions: learn the standard deviation; otherwise it stays `initial_std`."""
    state_dependent_std: bool = setting(False)
    """Continuous actions: learn the standard deviation as a function of the observation."""
    initial_std: float = setting(1.0, above=0)
    """Continuous actions: the policy's first standard deviation, in units of half the action range."""
    min_std: float = setting(0.05, above=0)
    """Continuous actions: floor under the standard deviation, in the same units."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _coerce(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
            for rule, bound in field.metadata.items():
                for number in value if isinstance(value, tuple) else (value,):
                    if number is not None and not _HOLDS[rule](number, bound):
                        raise ConfigError(f"{field.name}={value!r} is out of range: it must be {_range(field)}.")
        if self.batch_size > self.buffer_size:
            raise ConfigError(
                f"batch_size={self.batch_size} is larger than buffer_size={self.buffer_size}: the replay could never "
                "fill a minibatch. Lower batch_size or raise buffer_size."
            )
        if self.rollout_steps is not None:
            self._check_rounds(self.rollout_steps)
        if self.learn_std and self.initial_std <= self.min_std:
            raise ConfigError(f"initial_std={self.initial_std} must be greater than min_std={self.min_std}, its floor.")

    def _check_rounds(self, rollout_steps: int) -> None:
        if rollout_steps > self.buffer_size:
            raise ConfigError(
                f"rollout_steps={rollout_steps} is larger than buffer_size={self.buffer_size}: a round would "
                "overwrite its own steps. Lower rollout_steps or raise buffer_size."
            )
        if self.tau < 1 or self.updates_per_step > 1:
            name = "tau" if self.tau < 1 else "updates_per_step"
            raise ConfigError(
                f"{name}={getattr(self, name):g} has no place in rounds (rollout_steps={rollout_steps}), whose "
                f"targets are frozen and whose steps n_critic_updates and n_actor_updates count: leave {name} at 1."
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each hidden layer."""
        return self.hidden_sizes or (self.hidden, self.hidden)


def make_config(kind: type[C], algorithm: str, values: object) -> C:
    """Return a checked config of ``kind`` from a mapping, a config or nothing (the documented defaults).

    Raises:
        ConfigError: an unknown key (the nearest one is named), a wrong type or a value out of range.
    """
    if values is None:
        return kind()
    if isinstance(values, kind):
        return values
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"config is a {type(values).__name__}: {algorithm} takes a dict or {kind.__name__}(...), or None."
        )
    known = {field.name for field in dataclasses.fields(kind)}
    for key in values:
        if key in ("seed", "run_dir", "callbacks", "logger", "env"):
            raise ConfigError(f"'{key}' is not a setting of {algorithm}: pass it to Trainer itself, as {key}=....")
        if key not in known:
            raise ConfigError(f"'{key}' is not a setting of {algorithm}.{suggest(str(key), known)}")
    return kind(**values)


def _coerce(name: str, value: Any, hint: Any) -> Any:
    """Return ``value`` as the plain Python type that ``hint`` asks for."""
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            options = " or ".join(repr(option) for option in typing.get_args(hint))
            raise ConfigError(f"{name}={value!r} is not known: it must be {options}.")
        return value
    if isinstance(hint, types.UnionType):
        return None if value is None else _coerce(name, value, typing.get_args(hint)[0])
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, tuple | list):
            raise _wrong_type(name, value, "a tuple of whole numbers")
        return tuple(_coerce(name, item, typing.get_args(hint)[0]) for item in value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if hint is bool:
        if not isinstance(value, bool):
            raise _wrong_type(name, value, "True or False")
        return value
    if hint is int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong_type(name, value, "a whole number (int)")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(name, value, "a number")
    if not math.isfinite(value):
        raise ConfigError(f"{name}={value!r} is out of range: it must be finite.")
    return float(value)


def _wrong_type(name: str, value: Any, wanted: str) -> ConfigError:
    return ConfigError(f"{name}={value!r} has the wrong type ({type(value).__name__}): it must be {wanted}.")


def _range(field: dataclasses.Field[Any]) -> str:
    return " and ".join(f"{rule} {bound:g}" for rule, bound in field.metadata.items())
