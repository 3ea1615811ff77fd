"""Several runs in one program: the same data, a state each, and settings that are numbers of the program."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from rlox.core.algorithm import Algorithm
from rlox.core.programs import Report, make_learn_offline, make_learn_round
from rlox.core.replay import Replay
from rlox.core.state import TrainState

Numbers = Mapping[str, Float[Array, " runs"]]
"""A value for each run, by the setting's name."""
IN_TURN = 8_192
"""Width of a hidden layer times minibatch above which, on a CPU, runs take turns within the program."""
LearnTogether = Callable[
    [Sequence[TrainState], Numbers, Replay, ArrayLike], tuple[Sequence[TrainState], Sequence[Report]]
]
"""From states, which are used up, and a replay, which stays usable."""


@functools.lru_cache(maxsize=8)
def compile_together(algorithm: Algorithm, config: Any) -> LearnTogether:
    """Return ``learn(states, numbers, data, n)``: so many updates of each state, or in rounds one round.

    Each state learns as it would alone: it draws its own minibatches from the data. ``config`` has the settings that
    the runs share, ``numbers`` those in which they differ.
    """

    def learn(
        states: Sequence[TrainState], numbers: Numbers, data: Replay, n: ArrayLike
    ) -> tuple[Sequence[TrainState], Sequence[Report]]:
        def learn_one(state: TrainState, own: Mapping[str, Array]) -> tuple[TrainState, Report]:
            return learn_alone(algorithm, with_numbers(config, own), state, data, n)

        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        if take_turns(config):
            found = lax.map(lambda own: learn_one(*own), (stacked, dict(numbers)))
        else:
            found = jax.vmap(learn_one)(stacked, numbers)
        parts = [jax.tree.map(lambda leaf: leaf[i], found) for i in range(len(states))]  # noqa: B023
        return [state for state, _ in parts], [report for _, report in parts]

    return jax.jit(learn, donate_argnums=0)


def take_turns(config: Any) -> bool:
    """Return whether runs take turns: one keeps a CPU busy, and stays in its caches, where several do not."""
    return jax.default_backend() == "cpu" and config.batch_size * max(config.widths) > IN_TURN


def learn_alone(
    algorithm: Algorithm, config: Any, state: TrainState, data: Replay, n: ArrayLike
) -> tuple[TrainState, Report]:
    """Return a state after so many updates from a replay, or after one round, and the last metrics."""
    if config.rollout_steps:
        return make_learn_round(algorithm, config)(state, data)
    return make_learn_offline(algorithm, config)(state, data, n)


def with_numbers(config: Any, numbers: Mapping[str, Any]) -> Any:
    """Return settings in which some are numbers of a program; they were checked where they were given."""
    found = copy.copy(config)
    for name, number in numbers.items():
        object.__setattr__(found, name, number)
    return found
