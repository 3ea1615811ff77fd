"""What is learned: a page an algorithm, and the registry of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rlox.algorithms.awac import AWAC
from rlox.algorithms.awr import AWR
from rlox.algorithms.bc import BC
from rlox.algorithms.crr import CRR
from rlox.algorithms.iql import IQL
from rlox.algorithms.marwil import MARWIL
from rlox.algorithms.mpo import MPO
from rlox.algorithms.others import PPO, SAC, TD3, Other
from rlox.core.algorithm import Algorithm
from rlox.core.config import Config
from rlox.errors import CheckpointError, ConfigError, did_you_mean
from rlox.presets import TUNED

ALGORITHMS: dict[str, Any] = {
    "awr": AWR,
    "bc": BC,
    "marwil": MARWIL,
    "awac": AWAC,
    "crr": CRR,
    "iql": IQL,
    "mpo": MPO,
    "ppo": PPO,
    "sac": SAC,
    "td3": TD3,
}
"""By name: an ``Algorithm``, or an ``Other`` of another library."""


def find_algorithm(name: str) -> tuple[str, Algorithm | Other]:
    """Return an algorithm's name in lower case, and the algorithm; ``name`` in any case.

    Raises:
        ConfigError: no such algorithm; the nearest is named.
    """
    key = str(name).lower()
    if key == TUNED:
        raise ConfigError(
            "'tuned' is the best algorithm of an environment to learn in (rlox list presets): here, name an algorithm, "
            "such as 'awr'."
        )
    if key not in ALGORITHMS:
        raise ConfigError(f"'{name}' is not an algorithm of rlox.{did_you_mean(key, [*ALGORITHMS, TUNED])}")
    return key, ALGORITHMS[key]


def find_saved(name: str, path: str | Path) -> Algorithm | Other:
    """Return the algorithm of a saved run.

    Raises:
        CheckpointError: it is one that somebody registered, and nothing has registered it here.
    """
    if name not in ALGORITHMS:
        raise CheckpointError(
            f"Run '{path}' was trained by '{name}', which is not an algorithm of rlox: import the module that "
            "registers it first (on the command line: --import MODULE)."
        )
    return ALGORITHMS[name]


def register(name: str, algorithm: Algorithm) -> None:
    """Add an algorithm of your own: ``Trainer`` knows it by its name, and so does the command line.

    Args:
        name: lower-case letters, digits and underscores, such as ``my_awr``.
        algorithm: what it puts into the update.

    Raises:
        ConfigError: a name of another form or one that is taken, or something that is not an algorithm.
    """
    if not isinstance(name, str) or not name.isidentifier() or not name.isascii() or name != name.lower():
        raise ConfigError(
            f"{name!r} cannot name an algorithm: use lower-case letters, digits and underscores, such as 'my_awr'."
        )
    if name in (*ALGORITHMS, TUNED):
        raise ConfigError(f"'{name}' is an algorithm already: register yours under another name.")
    if not isinstance(algorithm, Algorithm):
        raise ConfigError(f"'{name}' is a {type(algorithm).__name__}: register takes an rlox.Algorithm.")
    if not (isinstance(algorithm.config, type) and issubclass(algorithm.config, Config)):
        raise ConfigError(f"The config of '{name}' must be a subclass of rlox.Config.")
    if any(isinstance(value, dataclasses.Field) for value in vars(algorithm.config).values()):
        raise ConfigError(
            f"The config of '{name}' has settings, but is no dataclass: put @dataclasses.dataclass(frozen=True, "
            f"kw_only=True) above class {algorithm.config.__name__}."
        )
    ALGORITHMS[name] = algorithm
