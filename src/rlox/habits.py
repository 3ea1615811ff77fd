"""Words of Stable-Baselines3 and d3rlpy, and what they are called here."""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from rlox.errors import ConfigError, suggest

P = ParamSpec("P")
R = TypeVar("R")

METHODS = {
    "learn": "trainer.train(total_timesteps=...) learns from an environment, trainer.train_offline(gradient_steps=...) "
    "from data",
    "fit": "trainer.train_offline(gradient_steps=...) learns from Trainer(..., dataset=...), trainer.train("
    "total_timesteps=...) from an environment",
    "fit_online": "trainer.train(total_timesteps=...) learns from Trainer(..., env=...)",
    "save_model": "trainer.save('folder/') writes all that training needs, trainer.policy.save('policy.safetensors') "
    "the policy",
    "load_model": "rlox.Trainer.load('folder/') continues a run, rlox.Policy.load('folder/') only acts",
    "save_policy": "trainer.export_onnx('policy.onnx') writes the policy to an ONNX file",
    "set_env": "the environment is given once, as Trainer(..., env=...) or Trainer.load(path, env=...)",
    "get_env": "the environment is the one that was given as Trainer(..., env=...)",
    "save_replay_buffer": "trainer.save('folder/') keeps the replay too",
    "load_replay_buffer": "rlox.Trainer.load('folder/') has the replay of the run",
    "num_timesteps": "trainer.env_steps counts environment steps",
    "build_with_dataset": "Trainer(..., dataset=...) builds the networks",
    "build_with_env": "Trainer(..., env=...) builds the networks",
}
"""Methods and attributes of a model there."""

ARGUMENTS = {
    "policy": "networks follow from the spaces, their widths from config={'hidden': (64, 64)}",
    "policy_kwargs": "networks are set by config, such as config={'hidden': (64, 64)}",
    "verbose": "progress shows by itself in a terminal, and train(progress=False) hides it",
    "tensorboard_log": "run_dir='runs/1' is a new folder for TensorBoard events, metrics and checkpoints",
    "tb_log_name": "run_dir='runs/1' names the folder of a run",
    "device": "JAX chooses it, and the environment variable JAX_PLATFORMS=cpu keeps to the CPU",
    "callback": "callbacks are given as Trainer(..., callbacks=...)",
    "progress_bar": "it is called progress",
    "reset_num_timesteps": "a second train continues, and a new Trainer begins anew",
    "eval_env": "an environment given by its id is evaluated on one of its own: train(..., eval_interval=1000)",
    "eval_freq": "it is called eval_interval",
    "n_eval_episodes": "evaluate(n_episodes=...) and train(..., n_eval_episodes=...) take it",
    "n_steps": "train takes total_timesteps, train_offline gradient_steps",
    "n_steps_per_epoch": "intervals are log_interval and eval_interval, in steps",
    "experiment_name": "run_dir='runs/1' names the folder of a run",
    "evaluators": "train_offline(..., eval_interval=1000) evaluates in the environment, trainer.evaluate_offline(data) "
    "estimates from data",
    "n_epochs": "train_offline takes gradient_steps",
    "state": "policies have no memory: predict(obs) is enough",
    "episode_start": "policies have no memory: predict(obs) is enough",
}
"""Arguments there."""

COMMANDS = {"learn": "train", "fit": "train", "eval": "evaluate", "enjoy": "play"}
"""Commands and scripts there."""

FLAGS = {
    "policy": "Networks follow from the spaces, their widths from --hidden.",
    "verbose": "Progress shows by itself in a terminal.",
    "tensorboard_log": "TensorBoard events are in the run's folder, which --run-dir names.",
    "tb_log_name": "--run-dir names the run's folder.",
    "device": "JAX chooses it; the environment variable JAX_PLATFORMS=cpu keeps to the CPU.",
}
"""Flags of scripts there."""


def missing_attribute(owner: object, name: str) -> Any:
    """Raise the error that an attribute is missing; as ``__getattr__``.

    Raises:
        AttributeError: with our word for it, if it is known.
    """
    kind, told = type(owner).__name__, METHODS.get(name)
    said = f"{kind} has no '{name}': {told}." if told else f"'{kind}' object has no attribute '{name}'"
    raise AttributeError(said, name=name, obj=owner)


def answered(call: Callable[P, R]) -> Callable[P, R]:
    """Return an ``__init__`` or a method that answers arguments which it has not in our words, not by a ``TypeError``.

    Raises:
        ConfigError: such an argument; a setting is told its place.
    """
    known = inspect.signature(call).parameters
    owner, _, method = call.__qualname__.partition(".")
    name_of = owner if method == "__init__" else method

    @functools.wraps(call)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in kwargs.items():
            if name not in known:
                raise ConfigError(f"{name_of} has no argument '{name}'{_place_of(name, value, [*known])}")
        return call(*args, **kwargs)

    return checked


def _place_of(name: str, value: object, known: list[str]) -> str:
    """Return where something is given that is no argument."""
    if name in ARGUMENTS:
        return f": {ARGUMENTS[name]}."
    from rlox.algorithms import ALGORITHMS

    settings = {field for found in ALGORITHMS.values() for field in found.config.__dataclass_fields__}
    if name in settings:
        return f": it is a setting, config={{{name!r}: {value!r}}}."
    return f".{suggest(name, {*settings, *known})}"


def alone(predict: Callable[P, R]) -> Callable[P, R]:
    """Return a ``predict`` that refuses ``action, state = predict(obs)``, which would fail or mix up the action.

    Raises:
        ConfigError: two values are taken from an action that is not of two, or a state is given.
    """

    @functools.wraps(predict)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs.keys() & {"state", "episode_start", "mask"}:
            raise ConfigError(f"predict has no argument '{name}': {ARGUMENTS['state']}.")
        action: Any = predict(*args, **kwargs)
        if getattr(action, "shape", ())[:1] != (2,) and _takes_two(sys._getframe(1)):
            raise ConfigError("predict returns the action alone, since policies have no memory: action = predict(obs).")
        return action

    return checked


def _takes_two(frame: FrameType) -> bool:
    """Return whether a frame waits for ``predict``, which it has called by this name, to take it apart into two."""
    code, at = frame.f_code.co_code, frame.f_lasti + 2
    # Room that the interpreter keeps for itself behind a call.
    while at < len(code) and dis.opname[code[at]] == "CACHE":
        at += 2
    if at >= len(code) or dis.opname[code[at]] != "UNPACK_SEQUENCE" or code[at + 1] != 2:
        return False
    # A call begins in the source where what it calls does: `list(map(policy.predict, many))` begins at `list`.
    begins = [(line, column) for line, _, column, _ in frame.f_code.co_positions()]
    own = begins[frame.f_lasti // 2]
    return any(
        each.argval == "predict" and begins[each.offset // 2] == own for each in dis.get_instructions(frame.f_code)
    )
