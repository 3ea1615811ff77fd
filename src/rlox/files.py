"""Files that are in place whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from rlox.errors import ConfigError


@contextlib.contextmanager
def whole(path: Path, older: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield an empty file of the same suffix to write to, which takes the place of ``path`` if all goes well.

    It is flushed to the disk before it is moved, and the folder after that, so that a crash at any moment leaves a
    whole file. Its permissions are those of a new file.

    Args:
        path: what is replaced.
        older: where the files that were at ``path`` are kept, the last one first.

    Raises:
        OSError: it could not be written, and what was there is still there.
    """
    side = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        side.touch()
        mode = side.stat().st_mode
        yield side
        side.chmod(mode)
        flush(side)
        for newer, kept in reversed(list(pairwise([path, *older]))):
            if newer.exists():
                newer.replace(kept)
        side.replace(path)
        flush(path.parent)
    finally:
        with contextlib.suppress(OSError):
            side.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Write what is buffered of a file or a folder to the disk."""
    folder, on_windows = path.is_dir(), os.name == "nt"
    if folder and on_windows:
        return  # Where folders cannot be opened.
    number = os.open(path, os.O_RDWR if on_windows else os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        # Some file systems over a network do not flush folders.
        if not folder or error.errno not in (errno.EBADF, errno.EINVAL):
            raise
    finally:
        os.close(number)


def remove_sides(path: Path) -> None:
    """Remove what writers of ``path`` that were killed have left."""
    for side in path.parent.glob(f".*.{path.name}"):
        side.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if they are not there.

    Raises:
        ConfigError: there is a file, or the system refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"'{path}' is a file: name a folder.") from None
    except OSError as error:
        raise ConfigError(f"The folder '{path}' cannot be made: {error.strerror}. Choose another place.") from None


def as_typed(path: Path) -> Path:
    """Return a path as it would be typed here: relative if it is below the working directory."""
    with contextlib.suppress(OSError, ValueError):  # the directory is gone, or the path is elsewhere
        return path.relative_to(Path.cwd())
    return path


def as_name(text: str) -> str:
    """Return a text, such as the id of an environment, as the name of a file or folder."""
    return text.replace("/", "-").replace(":", "-")


def check_place(path: Path) -> None:
    """Refuse a path where no file can be.

    Raises:
        ConfigError: there is no such folder, or it is one.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"'{path}' cannot be written: there is no folder '{path.parent}'. Make it first.")
    if path.is_dir():
        raise ConfigError(f"'{path}' cannot be written: it is a folder. Choose another name.")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Do as ``whole``, and refuse a path that cannot be written to in one line.

    What goes wrong inside the block is not the path's fault; ``refusing`` is for what is.

    Raises:
        ConfigError: there is no such folder, or no file can be written there; what was there stays.
    """
    check_place(path)
    with contextlib.ExitStack() as stack:
        with refusing(path):
            side = stack.enter_context(whole(path))
        yield side
        with refusing(path):
            stack.close()


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
