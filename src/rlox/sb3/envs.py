"""Our environments as Stable-Baselines3 takes them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from rlox.envs.collector import Episode, EpisodeCounter
from rlox.envs.envs import Envs
from rlox.envs.spaces import obs_encoder
from rlox.envs.streams import Place


class Environments(VecEnv):
    """Environments that ours step, check, time and number, behind the other library's face.

    Args:
        envs: what is stepped; None where nothing is.
        observation_space: of one of them.
        action_space: of one of them. The model's is a copy, in which whole numbers are real ones: its memory has its
            type.
        n: how many they are.
        seed: of the run; the episodes are reset as those of our algorithms.
    """

    def __init__(
        self,
        envs: Envs | None,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        n: int,
        seed: int,
    ):
        self.envs, self._encoder = envs, obs_encoder(observation_space)
        self._seed = int(np.random.SeedSequence(seed).spawn(2)[1].generate_state(2)[0])
        self.episode = np.zeros(n, np.int64)
        """Number of the episode that each is in."""
        self.finished: list[Episode] = []
        """Episodes that have ended, for who counts them."""
        self.valid: list[NDArray[np.bool_]] = []
        """Which steps were real, for who repairs the others."""
        self._counter = EpisodeCounter(n)
        self._actions: NDArray[Any] = np.empty(0)
        self._action_space = action_space
        super().__init__(n, observation_space, _of_real_numbers(action_space))

    def reset(self) -> Any:
        """Begin new episodes; those that were under way are left."""
        assert self.envs is not None
        self.episode += self._counter.lengths > 0
        self._counter = EpisodeCounter(self.num_envs)
        places = [Place(self._seed, i, int(self.episode[i])) for i in range(self.num_envs)]
        return self._checked(self.envs.go_to(places))

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = actions

    def step_wait(self) -> Any:
        assert self.envs is not None
        step = self.envs.step(as_actions(self._actions, self._action_space))
        next_obs = self._checked(step.next_obs)
        obs = next_obs if step.obs is step.next_obs else self._checked(step.obs)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(step.ended):
            infos[i]["terminal_observation"] = _row(next_obs, i)
            infos[i]["TimeLimit.truncated"] = bool(step.truncated[i] and not step.terminated[i])
        self.episode += step.ended
        self.finished += [episode for _, episode in self._counter.count(step)]
        self.valid.append(step.valid)
        # A copy: they add the value of a truncated episode's end to it.
        return obs, step.reward.copy(), step.ended, infos

    def streams(self) -> NDArray[np.int64]:
        """Return the number of the episode that each would begin, ``(n,)``."""
        return self.episode + (self._counter.lengths > 0)

    def _checked(self, obs: Any) -> Any:
        """Return a copy in the space's type of observations that can be used."""
        assert self.envs is not None
        with self.envs.checked():
            self._encoder(obs, self.num_envs)
        if isinstance(self.observation_space, spaces.Dict):
            return {key: np.array(obs[key], part.dtype) for key, part in self.observation_space.spaces.items()}
        return np.array(obs, self.observation_space.dtype)

    def close(self) -> None:
        if self.envs is not None:
            self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs

    def get_images(self) -> Sequence[Any]:
        return [None] * self.num_envs


def as_actions(actions: NDArray[Any], space: gym.Space[Any]) -> NDArray[Any]:
    """Return a batch of actions within the bounds and in the type of their space."""
    if not isinstance(space, spaces.Box):
        return np.asarray(actions, space.dtype)
    rounded = np.rint(actions) if np.issubdtype(space.dtype, np.integer) else actions
    return np.clip(rounded, space.low, space.high).astype(space.dtype)


def _of_real_numbers(space: gym.Space[Any]) -> gym.Space[Any]:
    """Return a copy of a space, of real numbers if it is a Box of whole ones."""
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.integer):
        return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32))
    return copy.deepcopy(space)


def _row(obs: Any, i: int | np.integer[Any]) -> Any:
    return {key: part[i] for key, part in obs.items()} if isinstance(obs, dict) else obs[i]
