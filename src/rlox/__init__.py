"""Advantage-weighted reinforcement learning: one Trainer for environments and data."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlox.algorithms import ALGORITHMS, register
    from rlox.data.dataset import Dataset
    from rlox.trainer import Trainer

__version__ = "0.1.0"
__all__ = ["ALGORITHMS", "Dataset", "Trainer", "__version__", "register"]

# JAX takes most of a second to import: `rlox --help` and `rlox.__version__` do without it.
_HOME = {
    "ALGORITHMS": "rlox.algorithms",
    "Dataset": "rlox.data.dataset",
    "Trainer": "rlox.trainer",
    "register": "rlox.algorithms",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'rlox' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
