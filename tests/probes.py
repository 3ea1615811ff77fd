"""Tiny environments with known answers, each of which can fail for one reason.

Without JAX, which the processes that step them would import.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv

ACTION_SPACES = {"discrete": spaces.Discrete(2), "continuous": spaces.Box(-2.0, 3.0, (1,), np.float32)}
# Continuous actions that stand for the discrete choices 0 and 1; neither is a bound or the centre of the range.
AIMS = (2.0, -1.0)
AFTER_THE_END = 5.0
EPISODE = 7
"""Steps of one of ``Numbered``."""


class Probe(gym.Env[Any, Any]):
    """An episode of one step; subclasses say what is seen and what is paid."""

    def __init__(self, kind: str = "discrete"):
        self.observation_space = spaces.Box(-10.0, 10.0, (1,), np.float32)
        self.action_space = ACTION_SPACES[kind]
        self.kind = kind
        self.seen = 0.0

    def first(self) -> float:
        return 0.0

    def outcome(self, action: Any) -> tuple[float, float, bool, bool]:
        """Return the next observation, the reward, terminated, truncated."""
        raise NotImplementedError

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seen = self.first()
        return np.array([self.seen], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.seen, reward, terminated, truncated = self.outcome(action)
        return np.array([self.seen], np.float32), reward, terminated, truncated, {}

    def score(self, action: Any, choice: int) -> float:
        """Return 1 for the right choice; less the further from it, down to -1 for the other one."""
        if self.kind == "discrete":
            return 1.0 if action == choice else -1.0
        return 1.0 - 2.0 * abs(float(action[0]) - AIMS[choice]) / 3.0


class ConstantReward(Probe):
    """Pays 1: the value is 1."""

    def outcome(self, action: Any) -> tuple[float, float, bool, bool]:
        return AFTER_THE_END, 1.0, True, False


class CutConstantReward(Probe):
    """Pays 1 and is cut after every step: the value is 1 + gamma + gamma^2 + ..."""

    def outcome(self, action: Any) -> tuple[float, float, bool, bool]:
        return 0.0, 1.0, False, True


class ObservedReward(Probe):
    """Pays the observation, -1 or 1: the value is the observation."""

    def first(self) -> float:
        return float(self.np_random.choice([-1.0, 1.0]))

    def outcome(self, action: Any) -> tuple[float, float, bool, bool]:
        return AFTER_THE_END, self.seen, True, False


class DelayedReward(Probe):
    """Shows 0, then 1, then pays 1: the values are gamma and 1."""

    def outcome(self, action: Any) -> tuple[float, float, bool, bool]:
        if self.seen == 0.0:
            return 1.0, 0.0, False, False
        return AFTER_THE_END, 1.0, True, False


class ActionReward(Probe):
    """Pays 1 for choice 0 and -1 for choice 1."""

    def outcome(self, action: Any) -> tuple[float, float, bool, bool]:
        return AFTER_THE_END, self.score(action, 0), True, False


class ObservedActionReward(ObservedReward):
    """Pays for choice 0 where the observation is -1, and for choice 1 where it is 1."""

    def outcome(self, action: Any) -> tuple[float, float, bool, bool]:
        return AFTER_THE_END, self.score(action, int(self.seen > 0)), True, False


class Counting(gym.Env[Any, Any]):
    """Shows and pays the number of steps since the reset, up to ``length``.

    Args:
        length: steps of an episode.
        cut: end episodes by truncation.
        spoil: ``(step, "obs" or "reward", value)``: what the step of this number (from 1) returns instead.
        reuse: return the same array each time, changed in place.
    """

    def __init__(
        self, length: int = 3, *, cut: bool = False, spoil: tuple[int, str, Any] | None = None, reuse: bool = False
    ):
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.length, self.cut, self.spoil, self.reuse = length, cut, spoil, reuse
        self.array = np.zeros(2, np.float32)
        self.count = 0
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self.show(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.count += 1
        self.steps += 1
        result = {"obs": self.show(), "reward": float(self.count)}
        if self.spoil and self.steps == self.spoil[0]:
            result[self.spoil[1]] = self.spoil[2]
        ended = self.count == self.length
        return result["obs"], result["reward"], ended and not self.cut, ended and self.cut, {}

    def show(self) -> Any:
        self.array[:] = self.count
        return self.array if self.reuse else self.array.copy()


class Diary(gym.Env[Any, Any]):
    """Keeps what it is given: the seeds of its resets, and with each action the observation that it answers.

    Observations are far from 0 and differ from step to step; the reward is the action. Episodes of ``length`` steps
    are cut.
    """

    def __init__(self, kind: str = "continuous", length: int = 7):
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = ACTION_SPACES[kind]
        self.length = length
        self.seeds: list[int] = []
        self.firsts: list[Any] = []
        self.shown: list[Any] = []
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.seeds.append(seed)
        self.count = 0
        self.firsts.append(self.show())
        return self.obs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.shown.append(self.obs)
        self.actions.append(np.array(action))
        self.count += 1
        return self.show(), float(np.ravel(action)[0]), False, self.count == self.length, {}

    def show(self) -> Any:
        self.obs = self.np_random.normal([300.0, -5.0], [10.0, 1.0]).astype(np.float32)
        return self.obs

    def forget(self) -> None:
        """Begin an empty diary."""
        for kept in (self.seeds, self.firsts, self.shown, self.actions):
            kept.clear()


class Wandering(Diary):
    """A diary whose observations do not follow from the seeds of its resets: two of them never agree."""

    def __init__(self, kind: str = "continuous", length: int = 7):
        super().__init__(kind, length)
        self.own = np.random.default_rng(id(self))

    def show(self) -> Any:
        self.obs = self.own.normal([300.0, -5.0], [10.0, 1.0]).astype(np.float32)
        return self.obs


class World(gym.Env[Any, Any]):
    """Observations in a dictionary, random steps, an end by chance, and a cut after 30 steps."""

    def __init__(self):
        self.observation_space = spaces.Dict(
            {"place": spaces.Box(-np.inf, np.inf, (2,), np.float32), "kind": spaces.Discrete(3)}
        )
        self.action_space = spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place, self.count = self.np_random.normal(size=2), 0
        return self.observe(), {}

    def observe(self) -> dict[str, Any]:
        return {"place": self.place.astype(np.float32), "kind": int(self.np_random.integers(3))}

    def step(self, action: Any) -> Any:
        self.count += 1
        self.place = self.place + self.np_random.normal(size=2) + action - 0.5
        reward = -float(np.abs(self.place).sum())
        return self.observe(), reward, bool(self.np_random.random() < 0.05), self.count == 30, {}


class Numbered(gym.Env[Any, Any]):
    """Shows which of the environments it is, and how many steps it has taken; pays by the step. Cut after 7 steps."""

    count_of_them = itertools.count(1)

    def __init__(self):
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.own, self.steps = (os.getpid() * 1000 % 10**6 + next(self.count_of_them)) / 1e6, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.first = self.np_random.normal()
        return self.show(), {}

    def show(self) -> Any:
        return np.array([self.own, self.steps, self.first], np.float32)

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self.show(), self.steps / 1000, False, self.steps % EPISODE == 0, {}


class Hanging(Diary):
    """Stops answering at its 30th step."""

    def step(self, action: Any) -> Any:
        if len(self.shown) == 29:
            time.sleep(600)
        return super().step(action)


class Dying(Diary):
    """Ends its process at its 30th step."""

    def step(self, action: Any) -> Any:
        if len(self.shown) == 29:
            os._exit(3)
        return super().step(action)


class NoSeed(CartPoleEnv):
    def reset(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().reset()


class ObservationOnly(CartPoleEnv):
    def reset(self, **given: Any) -> Any:
        return super().reset(**given)[0]


def only_here(parent: int) -> Counting:
    """Make an environment, but not in another process."""
    if os.getpid() != parent:
        raise RuntimeError("no licence")
    return Counting()
