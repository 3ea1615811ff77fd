"""A model of Stable-Baselines3 from our settings."""

from __future__ import annotations

import dataclasses
import math
import random
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise

from rlox.algorithms.others import OtherConfig, PPOConfig, SACConfig, TD3Config
from rlox.envs.spaces import leaves
from rlox.errors import SpaceError
from rlox.memory import check_replay_memory
from rlox.sb3.envs import Environments

Model = PPO | SAC | TD3
_THEIRS = {"td_lambda": "gae_lambda", "entropy_coef": "ent_coef", "n_updates": "gradient_steps"}
"""Settings that only have another name there."""
_OURS = (
    *("hidden", "n_envs", "vectorization_mode", "env_timeout"),
    *("learning_rate_schedule", "rollout_steps", "action_noise"),
)
"""Settings that are not theirs, or not in that form."""
_OPEN = {"gradient_steps": -1, "ent_coef": "auto", "target_entropy": "auto", "max_grad_norm": math.inf}
"""What None is there."""


def make_model(config: OtherConfig, envs: Environments, seed: int, *, acts_only: bool = False) -> Model:
    """Return a model, on the CPU, that prints nothing.

    The global random states of NumPy and PyTorch are seeded by it.

    Args:
        config: its settings.
        envs: where it acts.
        seed: covers its networks, samples and random actions.
        acts_only: leaves out the memory for what it learns from.

    Raises:
        SpaceError: spaces that it does not take.
        ConfigError: the replay does not fit in memory.
    """
    kind = {PPOConfig: PPO, SACConfig: SAC, TD3Config: TD3}[type(config)]
    _check_spaces(kind, envs.observation_space, envs.action_space)
    settings = {_THEIRS.get(name, name): x for name, x in dataclasses.asdict(config).items() if name not in _OURS}
    settings |= {name: _OPEN[name] for name, x in settings.items() if x is None and name in _OPEN}
    if config.learning_rate_schedule == "linear":
        settings["learning_rate"] = _Linear(config.learning_rate)
    if isinstance(config, PPOConfig):
        settings["n_steps"] = 2 if acts_only else -(-config.rollout_steps // envs.num_envs)
        if not acts_only:
            _check_room(envs, config.rollout_steps, "rollout_steps")
            _check_minibatches(config, settings["n_steps"] * envs.num_envs)
    elif acts_only:
        settings["buffer_size"] = 1
    else:
        _check_room(envs, settings["buffer_size"], "buffer_size")
    if isinstance(config, TD3Config) and config.action_noise:
        shape = envs.action_space.shape or ()
        settings["action_noise"] = NormalActionNoise(np.zeros(shape), np.full(shape, config.action_noise))
    policy = "MultiInputPolicy" if isinstance(envs.observation_space, spaces.Dict) else "MlpPolicy"
    before = random.getstate()
    with warnings.catch_warnings():
        # Of a last minibatch that is smaller, over four lines: ours has one.
        warnings.filterwarnings("ignore", "(?s).*mini-batch size.*")
        model: Model = kind(
            policy, envs, **settings, policy_kwargs={"net_arch": list(config.widths)}, seed=seed % 2**32, device="cpu"
        )
    random.setstate(before)
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def use_one_thread() -> None:
    """Let PyTorch compute in one thread from here on: for networks this small, several wait for each other."""
    torch.set_num_threads(1)


@dataclasses.dataclass(frozen=True)
class _Linear:
    """Falls from a first value to 0."""

    first: float

    def __call__(self, left: float) -> float:
        return self.first * max(left, 0.0)


def _check_minibatches(config: PPOConfig, rollout: int) -> None:
    if rollout % config.batch_size:
        warnings.warn(
            f"The last of the minibatches that a rollout of {rollout:,} steps is cut into has "
            f"{rollout % config.batch_size}, not batch_size={config.batch_size}: a divisor of it is usual.",
            stacklevel=6,
        )


def _check_room(envs: Environments, steps: int, setting: str) -> None:
    def n_bytes(space: gym.Space[Any]) -> int:
        return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for _, leaf in leaves(space))

    row = 2 * n_bytes(envs.observation_space) + n_bytes(envs.action_space) + 24
    check_replay_memory(steps * row, steps, setting)


def _check_spaces(kind: type[Any], observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
    """Refuse spaces that Stable-Baselines3 does not take, or takes for others.

    Raises:
        SpaceError: naming who does.
    """
    name = kind.__name__.lower()
    if kind is not PPO and not isinstance(action_space, spaces.Box):
        raise SpaceError(
            f"{name} takes continuous actions (a Box), but the environment has {action_space}: ppo takes these, and so "
            "do awr, awac, crr and iql."
        )
    parts = list(observation_space.spaces.values()) if isinstance(observation_space, spaces.Dict) else []
    for space in [*(parts or [observation_space]), action_space]:
        if isinstance(space, spaces.Dict | spaces.Tuple) or np.any(getattr(space, "start", 0)) or _is_table(space):
            raise SpaceError(
                f"{name} is Stable-Baselines3's, which takes no Tuple, no Dict in a Dict, no table of choices, and "
                f"counts choices from 0, but the environment has {space}: awr, awac, crr and iql take it."
            )


def _is_table(space: gym.Space[Any]) -> bool:
    return isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary) and len(space.shape) > 1
