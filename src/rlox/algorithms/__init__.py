"""What is learned: a page an algorithm, and the registry of them."""

from __future__ import annotations

import re

from rlox.algorithms.awac import AWAC
from rlox.algorithms.awr import AWR
from rlox.algorithms.bc import BC
from rlox.algorithms.crr import CRR
from rlox.algorithms.iql import IQL
from rlox.algorithms.marwil import MARWIL
from rlox.core.algorithm import Algorithm
from rlox.core.config import Config
from rlox.errors import ConfigError, did_you_mean

ALGORITHMS: dict[str, Algorithm] = {"awr": AWR, "bc": BC, "marwil": MARWIL, "awac": AWAC, "crr": CRR, "iql": IQL}


def find_algorithm(name: str) -> tuple[str, Algorithm]:
    """Return an algorithm's name in lower case, and the algorithm; ``name`` in any case.

    Raises:
        ConfigError: no such algorithm; the nearest is named.
    """
    key = str(name).lower()
    if key not in ALGORITHMS:
        raise ConfigError(f"'{name}' is not an algorithm of rlox.{did_you_mean(key, ALGORITHMS)}")
    return key, ALGORITHMS[key]


def register(name: str, algorithm: Algorithm) -> None:
    """Make an algorithm of one's own known by a name, to ``Trainer``, to loading and to the command line.

    Args:
        name: lower-case letters, digits and underscores; not that of another algorithm.
        algorithm: its settings and functions.

    Raises:
        ConfigError: the name is malformed or taken, or ``algorithm`` is not one.
    """
    if not isinstance(algorithm, Algorithm) or not issubclass(algorithm.config, Config):
        raise ConfigError(f"register('{name}', ...) takes an rlox.Algorithm whose config is a subclass of rlox.Config.")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)):
        raise ConfigError(f"'{name}' cannot name an algorithm: use lower-case letters, digits and underscores.")
    if ALGORITHMS.get(name, algorithm) is not algorithm:
        raise ConfigError(f"'{name}' is an algorithm of rlox already: choose another name.")
    ALGORITHMS[name] = algorithm
