"""What is learned: one page a member, and the registry of them."""

from __future__ import annotations

from rlox.algorithms import awac, awr, bc, crr, iql, marwil
from rlox.core import q_learning as q
from rlox.core.networks import Critic, QFunction
from rlox.core.update import Algorithm
from rlox.errors import ConfigError, did_you_mean

ALGORITHMS: dict[str, Algorithm] = {
    "awr": Algorithm(awr.AWRConfig, Critic, awr.value_target, awr.predict, awr.critic_loss, awr.advantage, awr.weight),
    "bc": Algorithm(bc.BCConfig, bc.no_critic, bc.value_target, bc.no_critic, bc.critic_loss, bc.advantage, bc.weight),
    "marwil": Algorithm(
        marwil.MARWILConfig,
        Critic,
        marwil.value_target,
        awr.predict,
        marwil.critic_loss,
        marwil.advantage,
        marwil.weight,
    ),
    "awac": Algorithm(awac.AWACConfig, QFunction, q.td_target, q.predict, q.squared_loss, awac.advantage, awac.weight),
    "crr": Algorithm(crr.CRRConfig, QFunction, q.td_target, q.predict, q.squared_loss, crr.advantage, crr.weight),
    "iql": Algorithm(
        iql.IQLConfig, iql.make_critic, iql.value_target, iql.predict, iql.critic_loss, iql.advantage, iql.weight
    ),
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
