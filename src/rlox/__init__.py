"""Advantage-weighted reinforcement learning: one Trainer for environments and data."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlox import callbacks, loggers
    from rlox.algorithms import ALGORITHMS, register
    from rlox.compilation import set_compilation_cache
    from rlox.core.algorithm import Algorithm
    from rlox.core.config import Config, setting
    from rlox.data.dataset import Dataset
    from rlox.policy.policy import Policy
    from rlox.search.tune import tune
    from rlox.seeds import train_offline_seeds
    from rlox.spec import RunSpec
    from rlox.trainer import Trainer

__version__ = "0.1.0"
__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Config",
    "Dataset",
    "Policy",
    "RunSpec",
    "Trainer",
    "__version__",
    "callbacks",
    "loggers",
    "register",
    "set_compilation_cache",
    "setting",
    "train_offline_seeds",
    "tune",
]

# JAX takes most of a second to import: `rlox --help` and `rlox.__version__` do without it.
_HOME = {
    "ALGORITHMS": "rlox.algorithms",
    "Algorithm": "rlox.core.algorithm",
    "Config": "rlox.core.config",
    "Dataset": "rlox.data.dataset",
    "Policy": "rlox.policy.policy",
    "RunSpec": "rlox.spec",
    "Trainer": "rlox.trainer",
    "register": "rlox.algorithms",
    "set_compilation_cache": "rlox.compilation",
    "setting": "rlox.core.config",
    "train_offline_seeds": "rlox.seeds",
    "tune": "rlox.search.tune",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in ("callbacks", "loggers"):
        return import_module(f"rlox.{name}")
    raise AttributeError(f"module 'rlox' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
