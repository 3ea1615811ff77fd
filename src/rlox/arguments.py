"""Numbers that users give: how many, and which seed."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from rlox.errors import ConfigError

_END = 2**63
"""Numbers below it fit in a signed integer of 64 bits, as files and environments have them."""


def check_positive(**numbers: Any) -> None:
    """Refuse numbers that are not whole or below 1.

    Raises:
        ConfigError: the name and the number.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, Integral) or not 1 <= int(number) < _END:
            raise ConfigError(f"{name}={number!r} must be a whole number of at least 1.")


def check_seed(seed: Any) -> None:
    """Refuse what cannot be a seed.

    Raises:
        ConfigError: it is not a whole number, below 0 or of more than 63 bits.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or int(seed) < 0:
        raise ConfigError(f"seed={seed!r} must be a whole number of at least 0.")
    if int(seed) >= _END:
        raise ConfigError(f"seed={seed} is too large: it must be below 2^63.")
