"""Named sets of settings, as data: how the authors ran AWR, and what does best here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlox.core.config import Settings
from rlox.errors import ConfigError, did_you_mean

# The released code's schedule. Its critic loss is half the squared error, so that its step of 0.01 is 0.005 here.
_PAPER_COMMON: dict[str, Any] = {
    "rollout_steps": 2048,
    "n_critic_updates": 200,
    "n_actor_updates": 1000,
    "td_lambda": 0.95,
    "normalize_advantage": True,
    "beta": 1.0,
    "max_advantage": 20.0,
    "gamma": 0.99,
    "batch_size": 256,
    "buffer_size": 50_000,
    "learning_starts": 0,
    "hidden": (128, 64),
    "network_init": "glorot",
    "actor_output_scale": 0.01,
    "optimizer": "sgd",
    "momentum": 0.9,
    "critic_learning_rate": 0.005,
    "value_scale": 100.0,
    "normalize_obs": True,
    "normalize_obs_until": 300_000,
}
_PAPER = _PAPER_COMMON | {"learn_std": False, "initial_std": 0.4, "bound_coef": 10.0}
_PAPER_DISCRETE = _PAPER_COMMON | {
    "actor_learning_rate": 5e-4,
    "logit_coef": 0.001,
    "normalize_obs_until": 100_000,
}

# Shorter returns, sharper weights and Adam: by trial, docs/benchmarks.md.
_TUNED: dict[str, Any] = _PAPER | {
    "n_envs": 16,
    "optimizer": "adam",
    "actor_learning_rate": 1e-4,
    "critic_learning_rate": 1e-3,
    "td_lambda": 0.6,
    "beta": 0.25,
}
# Small networks and raw observations for classic control.
_TUNED_SMALL: dict[str, Any] = {
    "n_envs": 16,
    "rollout_steps": 1024,
    "n_critic_updates": 400,
    "n_actor_updates": 400,
    "td_lambda": 0.95,
    "beta": 3.0,
    "buffer_size": 20_000,
    "learning_starts": 0,
    "hidden": 64,
    "learning_rate": 1e-3,
}
_TUNED_SMALL_CONTINUOUS = {"n_critic_updates": 200, "normalize_advantage": True, "beta": 0.5, "td_lambda": 0.9}

OTHER_CONTINUOUS, OTHER_DISCRETE = "other, continuous actions", "other, discrete actions"

PRESETS: dict[str, dict[str, dict[str, dict[str, Any]]]] = {
    "awr": {
        "paper": {
            "Ant-v5": _PAPER | {"actor_learning_rate": 5e-5, "initial_std": 0.2},
            "HalfCheetah-v5": _PAPER | {"n_envs": 16, "actor_learning_rate": 5e-5},
            "Hopper-v5": _PAPER | {"n_envs": 8, "actor_learning_rate": 1e-4},
            "Humanoid-v5": _PAPER | {"actor_learning_rate": 1e-5},
            "Walker2d-v5": _PAPER | {"actor_learning_rate": 2.5e-5},
            "LunarLander-v3": _PAPER_DISCRETE | {"n_envs": 8},
            OTHER_CONTINUOUS: _PAPER | {"actor_learning_rate": 5e-5},
            OTHER_DISCRETE: _PAPER_DISCRETE,
        },
        "tuned": {
            "Ant-v5": _TUNED | {"initial_std": 0.2},
            "HalfCheetah-v5": _TUNED,
            "Hopper-v5": _PAPER | {"n_envs": 8, "actor_learning_rate": 1e-4},
            "Humanoid-v5": _TUNED,
            "Walker2d-v5": _TUNED | {"initial_std": 0.3},
            "BipedalWalker-v3": _TUNED,
            "InvertedDoublePendulum-v5": _TUNED | {"td_lambda": 0.7, "beta": 0.4},
            "LunarLander-v3": _PAPER_DISCRETE | {"n_envs": 8, "rollout_steps": 1024},
            "CartPole-v1": _TUNED_SMALL
            | {"n_envs": 8, "n_actor_updates": 500, "buffer_size": 5000, "td_lambda": 0.98, "entropy_coef": 0.02},
            "Acrobot-v1": _TUNED_SMALL | {"rollout_steps": 2048, "n_actor_updates": 300, "entropy_coef": 0.05},
            "MountainCarContinuous-v0": _TUNED_SMALL
            | _TUNED_SMALL_CONTINUOUS
            | {
                "n_envs": 64,
                "rollout_steps": 2048,
                "n_actor_updates": 200,
                "actor_learning_rate": 3e-4,
                "buffer_size": 50_000,
                "td_lambda": 0.95,
                "normalize_obs": True,
                "value_scale": 100.0,
                "learn_std": False,
                "initial_std": 3.0,
            },
            "Pendulum-v1": _TUNED_SMALL | _TUNED_SMALL_CONTINUOUS | {"n_envs": 8, "gamma": 0.95, "value_scale": 20.0},
            OTHER_CONTINUOUS: _TUNED,
            OTHER_DISCRETE: _TUNED_SMALL | {"rollout_steps": 2048, "entropy_coef": 0.05},
        },
    },
    "mpo": {
        # Its defaults: one set for all of them, but for the discount, of a task whose steps are 50 ms apart, and of one
        # in which hovering would pay. In that with continuous actions, one seed of three crashes with 8 samples.
        "tuned": {
            "Ant-v5": {},
            "HalfCheetah-v5": {},
            "Hopper-v5": {},
            "Walker2d-v5": {},
            "CartPole-v1": {},
            "Pendulum-v1": {"gamma": 0.95},
            "LunarLander-v3": {"gamma": 0.997},
            "LunarLanderContinuous-v3": {"gamma": 0.997, "n_action_samples": 16},
            OTHER_CONTINUOUS: {},
            OTHER_DISCRETE: {},
        },
    },
}

TUNED = "tuned"
"""Stands for the best algorithm of an environment with its preset of this name."""
BEST = {
    "Ant-v5": "mpo",
    "HalfCheetah-v5": "mpo",
    "Hopper-v5": "mpo",
    "Walker2d-v5": "mpo",
    "CartPole-v1": "awr",
    "Acrobot-v1": "awr",
    "MountainCarContinuous-v0": "awr",
    "Pendulum-v1": "awr",
    "InvertedDoublePendulum-v5": "awr",
    "LunarLander-v3": "awr",
    "LunarLanderContinuous-v3": "mpo",
    OTHER_CONTINUOUS: "mpo",
    OTHER_DISCRETE: "awr",
}
"""Which that is, by docs/benchmarks.md: the higher return; the sooner, if they differ less than their seeds do."""


def resolve_tuned(
    algorithm: str, preset: str | None, env_id: str | None, discrete: Callable[[], bool]
) -> tuple[str, str | None]:
    """Return the algorithm and the preset that ``"tuned"`` stands for in an environment; others as they are.

    Args:
        algorithm: a name, in any case.
        preset: its preset.
        env_id: of the environment, if it has one.
        discrete: tells whether its actions are discrete; asked if there is no choice for the id.

    Raises:
        ConfigError: another preset beside ``"tuned"``.
    """
    if str(algorithm).lower() != TUNED:
        return algorithm, preset
    if preset not in (None, TUNED):
        raise ConfigError(f"'{TUNED}' has a preset of its own: leave out preset='{preset}', or name the algorithm.")
    other = OTHER_DISCRETE if env_id not in BEST and discrete() else OTHER_CONTINUOUS
    return BEST.get(env_id or other, BEST[other]), TUNED


def check_preset(algorithm: str, name: str) -> None:
    """Refuse the name of a preset that there is not.

    Raises:
        ConfigError: the nearest is named.
    """
    if not isinstance(name, str):
        raise ConfigError(f"preset={name!r} must be the name of one, such as 'tuned'.")
    known = PRESETS.get(algorithm)
    if not known:
        others = ", ".join(PRESETS)
        raise ConfigError(f"{name!r} is not a preset of {algorithm}, which has none, unlike {others}: leave it out.")
    if name not in known:
        raise ConfigError(f"{name!r} is not a preset of {algorithm}.{did_you_mean(str(name), known)}")


def has_own_preset(algorithm: str, name: str, env_id: str | None) -> bool:
    """Return whether a preset has values made for this environment."""
    return env_id in PRESETS[algorithm][name]


def preset_settings(algorithm: str, name: str, env_id: str | None, discrete: bool) -> dict[str, Any]:
    """Return a preset's settings for an environment; ``discrete`` chooses those for one that has none of its own.

    Raises:
        ConfigError: no such preset.
    """
    check_preset(algorithm, name)
    presets = PRESETS[algorithm][name]
    other = OTHER_DISCRETE if discrete else OTHER_CONTINUOUS
    return dict(presets.get(env_id or other, presets[other]))


def with_preset(
    algorithm: str,
    preset: str,
    env_id: str | None,
    discrete: Callable[[], bool],
    config: Mapping[str, Any] | Settings | None = None,
) -> dict[str, Any]:
    """Return a preset's settings for an environment, with those of ``config`` over them.

    Args:
        algorithm: its name.
        preset: its name.
        env_id: of the environment, if it has one.
        discrete: tells whether its actions are discrete; asked if the preset has no values for the id.
        config: settings that override the preset's one by one.

    Raises:
        ConfigError: no such preset, or a whole config, which leaves it nothing to set.
    """
    check_preset(algorithm, preset)
    if isinstance(config, Settings):
        raise ConfigError(
            f"config is a whole {type(config).__name__}, which leaves preset='{preset}' nothing to set: pass a dict of "
            "the settings that should differ from the preset."
        )
    own = has_own_preset(algorithm, preset, env_id)
    return {**preset_settings(algorithm, preset, env_id, not own and discrete()), **(config or {})}
