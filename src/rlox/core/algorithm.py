"""What makes an algorithm: its settings, and the functions that it puts into the one update."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rlox.core.config import Config
from rlox.core.losses import Metrics, describe_weights
from rlox.core.slots import check_arguments, check_pair
from rlox.core.state import Networks
from rlox.core.transition import Transition
from rlox.errors import AlgorithmError, did_you_mean


class ActorTarget(NamedTuple):
    """Actions to fit the policy to, ``M`` of them in each observation or (without that axis) one."""

    obs: Float[Array, "B obs_dim"]
    """The batch's, or some of them."""
    action: Array
    """``(*M, B, action_dim)``."""
    weight: Float[Array, "*M B"]
    metrics: Metrics
    anchor: Any = None
    """A policy at ``obs`` to stay near to (``Gaussian`` or ``Categorical``); None for none."""
    anchor_weight: Any = None
    """Weight of each part of the KL divergence from it, as ``divergence`` returns them."""
    extra: Any = None
    """What the algorithm adapts besides its networks, after this step; None if it does not."""


class CriticFit(NamedTuple):
    """What a critic's loss returns if the critic moves by more than the loss's gradient."""

    loss: Float[Array, ""]
    metrics: Metrics
    critic: Any
    """The critic with its statistics moved."""


@runtime_checkable
class MakeCritic(Protocol):
    """Makes the critic: V, Q, both, or None."""

    def __call__(
        self, config: Any, obs_dim: int, nvec: tuple[int, ...], action_dim: int, rng: np.random.Generator, /
    ) -> Any: ...


@runtime_checkable
class MakeExtra(Protocol):
    """Makes what the algorithm adapts besides its networks: a tree of arrays, or None."""

    def __call__(self, config: Any, actor: Any, /) -> Any: ...


@runtime_checkable
class ValueTarget(Protocol):
    """What the critic regresses to: ``(B,)``, a tuple of such, or what its loss makes a target of, a NamedTuple.

    No gradient is taken of it.
    """

    def __call__(self, config: Any, networks: Networks, batch: Transition, key: PRNGKeyArray, /) -> Any: ...


@runtime_checkable
class CriticLoss(Protocol):
    """The critic's loss, and its metrics."""

    def __call__(
        self, config: Any, critic: Any, batch: Transition, target: Any, /
    ) -> tuple[Array, Metrics] | CriticFit: ...


@runtime_checkable
class Advantage(Protocol):
    """How much better than expected each action was, ``(B,)``; statistics are taken over the samples ``where``."""

    def __call__(
        self,
        config: Any,
        networks: Networks,
        batch: Transition,
        target: Any,
        key: PRNGKeyArray,
        where: Bool[Array, " B"] | None = None,
        /,
    ) -> Float[Array, " B"]: ...


@runtime_checkable
class Weight(Protocol):
    """Weights of advantages, ``(B,)``, and metrics of ``(B,)`` each, which are averaged over the samples in use."""

    def __call__(self, config: Any, advantage: Float[Array, " B"], /) -> tuple[Float[Array, " B"], Metrics]: ...


@runtime_checkable
class MakeActorTarget(Protocol):
    """The actions that the policy is fitted to, and their weights."""

    def __call__(
        self,
        algorithm: Algorithm,
        config: Any,
        networks: Networks,
        batch: Transition,
        advantage: Float[Array, " B"],
        key: PRNGKeyArray,
        where: Bool[Array, " B"] | None = None,
        /,
    ) -> ActorTarget: ...


def no_critic(*_: Any) -> None:
    """Return None: there is no value to learn."""


def no_extra(*_: Any) -> None:
    """Return None: nothing is adapted but the networks."""


def no_target(*_: Any) -> tuple[()]:
    """Return nothing to regress to."""
    return ()


def no_loss(*_: Any) -> tuple[Array, Metrics]:
    """Return 0."""
    return jnp.zeros(()), {}


def no_advantage(config: Any, networks: Networks, batch: Transition, *_: Any) -> Float[Array, " B"]:
    """Return 0: no action is better than another."""
    return jnp.zeros_like(batch.reward)


def equal_weight(config: Any, advantage: Float[Array, " B"]) -> tuple[Float[Array, " B"], Metrics]:
    """Return 1."""
    return jnp.ones_like(advantage), {}


def replayed_actions(
    algorithm: Algorithm,
    config: Any,
    networks: Networks,
    batch: Transition,
    advantage: Float[Array, " B"],
    key: PRNGKeyArray,
    where: Bool[Array, " B"] | None = None,
) -> ActorTarget:
    """Return the batch's own actions, each with the weight of its advantage."""
    found = algorithm.weight(config, advantage)
    check_pair("weight", algorithm.weight, found, advantage.shape)
    weight, metrics = found
    averaged = {name: value.mean(where=where) for name, value in metrics.items()}
    return ActorTarget(batch.obs, batch.action, weight, {**describe_weights(advantage, weight, where), **averaged})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm:
    """An algorithm: its settings and what it puts into the update; what it leaves out is behaviour cloning's.

    Raises:
        AlgorithmError: a slot that there is not, or a function that takes other arguments than its slot's.
    """

    config: type[Config]
    critic: MakeCritic = no_critic
    value_target: ValueTarget = no_target
    critic_loss: CriticLoss = no_loss
    advantage: Advantage = no_advantage
    weight: Weight = equal_weight
    actor_target: MakeActorTarget = replayed_actions
    extra: MakeExtra = no_extra

    def __new__(cls, **slots: Any) -> Algorithm:
        known = [field.name for field in dataclasses.fields(cls)]
        for name in slots:
            if name not in known:
                raise AlgorithmError(f"'{name}' is not a slot of an algorithm.{did_you_mean(name, known)}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for slot, protocol in _PROTOCOLS.items():
            _, *wanted = inspect.signature(protocol.__call__).parameters
            check_arguments(slot, getattr(self, slot), wanted)


_PROTOCOLS = {
    "critic": MakeCritic,
    "value_target": ValueTarget,
    "critic_loss": CriticLoss,
    "advantage": Advantage,
    "weight": Weight,
    "actor_target": MakeActorTarget,
    "extra": MakeExtra,
}
