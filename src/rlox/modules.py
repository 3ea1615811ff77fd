"""Modules of the user's own, imported because the caller names them and never because a file does."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from rlox.errors import ConfigError, did_you_mean

IMPORTED: list[str] = []
"""Modules that this command has imported because the caller named them."""


def import_named(name: str, purpose: str) -> ModuleType:
    """Return the module of this name; ``purpose`` begins the message where there is none.

    Raises:
        ConfigError: no such module (the nearest in the current directory is named), or one that it imports is missing.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{purpose}: '{name}' is not the name of a module.{_near(name)}")
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if name == missing or name.startswith(f"{missing}."):
            where = "in the current directory or on Python's path"
            raise ConfigError(f"{purpose}: there is no module '{name}' {where}.{_near(name)}") from None
        raise ConfigError(f"{purpose}: module '{name}' needs '{missing}', which is not installed.") from None
    IMPORTED.append(name)
    return module


def flags_again(env: str | None) -> str:
    """Return the flags that a later command needs for a run in this environment: no saved run imports a module."""
    named = env.rpartition(":")[0] if env is not None else ""
    modules = [f" --import {name}" for name in dict.fromkeys(IMPORTED) if name != named]
    return (f" --env {env}" if named else "") + "".join(modules)


def _near(name: str) -> str:
    here = [path.stem for path in Path.cwd().glob("*.py")] + [path.parent.name for path in Path.cwd().glob("*/*.py")]
    return did_you_mean(name.removesuffix(".py"), here) if len(here) < 200 else ""
