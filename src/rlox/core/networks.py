"""Actor and critics: perceptrons with a meaning on top."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from rlox.core.distributions import Categorical, Gaussian, joint_actions
from rlox.core.layers import MLP, BatchNormMLP, affine, product


class QFunction(eqx.Module):
    """Q(s, a), an ensemble: perceptrons of observation and action, or with discrete actions an output for each.

    Continuous actions are clipped to the range before, as they are where they are taken. It is called with observations
    ``(B, obs_dim)`` and actions ``(*lead, B, action_dim)``, and returns ``(E, *lead, B)``, of ``E`` networks.
    """

    networks: tuple[MLP | BatchNormMLP, ...]
    nvec: tuple[int, ...] = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def __init__(self, config: Any, obs_dim: int, nvec: tuple[int, ...], action_dim: int, rng: np.random.Generator):
        n_in, n_out = (obs_dim, len(joint_actions(nvec))) if nvec else (obs_dim + action_dim, 1)
        sizes = (n_in, *config.widths, n_out)
        layer_norm = config.layer_norm and not config.batch_norm
        plain = [
            MLP(sizes, init=config.network_init, output_scale=None, layer_norm=layer_norm, rng=rng)
            for _ in range(config.n_critics)
        ]
        self.networks = tuple(BatchNormMLP(network) for network in plain) if config.batch_norm else tuple(plain)
        self.nvec, self.scale = nvec, config.value_scale

    def __call__(self, obs: Float[Array, "B obs_dim"], action: Array) -> Float[Array, "E *lead B"]:
        """Return each network's value of actions ``(*lead, B, action_dim)``, several of them in each observation."""
        if self.nvec:
            values = [self._of_choices(network(obs), action) for network in self.networks]
        else:
            inputs = _pairs(obs, action)
            values = [network(inputs).reshape(action.shape[:-1]) for network in self.networks]
        return self.scale * jnp.stack(values)

    def in_training(
        self, obs: Float[Array, "B obs_dim"], action: Array, next_obs: Float[Array, "B obs_dim"], next_action: Array
    ) -> tuple[Float[Array, "E B"], Float[Array, "E *lead B"], QFunction]:
        """Return the values of both ends of transitions, normalised as one batch, and the critic with moments moved.

        The next end's are of actions ``(*lead, B, action_dim)``. Only for batch-normalised networks.
        """
        n, lead = len(obs), next_action.shape[:-1]
        both = jnp.concatenate([obs, next_obs] if self.nvec else [_pairs(obs, action), _pairs(next_obs, next_action)])
        passes = [network.in_training(both) for network in self.networks if isinstance(network, BatchNormMLP)]
        moved = eqx.tree_at(lambda critic: critic.networks, self, tuple(network for _, network in passes))
        if self.nvec:
            values = [self._of_choices(out[:n], action) for out, _ in passes]
            after = [self._of_choices(out[n:], next_action) for out, _ in passes]
        else:
            values = [out[:n, 0] for out, _ in passes]
            after = [out[n:, 0].reshape(lead) for out, _ in passes]
        return self.scale * jnp.stack(values), self.scale * jnp.stack(after), moved

    def _of_choices(self, outputs: Float[Array, "B n"], action: Array) -> Float[Array, "*lead B"]:
        place = jnp.ravel_multi_index(tuple(jnp.moveaxis(action, -1, 0)), self.nvec, mode="clip")
        return outputs[jnp.arange(len(outputs)), place]

    def of_several(self, obs: Float[Array, "B obs_dim"], action: Array) -> Float[Array, "E M B"]:
        """Return what a call does of actions ``(M, B, action_dim)``, in less time where they are many and continuous.

        The first layer sees the observations once, and one action in each observation at a time stays in the caches.
        """
        if self.nvec:
            return self(obs, action)
        n = obs.shape[-1]

        def values(network: MLP | BatchNormMLP) -> Float[Array, "M B"]:
            network = network.folded() if isinstance(network, BatchNormMLP) else network
            weight = network.weights[0]
            seen = affine(obs, weight[:n], network.biases[0])
            clipped = jnp.clip(action, -1, 1)
            return lax.map(lambda one: network.after_first(seen + product(one, weight[n:]))[:, 0], clipped)

        return self.scale * jnp.stack([values(network) for network in self.networks])


def _pairs(obs: Float[Array, "B obs_dim"], action: Float[Array, "*lead B action_dim"]) -> Float[Array, "N n_in"]:
    """Return each action, clipped to the range, beside its observation, as rows."""
    action = jnp.clip(action, -1, 1)
    inputs = jnp.concatenate([jnp.broadcast_to(obs, (*action.shape[:-1], obs.shape[-1])), action], axis=-1)
    return inputs.reshape(-1, inputs.shape[-1])


class Critic(eqx.Module):
    """V(s): a perceptron whose output is a value in units of ``scale``.

    It is called with observations ``(B, obs_dim)`` and returns ``(B,)``.
    """

    network: MLP
    scale: float = eqx.field(static=True)

    def __init__(self, config: Any, obs_dim: int, nvec: tuple[int, ...], action_dim: int, rng: np.random.Generator):
        sizes = (obs_dim, *config.widths, 1)
        self.network = MLP(sizes, init=config.network_init, output_scale=None, layer_norm=config.layer_norm, rng=rng)
        self.scale = config.value_scale

    def __call__(self, obs: Float[Array, "B obs_dim"]) -> Float[Array, " B"]:
        value = self.network(obs)[:, 0]
        return value if self.scale == 1 else self.scale * value


class Actor(eqx.Module):
    """pi(a|s): a perceptron whose output parametrises a distribution over actions."""

    network: MLP
    log_std: Float[Array, " action_dim"] | None
    """Continuous actions with a learned std: logarithm of it above its floor, the same in every state."""
    nvec: tuple[int, ...] = eqx.field(static=True)
    """Discrete actions: the number of choices of each component; empty for continuous ones."""
    min_std: float = eqx.field(static=True)
    """The std's floor; the std itself where it is not learned."""
    max_std: float | None = eqx.field(static=True)
    """The std's ceiling, if it has one."""
    state_std: bool = eqx.field(static=True)
    """Whether the network puts out a logarithm, relative to `log_std`, for each state."""

    def __init__(self, config: Any, obs_dim: int, nvec: tuple[int, ...], action_dim: int, rng: np.random.Generator):
        self.state_std = not nvec and config.learn_std and config.state_dependent_std
        n_out = sum(nvec) if nvec else action_dim * (1 + self.state_std)
        sizes = (obs_dim, *config.widths, n_out)
        self.network = MLP(
            sizes,
            init=config.network_init,
            output_scale=config.actor_output_scale,
            layer_norm=config.layer_norm,
            rng=rng,
        )
        self.nvec = nvec
        learned = not nvec and config.learn_std
        self.min_std = config.min_std if config.learn_std else config.initial_std
        self.max_std = config.max_std if learned else None
        above = self._raw(config.initial_std) if learned else 0.0
        self.log_std = jnp.full(action_dim, above, jnp.float32) if learned else None

    @property
    def action_dim(self) -> int:
        """Number of action components."""
        return len(self.nvec) or self.network.biases[-1].shape[0] // (1 + self.state_std)

    def __call__(self, obs: Float[Array, "B obs_dim"]) -> Categorical | Gaussian:
        out = self.network(obs)
        if self.nvec:
            return Categorical(out, self.nvec)
        if self.log_std is None:
            return Gaussian(out, jnp.full(out.shape[1], self.min_std))
        mean, relative = jnp.split(out, 2, axis=1) if self.state_std else (out, 0.0)
        if self.max_std is None:
            return Gaussian(mean, self.min_std + jnp.exp(self.log_std + relative))
        share = jax.nn.sigmoid(self.log_std + relative)
        return Gaussian(mean, self.min_std + (self.max_std - self.min_std) * share)

    def _raw(self, std: float) -> float:
        """Return the parameter of a std: log of what it is above its floor, over what it is below its ceiling."""
        below = 1.0 if self.max_std is None else self.max_std - std
        return float(np.log((std - self.min_std) / below))
