"""Settings: frozen dataclasses whose fields carry their own bounds and conditions, checked when one is made."""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from rlox.errors import ConfigError, suggest

C = TypeVar("C", bound="Settings")


def setting(
    default: Any,
    *,
    group: str = "Algorithm",
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    needs: Mapping[str, Any] | None = None,
    fixed: bool = False,
) -> Any:
    """Return a dataclass field.

    Args:
        default: its default.
        group: heading under which help and documentation list it.
        above: what the value (or each of its values) must be greater than.
        at_least: the least that it may be.
        at_most: the most that it may be.
        below: what it must be less than.
        needs: without these values of other settings (or of ``actions`` and ``dataset``, see ``silenced``) it has no
            effect.
        fixed: whether a run that continues has to keep it, since its state is made with it.
    """
    bounds = {"greater than": above, "at least": at_least, "at most": at_most, "less than": below}
    bounds = {rule: bound for rule, bound in bounds.items() if bound is not None}
    about = {"bounds": bounds, "group": group, "needs": dict(needs or {}), "fixed": fixed}
    return dataclasses.field(default=default, metadata=about)


_HOLDS = {
    "greater than": lambda value, bound: value > bound,
    "at least": lambda value, bound: value >= bound,
    "at most": lambda value, bound: value <= bound,
    "less than": lambda value, bound: value < bound,
}
ActionKind = Literal["discrete", "continuous"]

_steps = functools.partial(setting, group="Gradient steps")
_networks = functools.partial(setting, group="Networks", fixed=True)
_observations = functools.partial(setting, group="Observations")
_policy = functools.partial(setting, group="Policy")
_data = functools.partial(setting, group="Data, then an environment")
_env = functools.partial(setting, group="Environment")


class Settings:
    """What the frozen dataclasses of settings derive from: types and bounds of their fields, checked when one is made.

    Raises:
        ConfigError: a wrong type or a value out of range.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    # What each of them has, with a default of its own.
    learning_rate: float
    batch_size: int
    gamma: float
    hidden: int | tuple[int, ...]
    n_envs: int
    vectorization_mode: Literal["sync", "async", "envpool"]
    env_timeout: float | None

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _coerce(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
            for rule, bound in field.metadata.get("bounds", {}).items():
                for number in value if isinstance(value, tuple) else (value,):
                    if number is not None and not _HOLDS[rule](number, bound):
                        raise ConfigError(f"{field.name}={value!r} is out of range: it must be {_range(field)}.")

    def check_actions(self, actions: ActionKind) -> None:
        """Refuse what cannot be used with an environment's kind of actions.

        Args:
            actions: ``"discrete"`` or ``"continuous"``.

        Raises:
            ConfigError: a setting that cannot.
        """

    def idle(self, actions: ActionKind) -> dict[str, str]:
        """Return, for settings that others leave without effect, why ("with ..."), where ``needs`` cannot say it."""
        return {}

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each hidden layer."""
        return self.hidden if isinstance(self.hidden, tuple) else (self.hidden, self.hidden)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Settings that every algorithm of ours has."""

    # What only some algorithms have a setting for; in the others it is this.
    n_critic_updates = 1
    tau = 1.0
    batch_norm = False
    rollout_steps = None
    overlap = False
    random_episodes = 0

    learning_rate: float = _steps(3e-4, above=0)
    """Step size of actor and critic."""
    actor_learning_rate: float | None = _steps(None, above=0)
    """Step size of the actor, if it differs."""
    critic_learning_rate: float | None = _steps(None, above=0)
    """Step size of the critic, if it differs."""
    actor_decay_steps: int | None = _steps(None, at_least=1, fixed=True)
    """Gradient steps in which the actor's step size falls to 0 along a cosine; None keeps it."""
    optimizer: Literal["adam", "sgd"] = _steps("adam", fixed=True)
    """Adam, or gradient descent with momentum."""
    momentum: float = _steps(0.9, at_least=0, below=1)
    """Momentum of `sgd`; with `adam` its decay of the mean gradient, beta_1."""
    actor_tau: float = _steps(1.0, above=0, at_most=1, fixed=True)
    """Step of a Polyak copy of the actor, which evaluations, `predict` and exports use; 1 for the actor itself."""
    max_grad_norm: float | None = _steps(None, above=0, fixed=True)
    """Largest global gradient norm of actor and of critic; larger ones are scaled down."""
    batch_size: int = _steps(256, at_least=1)
    """Transitions in a minibatch."""
    gamma: float = _steps(0.99, at_least=0, at_most=1)
    """Discount factor."""

    hidden: int | tuple[int, ...] = _networks(256, at_least=1)
    """Width of the two hidden layers of actor and critic, or of each hidden layer, such as `(128, 64)`."""
    layer_norm: bool = _networks(False)
    """Layer normalisation before each activation of actor and critic."""
    network_init: Literal["he", "glorot"] = _networks("he")
    """Initial weights: He normal, or Glorot uniform with biases of 0."""
    actor_output_scale: float = _networks(0.01, above=0)
    """The actor's last layer starts uniform in +-this, with biases of 0: a policy that prefers nothing yet."""
    value_scale: float = _networks(1.0, above=0)
    """Unit of the critic's network: it predicts V / value_scale, and its loss is taken of that."""

    normalize_obs: bool = _observations(False, fixed=True)
    """Whiten observations by the running mean and standard deviation of those seen in training."""
    normalize_obs_until: int | None = _observations(None, at_least=1, needs={"normalize_obs": True})
    """Environment steps after which that normaliser is frozen; None never freezes it."""

    entropy_coef: float = _policy(0.0, at_least=0)
    """Weight of an entropy bonus in the actor's loss."""
    logit_coef: float = _policy(0.0, at_least=0, needs={"actions": "discrete"})
    """Discrete actions: weight of a penalty on large logits (half their squares)."""
    bound_coef: float = _policy(0.0, at_least=0, needs={"actions": "continuous"})
    """Continuous actions: weight of a penalty on means outside the action range (half their squared excess)."""
    learn_std: bool = _policy(True, needs={"actions": "continuous"}, fixed=True)
    """Continuous actions: learn the standard deviation; otherwise it stays `initial_std`."""
    state_dependent_std: bool = _policy(False, needs={"actions": "continuous", "learn_std": True}, fixed=True)
    """Continuous actions: learn the standard deviation as a function of the observation."""
    initial_std: float = _policy(1.0, above=0, needs={"actions": "continuous"}, fixed=True)
    """Continuous actions: the policy's first standard deviation, in units of half the action range."""
    min_std: float = _policy(0.05, above=0, needs={"actions": "continuous", "learn_std": True}, fixed=True)
    """Continuous actions: smallest standard deviation, in the same units."""
    max_std: float | None = _policy(None, above=0, needs={"actions": "continuous", "learn_std": True}, fixed=True)
    """Continuous actions: largest standard deviation, in the same units; None for no limit."""

    buffer_size: int = _env(100_000, at_least=1, fixed=True)
    """Replay capacity in transitions, shared evenly by the environments; the oldest are overwritten."""
    learning_starts: int = _env(1000, at_least=0)
    """Environment steps with random actions before the first update."""
    updates_per_step: int = _env(1, at_least=1)
    """Updates (each `n_critic_updates` critic steps and an actor step) per environment step."""
    train_freq: int = _env(1, at_least=1, needs={"rollout_steps": None})
    """Steps of the environments to a turn of updates, which are then as many as for one step."""
    n_envs: int = _env(1, at_least=1, fixed=True)
    """Environments stepped together, when `env` is an id or a callable."""
    vectorization_mode: Literal["sync", "async", "envpool"] = _env("sync")
    """How several are stepped: one after another, in processes of their own, or by EnvPool (an extra; ids only)."""

    env_timeout: float | None = _env(None, above=0, needs={"vectorization_mode": "async"})
    """Seconds that a step or a reset may take before training stops; None waits as long as it takes."""

    n_workers: int = _env(0, at_least=0, fixed=True)
    """Collectors in processes of their own, on Ray (an extra), each with `n_envs` environments; 0 steps them here."""
    publish_interval: int = _env(200, at_least=1, needs={"n_workers": True, "rollout_steps": None})
    """Gradient steps after which collectors are sent the policy; in rounds, each round sends it."""
    max_staleness: int = _env(3, at_least=1, needs={"n_workers": True})
    """Policies that collectors may be behind: the learner waits for steps where it would become more."""

    data_ratio: float = _data(0.5, at_least=0, at_most=1, needs={"dataset": True, "rollout_steps": None})
    """Share of the minibatches that comes from the data while learning from an environment."""
    data_ratio_decay: int | None = _data(None, at_least=1, needs={"dataset": True, "rollout_steps": None})
    """Environment steps in which that share falls linearly to 0; None keeps it."""
    critic_warmup_steps: int = _data(0, at_least=0, needs={"dataset": True})
    """Environment steps after offline training in which the critic learns and the actor waits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size > self.buffer_size:
            raise ConfigError(
                f"batch_size={self.batch_size} is larger than buffer_size={self.buffer_size}: the replay could never "
                "fill a minibatch. Lower batch_size or raise buffer_size."
            )
        if self.rollout_steps is not None:
            self._check_rounds(self.rollout_steps)
        if self.n_workers and self.overlap:
            raise ConfigError(
                f"overlap=True is for environments of this process: n_workers={self.n_workers} collectors step theirs "
                "while it learns anyway. Leave overlap at False."
            )
        if self.learn_std and self.initial_std <= self.min_std:
            raise ConfigError(f"initial_std={self.initial_std} must be greater than min_std={self.min_std}.")
        if self.learn_std and self.max_std is not None and self.initial_std >= self.max_std:
            raise ConfigError(f"initial_std={self.initial_std} must be less than max_std={self.max_std}.")

    def doubts_on_data(self) -> list[str]:
        """Return a sentence for each setting that may be a mistake where there are logged data, with the way out."""
        first = max((self.learning_starts, "learning_starts"), (self.rollout_steps or 0, "rollout_steps"))
        if 0 < self.critic_warmup_steps < first[0]:
            return [
                f"critic_warmup_steps={self.critic_warmup_steps} has no effect: the first update in the environment "
                f"comes after {first[1]}={first[0]} steps, which is later."
            ]
        return []

    def _check_rounds(self, rollout_steps: int) -> None:
        if rollout_steps > self.buffer_size:
            raise ConfigError(
                f"rollout_steps={rollout_steps} is larger than buffer_size={self.buffer_size}: a round would "
                "overwrite its own steps. Lower rollout_steps or raise buffer_size."
            )
        if self.tau < 1 or self.updates_per_step > 1:
            name = "tau" if self.tau < 1 else "updates_per_step"
            raise ConfigError(
                f"{name}={getattr(self, name):g} cannot be used in rounds (rollout_steps={rollout_steps}), whose "
                f"targets are frozen and whose steps n_critic_updates and n_actor_updates count: leave {name} at 1."
            )


def silenced(config: Settings, *, actions: ActionKind, dataset: bool) -> list[str]:
    """Return a sentence for each setting that was changed from its default and has no effect.

    Args:
        config: the settings.
        actions: kind of the environment's actions.
        dataset: whether there are logged data.
    """
    context = {"actions": actions, "dataset": dataset}
    idle = config.idle(actions)
    found = []
    for field in dataclasses.fields(config):
        if getattr(config, field.name) == field.default:
            continue
        for name, wanted in field.metadata.get("needs", {}).items():
            value = context[name] if name in context else getattr(config, name)
            if (bool(value) if wanted is True else value) != wanted:
                given = f"{field.name}={getattr(config, field.name)!r}"
                found.append(f"{given} has no effect {_because(name, value, wanted)}.")
                break
        else:
            if field.name in idle:
                found.append(f"{field.name}={getattr(config, field.name)!r} has no effect {idle[field.name]}.")
    return found


def _because(name: str, value: Any, wanted: Any) -> str:
    if name == "actions":
        return f"on {value} actions"
    if name == "dataset":
        return "without a dataset"
    return f"with {name}={value!r}: it needs {name}" + ("" if wanted is True and value == 0 else f"={wanted!r}")


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
    settings: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in values.items()}
    return kind(**settings)


def _coerce(name: str, value: Any, hint: Any) -> Any:
    """Return ``value`` as the plain Python type that ``hint`` asks for."""
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            options = " or ".join(repr(option) for option in typing.get_args(hint))
            raise ConfigError(f"{name}={value!r} is not known: it must be {options}.")
        return value
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        if value is None and len(kinds) < len(typing.get_args(hint)):
            return None
        if len(kinds) == 1:
            return _coerce(name, value, kinds[0])
        if kinds == [int, tuple[int, ...]]:
            return _widths(name, value)
    if value is not None and hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if hint is bool:
        if not isinstance(value, bool):
            raise _wrong_type(name, value, "True or False")
        return value
    if hint is int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong_type(name, value, "a whole number (int)")
        if abs(value) >= 2**63:
            raise ConfigError(f"{name} is out of range: it must be a whole number of 64 bits.")
        return value
    if hint is str:
        if not isinstance(value, str):
            raise _wrong_type(name, value, "a text (str)")
        return value
    if hint is not float:
        raise ConfigError(
            f"{name} has a type that settings cannot have ({hint}): annotate it as bool, int, float, str or Literal, "
            "also with '| None', or as widths: int | tuple[int, ...]."
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(name, value, "a number")
    if abs(value) > sys.float_info.max or value != value:
        raise ConfigError(f"{name}={value!r} is out of range: it must be finite.")
    return float(value)


def _widths(name: str, value: Any) -> int | tuple[int, ...]:
    """Return one width for two layers, or the width of each."""
    if not isinstance(value, tuple | list):
        return _coerce(name, value, int)
    if not value:
        raise ConfigError(f"{name}={value!r} has no layers: give a width for each, such as {name}=(64, 64).")
    return tuple(_coerce(name, width, int) for width in value)


def _wrong_type(name: str, value: Any, wanted: str) -> ConfigError:
    return ConfigError(f"{name}={value!r} has the wrong type ({type(value).__name__}): it must be {wanted}.")


def _range(field: dataclasses.Field[Any]) -> str:
    return " and ".join(f"{rule} {bound:g}" for rule, bound in field.metadata.get("bounds", {}).items())
