"""Behaviour cloning: the policy is fitted to the data's actions, all of the same weight."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rlox.core.config import Config
from rlox.core.state import Networks, Transition


@dataclasses.dataclass(frozen=True, kw_only=True)
class BCConfig(Config):
    """Settings of behaviour cloning: plain maximum likelihood, the baseline of everything else."""


def no_critic(*_: Any) -> None:
    """Return nothing: cloning needs no value."""


def critic_loss(config: BCConfig, target: tuple[()], predicted: None) -> Float[Array, ""]:
    """Return 0."""
    return jnp.zeros(())


def value_target(config: BCConfig, networks: Networks, batch: Transition, key: PRNGKeyArray) -> tuple[()]:
    """Return nothing: there is no critic to fit."""
    return ()


def advantage(
    config: BCConfig,
    networks: Networks,
    batch: Transition,
    target: tuple[()],
    key: PRNGKeyArray,
    where: Bool[Array, " B"] | None = None,
) -> Float[Array, " B"]:
    """Return 0: no action is better than another."""
    return jnp.zeros_like(batch.reward)


def weight(config: BCConfig, advantage: Float[Array, " B"]) -> Float[Array, " B"]:
    """Return 1."""
    return jnp.ones_like(advantage)
