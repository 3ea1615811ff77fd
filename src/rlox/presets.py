"""Named sets of settings, as data: how the authors ran AWR, and what does best here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rlox.core.config import Settings
from rlox.errors import ConfigError, did_you_mean


class Score(NamedTuple):
    """What a preset reached, as docs/benchmarks.md has it."""

    mean_reward: float
    """Mean greedy return over seeds, after the last step."""
    env_steps: int
    seconds: float
    """Of training, on one core."""
    n_seeds: int


class Preset(NamedTuple):
    """Settings for an environment."""

    settings: dict[str, Any]
    score: Score | None = None


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

PRESETS: dict[str, dict[str, dict[str, Preset]]] = {
    "awr": {
        "paper": {
            "Ant-v5": Preset(_PAPER | {"actor_learning_rate": 5e-5, "initial_std": 0.2}),
            "HalfCheetah-v5": Preset(_PAPER | {"actor_learning_rate": 5e-5}, Score(3622.7, 1_000_000, 178, 3)),
            "Hopper-v5": Preset(_PAPER | {"actor_learning_rate": 1e-4}, Score(2965.1, 1_000_002, 226, 3)),
            "Humanoid-v5": Preset(_PAPER | {"actor_learning_rate": 1e-5}),
            "Walker2d-v5": Preset(_PAPER | {"actor_learning_rate": 2.5e-5}),
            "LunarLander-v3": Preset(_PAPER_DISCRETE, Score(243.4, 1_000_003, 158, 3)),
            OTHER_CONTINUOUS: Preset(_PAPER | {"actor_learning_rate": 5e-5}),
            OTHER_DISCRETE: Preset(_PAPER_DISCRETE),
        },
        "tuned": {
            "Ant-v5": Preset(_TUNED | {"initial_std": 0.2}, Score(1048.8, 100_009, 66, 1)),
            "HalfCheetah-v5": Preset(_TUNED, Score(5601.3, 1_000_000, 191, 3)),
            "Hopper-v5": Preset(_PAPER | {"n_envs": 8, "actor_learning_rate": 1e-4}, Score(2965.1, 1_000_002, 235, 3)),
            "Humanoid-v5": Preset(_TUNED, Score(351.0, 50_014, 73, 1)),
            "Walker2d-v5": Preset(_TUNED | {"initial_std": 0.3}, Score(594.5, 200_004, 62, 1)),
            "BipedalWalker-v3": Preset(_TUNED, Score(-32.5, 200_004, 109, 1)),
            "InvertedDoublePendulum-v5": Preset(
                _TUNED | {"td_lambda": 0.7, "beta": 0.4}, Score(9349.8, 200_003, 42, 1)
            ),
            "LunarLander-v3": Preset(
                _PAPER_DISCRETE | {"n_envs": 8, "rollout_steps": 1024}, Score(270.1, 1_000_006, 251, 3)
            ),
            "CartPole-v1": Preset(
                _TUNED_SMALL
                | {"n_envs": 8, "n_actor_updates": 500, "buffer_size": 5000, "td_lambda": 0.98, "entropy_coef": 0.02},
                Score(500.0, 50_000, 13, 5),
            ),
            "Acrobot-v1": Preset(
                _TUNED_SMALL | {"rollout_steps": 2048, "n_actor_updates": 300, "entropy_coef": 0.05},
                Score(-83.6, 100_000, 18, 3),
            ),
            "MountainCarContinuous-v0": Preset(
                _TUNED_SMALL
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
                Score(92.5, 200_000, 15, 3),
            ),
            "Pendulum-v1": Preset(
                _TUNED_SMALL | _TUNED_SMALL_CONTINUOUS | {"n_envs": 8, "gamma": 0.95, "value_scale": 20.0},
                Score(-151.8, 50_000, 12, 5),
            ),
            OTHER_CONTINUOUS: Preset(_TUNED),
            OTHER_DISCRETE: Preset(_TUNED_SMALL | {"rollout_steps": 2048, "entropy_coef": 0.05}),
        },
    },
}


def check_preset(algorithm: str, name: str) -> None:
    """Refuse the name of a preset that there is not.

    Raises:
        ConfigError: the nearest is named.
    """
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
    return dict(presets.get(env_id or other, presets[other]).settings)


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
