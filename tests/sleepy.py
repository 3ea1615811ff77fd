"""CartPole that sleeps in each step, so that what takes time in a run does not depend on the machine."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv


class Sleepy(CartPoleEnv):
    def step(self, action: Any) -> Any:
        time.sleep(0.005)
        return super().step(action)


gym.register("Sleepy-v0", entry_point="sleepy:Sleepy", max_episode_steps=40)
