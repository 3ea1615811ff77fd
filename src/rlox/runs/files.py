"""Files that are there whole or not at all, and folders that one writer has to itself."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from filelock import FileLock, Timeout

from rlox.errors import RunInUseError

LOCK = ".lock"
OWNER = ".owner.json"


@contextlib.contextmanager
def whole(path: Path, older: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield an empty file to write to, which takes the place of ``path`` if all goes well.

    It is flushed to the disk before it is moved, and the folder after that, so that a crash at any moment leaves a
    whole file. Its permissions are those of a new file.

    Args:
        path: what is replaced.
        older: where the files that were at ``path`` are kept, the last one first.

    Raises:
        OSError: it could not be written, and what was there is still there.
    """
    side = path.with_name(f".{path.name}.{os.getpid()}")
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
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def remove_sides(folder: Path, name: str) -> None:
    """Remove what writers of ``name`` that were killed have left."""
    for side in folder.glob(f".{name}.*"):
        side.unlink(missing_ok=True)


def claim(folder: Path) -> FileLock:
    """Return the lock of a run's folder, taken; the system frees it if its owner is killed.

    Raises:
        RunInUseError: someone else has it.
        OSError: the folder cannot be written to.
    """
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise RunInUseError(
            f"'{folder}' is being written to by {_owner(folder)}: wait until it ends, or name another run_dir."
        ) from None
    (folder / OWNER).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    return lock


def release(lock: FileLock) -> None:
    """Give back a folder."""
    with contextlib.suppress(OSError):
        Path(lock.lock_file).with_name(OWNER).unlink(missing_ok=True)
    lock.release()


def _owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / OWNER).read_text())
        pid, host = int(owner["pid"]), str(owner["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    own = (pid, host) == (os.getpid(), socket.gethostname())
    return f"process {pid} on {host!r}" + (" (this one: close the trainer that does)" if own else "")
