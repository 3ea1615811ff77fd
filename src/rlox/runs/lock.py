"""One writer for a run's folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from rlox.errors import RunInUseError

LOCK = ".lock"
OWNER = ".owner.json"


def claim(folder: Path, other: str = "run_dir") -> FileLock:
    """Return the lock of a folder, taken; the system frees it if its owner is killed.

    Args:
        folder: that of a run, or of a search.
        other: what names another folder.

    Raises:
        RunInUseError: someone else has it.
        OSError: the folder cannot be written to.
    """
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise RunInUseError(
            f"'{folder}' is being written to by {_owner(folder)}: wait until it ends, or name another {other}."
        ) from None
    # On a full disk the lock holds, and only its owner's name is missing.
    with contextlib.suppress(OSError):
        (folder / OWNER).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    return lock


def release(lock: FileLock) -> None:
    """Give back a folder."""
    with contextlib.suppress(OSError):
        Path(lock.lock_file).with_name(OWNER).unlink(missing_ok=True)
    lock.release()


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep others out of the folder of a comparison or a search.

    Raises:
        RunInUseError: someone else has it.
        OSError: the folder cannot be written to.
    """
    lock = claim(folder, "output")
    try:
        yield
    finally:
        release(lock)


def _owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / OWNER).read_text())
        pid, host = int(owner["pid"]), str(owner["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    own = (pid, host) == (os.getpid(), socket.gethostname())
    return f"process {pid} on {host!r}" + (" (this one: close the trainer that does)" if own else "")
