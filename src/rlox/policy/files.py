"""Files that are in place whole, or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rlox.errors import ConfigError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give an empty file beside ``path`` to write to, of the same suffix, and move it to ``path`` if all went well.

    Raises:
        ConfigError: there is no such folder, or no file can be written there; what was there stays.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"'{path}' cannot be written: there is no folder '{path.parent}'. Make it first.")
    if path.is_dir():
        raise ConfigError(f"'{path}' cannot be written: it is a folder. Choose another name.")
    side = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with refusing(path):
            side.touch()
        yield side
        with refusing(path):
            with side.open("rb") as file:
                os.fsync(file.fileno())
            side.replace(path)
    finally:
        with contextlib.suppress(OSError):
            side.unlink()


@contextlib.contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Say of an error of the system, in one line, that it keeps ``path`` from being written.

    Raises:
        ConfigError: with the reason, and the way out.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or "the program that writes it stopped"
        raise ConfigError(f"'{path}' cannot be written: {reason}. Make room there, or choose another place.") from None
