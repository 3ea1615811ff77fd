"""A policy of Stable-Baselines3 that acts, behind the call that ours have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy

from rlox import habits
from rlox.algorithms.others import OtherConfig, only_ours
from rlox.envs.space_json import describe
from rlox.envs.spaces import batch_of_one, obs_encoder
from rlox.files import refusing
from rlox.runs import checkpoint
from rlox.sb3.envs import as_actions
from rlox.sb3.state import POLICY
from rlox.spec import RunSpec


def copy_of(network: BasePolicy) -> BasePolicy:
    """Return another network with the same parameters."""
    with torch.random.fork_rng(devices=[]):
        copy = type(network)(**network._get_constructor_parameters())
        copy.load_state_dict(network.state_dict())
    return copy


class OtherPolicy:
    """A trained policy of Stable-Baselines3. What needs its probabilities or its network is refused.

    Args:
        network: theirs; nobody else may change it.
        observation_space: of the environment.
        action_space: of the environment.
        algorithm: what it was trained by.
        config: its settings, which ``save`` writes.
        seed: of the samples of ``predict(deterministic=False)``.
    """

    def __init__(
        self,
        network: BasePolicy,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        algorithm: str,
        config: OtherConfig,
        *,
        seed: int,
    ):
        self._network, self._algorithm, self._config = network, algorithm, config
        self.observation_space, self.action_space = observation_space, action_space
        self._encoder = obs_encoder(observation_space)
        self._random = torch.Generator().manual_seed(seed).get_state()
        self._has_matrix = getattr(config, "use_sde", False)
        if self._has_matrix:
            # Of noise, drawn once: at first of the std before training.
            noisy: Any = network
            with self._own_samples():
                noisy.reset_noise()

    def __repr__(self) -> str:
        return f"OtherPolicy({self._algorithm}: {self.observation_space} -> {self.action_space})"

    def seeded(self, seed: int) -> OtherPolicy:
        """Return the same policy with a stream of samples of its own."""
        spaces = self.observation_space, self.action_space
        network = copy_of(self._network) if self._has_matrix else self._network
        return OtherPolicy(network, *spaces, self._algorithm, self._config, seed=seed)

    @habits.alone
    def predict(self, obs: Any, *, deterministic: bool = True) -> NDArray[Any]:
        """Return the action that the policy takes, or a batch of them, as the environment accepts it.

        Args:
            obs: an observation of the space, or a batch of them along a leading axis.
            deterministic: the policy's mode; otherwise a sample (of td3, the mode: its noise is training's).

        Raises:
            InvalidStepError: an observation of another shape, or not finite.
        """
        n = self._encoder.batch_size(obs)
        batch = batch_of_one(self.observation_space, obs) if n is None else obs
        self._encoder(batch, n or 1)
        with self._own_samples():
            found, _ = self._network.predict(batch, deterministic=deterministic)
        action = as_actions(np.asarray(found), self.action_space)
        return action[0] if n is None else action

    def sample(self, obs: Any) -> NDArray[Any]:
        """Return a random action, or a batch of them, as ``predict`` does."""
        return self.predict(obs, deterministic=False)

    @contextlib.contextmanager
    def _own_samples(self) -> Iterator[None]:
        # Their samples come from PyTorch's global state, which is the caller's.
        before = torch.get_rng_state()
        torch.set_rng_state(self._random)
        try:
            yield
        finally:
            self._random = torch.get_rng_state()
            torch.set_rng_state(before)

    def save(self, path: str | Path, *, about: Mapping[str, str | float] | None = None) -> Path:
        """Write the policy, without what its training needs, to a file that ends in .safetensors.

        Args:
            path: the file.
            about: what its header says besides.

        Raises:
            ConfigError: another ending, or the file cannot be written.
        """
        header = {
            "spec": RunSpec(algorithm=self._algorithm, config=self._config).to_dict(),
            "observation_space": describe(self.observation_space),
            "action_space": describe(self.action_space),
            "about": dict(about or {}),
        }
        arrays = {f"{POLICY}{name}": x.numpy() for name, x in self._network.state_dict().items()}
        target = checkpoint.check_target(Path(path))
        with refusing(target):
            return checkpoint.write(target, arrays, header)

    def log_prob(self, obs: Any, action: Any) -> NoReturn:
        """Refuse: their log-probabilities are of other units, or of a policy that is not sampled (td3).

        Raises:
            ConfigError: always.
        """
        raise only_ours(
            "log_prob", self._algorithm, "its probabilities are not told; record(deterministic=True) needs none"
        )

    def export_onnx(self, path: str | Path, *, about: Mapping[str, str | None] | None = None) -> NoReturn:
        """Refuse: we write the networks that are ours.

        Raises:
            ConfigError: always.
        """
        raise only_ours("An ONNX file", self._algorithm, "its network is PyTorch's, which torch.onnx exports")
