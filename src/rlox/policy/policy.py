"""What comes out of training: a policy that acts, without replay, optimiser or environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import jax
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from rlox import compilation, habits
from rlox.core import acting
from rlox.core.config import Config, Settings, make_config
from rlox.core.networks import Actor
from rlox.core.normalizer import Normalizer
from rlox.core.pack import pack, unpack
from rlox.envs.space_json import describe, restore
from rlox.envs.spaces import ActionCodec, ObsEncoder, action_codec, batch_of_one, obs_encoder
from rlox.errors import CheckpointError, InvalidStepError, RloxError, one_line
from rlox.files import refusing
from rlox.runs import checkpoint
from rlox.tables import as_html, as_line


class Predictor(Protocol):
    """Anything that acts: ours, Stable-Baselines3's policies behind the same call, a random one."""

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    def predict(self, obs: Any, *, deterministic: bool = True) -> NDArray[Any]:
        """Return an action of ``action_space`` for an observation, or a batch of them for a batch."""
        ...


@runtime_checkable
class TrainedPolicy(Predictor, Protocol):
    """What a trainer returns: ``Policy``, or one of another library, which refuses what only ours can do."""

    def seeded(self, seed: int) -> TrainedPolicy:
        """Return the same policy with a stream of samples of its own."""
        ...

    def sample(self, obs: Any) -> NDArray[Any]:
        """Return a random action, or a batch of them, as ``predict`` does."""
        ...

    def log_prob(self, obs: Any, action: Any) -> NDArray[np.float64]:
        """Return the log-probability with which the policy, sampled, takes actions: ``(B,)``."""
        ...

    def save(self, path: str | Path, *, about: Mapping[str, str | float] | None = None) -> Path:
        """Write the policy, without what its training needs, to a file that ends in .safetensors."""
        ...

    def export_onnx(self, path: str | Path, *, about: Mapping[str, str | None] | None = None) -> Path:
        """Write the policy to an ONNX file."""
        ...


class SampleStream:
    """Random keys one after another, which policies can share."""

    def __init__(self, seed: int):
        self.key: Array = jax.random.key(seed)


class Policy:
    """A trained policy.

    ``Trainer.policy`` returns one, ``Policy.load`` reads one from a run or a file.

    Args:
        actor: its network.
        normalizer: what whitens observations, if anything does.
        observation_space: of the environment.
        action_space: of the environment.
        config: settings of its networks, which ``save`` writes.
        samples: where the randomness of ``predict(deterministic=False)`` comes from; None starts a stream at seed 0.
    """

    def __init__(
        self,
        actor: Actor,
        normalizer: Normalizer | None,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: Config,
        *,
        samples: SampleStream | None = None,
    ):
        self.actor, self.normalizer, self.config = actor, normalizer, config
        self.observation_space, self.action_space = observation_space, action_space
        self.encoder: ObsEncoder = obs_encoder(observation_space)
        self.codec: ActionCodec = action_codec(action_space)
        self._samples = samples or SampleStream(0)

    def __repr__(self) -> str:
        return as_line("Policy", self._about())

    def _repr_html_(self) -> str:
        return as_html("Policy", self._about())

    def _about(self) -> dict[str, object]:
        return {"observations": self.observation_space, "actions": self.action_space, "hidden": self.config.widths}

    def seeded(self, seed: int) -> Policy:
        """Return the same policy with a stream of samples of its own."""
        spaces = self.observation_space, self.action_space
        return Policy(self.actor, self.normalizer, *spaces, self.config, samples=SampleStream(seed))

    @habits.alone
    def predict(self, obs: Any, *, deterministic: bool = True) -> NDArray[Any]:
        """Return the action that the policy takes, as the environment accepts it.

        Args:
            obs: an observation of the space, or a batch of them along a leading axis (for Dict and Tuple spaces, of
                each entry).
            deterministic: the policy's mode; otherwise a sample.

        Returns:
            An action of ``action_space``, or a batch of them.

        Raises:
            InvalidStepError: an observation of another shape, or not finite.
        """
        return self.mode(obs) if deterministic else self.sample(obs)

    def mode(self, obs: Any) -> NDArray[Any]:
        """Return the most probable action (the mean of continuous ones), or a batch of them, as ``predict`` does."""
        encoded, single = self._encode(obs)
        action = self.codec.decode(np.asarray(acting.mode(self.actor, self.normalizer, encoded)))
        return action[0] if single else action

    def sample(self, obs: Any) -> NDArray[Any]:
        """Return a random action, or a batch of them, as ``predict`` does."""
        encoded, single = self._encode(obs)
        drawn, self._samples.key = acting.act(self.actor, self.normalizer, encoded, self._samples.key)
        action = self.codec.decode(np.asarray(drawn))
        return action[0] if single else action

    def _encode(self, obs: Any) -> tuple[NDArray[Any], bool]:
        n = self.encoder.batch_size(obs)
        if n is None:
            return self.encoder(batch_of_one(self.observation_space, obs), 1), True
        return self.encoder(obs, n), False

    def log_prob(self, obs: Any, action: Any) -> NDArray[np.float64]:
        """Return the log-probability with which the policy, sampled, takes actions: ``(B,)``, or ``()`` of one.

        Of continuous actions it is that of a density per unit of the environment inside the bounds, and of the
        probability to be clipped there at a bound, or beyond it.

        Args:
            obs: an observation of the space, or a batch of them.
            action: an action of the environment, or a batch of them.

        Raises:
            InvalidStepError: an observation or action of another shape, or not finite; a choice that there is not.
        """
        encoded, single = self._encode(obs)
        actions = np.asarray(action)[None] if single else np.asarray(action)
        shape = (len(encoded), *(self.action_space.shape or ()))
        if actions.shape != shape or actions.dtype.kind not in "fiub":
            raise InvalidStepError(
                f"actions have shape {actions.shape} and type {actions.dtype}: they must be numbers {shape}."
            )
        coded = self.codec.encode(actions)
        if self.codec.nvec:
            wrong = ((coded < 0) | (coded >= self.codec.nvec)).any(axis=1)
            wrong |= (actions != np.rint(actions)).reshape(len(actions), -1).any(axis=1)
            if wrong.any():
                raise InvalidStepError(f"action {actions[wrong][0].tolist()} is outside {self.action_space}.")
        else:
            coded = np.clip(coded, -1, 1)
        log_prob = np.asarray(acting.log_prob(self.actor, self.normalizer, encoded, coded), np.float64)
        log_prob = log_prob - self.codec.log_scale(coded)
        return log_prob[0] if single else log_prob

    def support(self, obs: Any, *, seed: int = 0) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return actions that stand for the policy in a batch of observations, and their probabilities.

        Returns:
            Actions ``(M, B, *action_space.shape)`` and probabilities ``(M, B)``: all there are of choices, eight
            samples of continuous actions.
        """
        encoded, _ = self._encode(obs)
        key = jax.random.key(seed)
        actions, probability = (np.asarray(x) for x in acting.support(self.actor, self.normalizer, encoded, key))
        return np.stack([self.codec.decode(action) for action in actions]), probability

    def save(self, path: str | Path, *, about: Mapping[str, str | float] | None = None) -> Path:
        """Write the policy, without what its training needs, to a file that ends in .safetensors.

        Args:
            path: the file.
            about: what its header says besides.

        Raises:
            ConfigError: another ending, or the file cannot be written.
        """
        header = {
            "spec": {"config": _network_settings(self.config)},
            "observation_space": describe(self.observation_space),
            "action_space": describe(self.action_space),
            "about": dict(about or {}),
        }
        arrays = {f"train.{name}": array for name, array in pack(_Parameters(self.actor, self.normalizer)).items()}
        target = checkpoint.check_target(Path(path))
        with refusing(target):
            return checkpoint.write(target, arrays, header)

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Return the policy of a run's folder, of a checkpoint, or of a file that ``save`` wrote.

        Nothing but the policy is read: no replay, no optimiser, no environment.

        Raises:
            CheckpointError: there is none, or it is torn.
        """
        compilation.prepare()
        wanted = ("train.actor.", _AVERAGED, "train.normalizer.")
        arrays, header = checkpoint.load(Path(path), only=wanted)
        if not arrays:
            raise CheckpointError(
                f"'{path}' holds no policy of ours: Trainer.load(...).policy is that of a run of another library."
            )
        try:
            spaces = restore(header["observation_space"]), restore(header["action_space"])
            config = make_config(Config, "a policy", _network_settings(header["spec"]["config"]))
        except (LookupError, TypeError, AttributeError, RloxError) as error:
            raise CheckpointError(f"'{path}' holds no policy: {one_line(error)}") from None
        for name in [name for name in arrays if name.startswith(_AVERAGED)]:
            arrays[name.replace(_AVERAGED, "train.actor.")] = arrays.pop(name)
        encoder, codec = obs_encoder(spaces[0]), action_codec(spaces[1])
        check_networks(Path(path), sum(array.size for array in arrays.values()), config, encoder.dim, codec)
        template = _Parameters(
            Actor(config, encoder.dim, codec.nvec, codec.dim, np.random.default_rng(0)),
            Normalizer.create(encoder.dim) if config.normalize_obs else None,
        )
        found = unpack(template, {name.removeprefix("train."): array for name, array in arrays.items()})
        return cls(found.actor, found.normalizer, *spaces, config)

    def export_onnx(self, path: str | Path, *, about: Mapping[str, str | None] | None = None) -> Path:
        """Write the policy to an ONNX file that takes raw observations and returns the environment's actions.

        If onnxruntime is installed, the file is compared with ``predict`` on 64 observations before it is in place.
        Its inputs and outputs have a leading batch axis of any length:

        ``obs``: observations ``(batch, *observation_space.shape)``; of Dict and Tuple spaces an input for each entry,
        such as ``obs.goal`` or ``obs.0``. float32 for Boxes of floats, int64 for Discrete and MultiDiscrete,
        otherwise the space's own type.
        ``action``: what ``predict`` returns, ``(batch, *action_space.shape)``, in the space's type.
        ``logits``, the components' side by side, for choices; ``mean`` and ``std`` in units of half the range
        around its centre for continuous actions: what ``predict(deterministic=False)`` samples from.

        Args:
            path: file to write, ending in .onnx.
            about: what the file's metadata say besides the spaces, such as ``algorithm`` and ``env``; None values are
                left out.

        Returns:
            The file, moved into place whole.

        Raises:
            ConfigError: another ending, a file that cannot be written, or the extra rlox[onnx] is missing.
            ExportError: the file and ``predict`` disagree.
        """
        from rlox.policy.onnx import export_onnx

        return export_onnx(Path(path), self, about or {})


def check_networks(path: Path, held: int, config: Settings, n_inputs: int, codec: ActionCodec) -> None:
    """Refuse settings of networks that are larger than the ``held`` numbers that a file has, before they are made.

    Raises:
        CheckpointError: they are.
    """
    sizes = (n_inputs, *config.widths, sum(codec.nvec) or codec.dim)
    asked = sum(n_in * n_out for n_in, n_out in pairwise(sizes))
    if asked > held:
        raise CheckpointError(f"Checkpoint '{path}' says networks of {asked:,} weights, but holds {held:,}.")


_AVERAGED = "train.averaged_actor."


class _Parameters(NamedTuple):
    actor: Actor
    normalizer: Normalizer | None


def _network_settings(config: Config | dict[str, Any]) -> dict[str, Any]:
    """Return the settings that every algorithm has: those of the networks are among them."""
    values = dataclasses.asdict(config) if isinstance(config, Config) else config
    return {field.name: values[field.name] for field in dataclasses.fields(Config) if field.name in values}
