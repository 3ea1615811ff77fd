"""The only place where tests look behind the public names; a change of the inside is followed here."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax

from rlox import Trainer
from rlox.envs.envs import Envs

_traced: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration_secs, **about: (
        _traced.append(str(about.get("fun_name"))) if event.endswith("trace_duration") else None
    )
)


@contextlib.contextmanager
def traces() -> Iterator[Counter[str]]:
    """Count, by name, the functions that are traced inside the block, each time that one is."""
    found: Counter[str] = Counter()
    begin = len(_traced)
    yield found
    found.update(_traced[begin:])


def set_state(trainer: Trainer, **changes: Any) -> None:
    """Give a trainer another policy, normaliser or counter."""
    learner: Any = trainer._learner
    learner.state = trainer.state._replace(**changes)


def training_envs(trainer: Trainer) -> Envs:
    """Return the environments that a trainer learns in."""
    envs = trainer._learner.envs
    assert envs is not None
    return envs
