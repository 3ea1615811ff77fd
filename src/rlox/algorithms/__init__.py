"""What is learned: one page a member, and the registry of them."""

from __future__ import annotations

from rlox.algorithms import awr
from rlox.core.update import Algorithm
from rlox.errors import ConfigError, did_you_mean

ALGORITHMS: dict[str, Algorithm] = {
    "awr": Algorithm(awr.AWRConfig, awr.value_target, awr.critic_loss, awr.advantage, awr.weight),
}


def find_algorithm(name: str) -> tuple[str, Algorithm]:
    """Return an algorithm's canonical name and its holes; ``name`` in any case.

    Raises:
        ConfigError: no such algorithm; the nearest is named.
    """
    key = str(name).lower()
    if key not in ALGORITHMS:
        raise ConfigError(f"'{name}' is not an algorithm of rlox.{did_you_mean(key, ALGORITHMS)}")
    return key, ALGORITHMS[key]
