"""All that changes while a policy is learned."""

from __future__ import annotations

from typing import Any, NamedTuple

import optax
from jaxtyping import Array, Int, PRNGKeyArray

from rlox.core.networks import Actor
from rlox.core.normalizer import Normalizer


class Networks(NamedTuple):
    """What an algorithm's functions see of a state."""

    actor: Actor
    critic: Any
    """The algorithm's critic: V, Q, both, or None."""
    target_critic: Any
    """Polyak copy of the critic; the critic itself if it is its own target."""
    extra: Any = None
    """What else the algorithm adapts; None if it does not."""


class TrainState(NamedTuple):
    """All that an update changes."""

    actor: Actor
    critic: Any
    """The algorithm's critic; None if it has none."""
    target_critic: Any
    """Polyak copy of the critic; None if ``tau`` is 1 and the critic is its own target."""
    actor_opt: optax.OptState
    critic_opt: optax.OptState
    normalizer: Normalizer | None
    """What observations are whitened by before they reach the networks; None if they are not."""
    key: PRNGKeyArray
    gradient_steps: Int[Array, ""]
    """Actor steps so far."""
    diverged_at: Int[Array, ""]
    """The first gradient step with a loss that is not finite; -1 while there is none."""
    extra: Any = None
    """What the algorithm adapts besides its networks; None if it does not."""
    averaged_actor: Actor | None = None
    """Polyak copy of the actor, which is what is evaluated and handed out; None if that is the actor itself."""

    @property
    def result(self) -> Actor:
        """The actor that is evaluated and handed out."""
        return self.actor if self.averaged_actor is None else self.averaged_actor

    def networks(self) -> Networks:
        """Return the networks, the critic as its own target if it has no other."""
        target = self.critic if self.target_critic is None else self.target_critic
        return Networks(self.actor, self.critic, target, self.extra)
