"""A run's folder, for the one trainer that writes to it: its lock, its log and its checkpoints."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from rlox.errors import ConfigError, RunInUseError, one_line
from rlox.runs import checkpoint
from rlox.runs.checkpoint import Arrays
from rlox.runs.lock import LOCK, claim, release
from rlox.runs.logs import RunLog, check_new

Make = Callable[[], tuple[Arrays, dict[str, Any]]]
"""Makes the arrays and the header of a checkpoint."""


class RunFolder:
    """Writes a run. What cannot be written is said, and training goes on.

    Args:
        path: the folder.
        logged: bytes of ``metrics.jsonl`` at the checkpoint that the run continues from.
        stamp: of that checkpoint.
    """

    def __init__(self, path: Path, *, logged: int = 0, stamp: tuple[int, ...] | None = None):
        self.path, self.logged, self._stamp = path, logged, stamp
        self.failed: OSError | None = None
        """Why the last checkpoint could not be written."""
        self.last_saved = ""
        """A sentence about the last good checkpoint."""
        self._lock: FileLock | None = None
        self._log: RunLog | None = None
        self._waiting = b""

    @classmethod
    def new(cls, path: Path) -> RunFolder:
        """Make a folder for a new run, and claim it.

        Raises:
            RunExistsError: it already holds files.
            RunInUseError: another trainer writes to it.
            ConfigError: it cannot be made.
        """
        check_new(path)
        folder = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder.claim()
        except OSError as error:
            raise ConfigError(f"run_dir '{path}' cannot be written to: {one_line(error)}.") from None
        return folder

    def claim(self) -> None:
        """Keep other writers out, until ``release`` or the end of the process.

        Raises:
            RunInUseError: another trainer writes to it, or has written to it since it was loaded.
        """
        if self._lock is not None:
            return
        try:
            lock = claim(self.path)
        except NotImplementedError:  # A file system without locks.
            return
        if checkpoint.stamp(self.path) != self._stamp:
            release(lock)
            raise RunInUseError(f"'{self.path}' has gone on since this trainer loaded it: load it again.")
        self._lock = lock

    def release(self) -> None:
        """Let others write."""
        if self._lock is not None:
            release(self._lock)
            self._lock = None

    def begin(self) -> None:
        """Claim the folder; one that cannot be written to is said.

        Raises:
            RunInUseError: as ``claim`` does.
        """
        try:
            self.claim()
        except OSError as error:
            self._warn("The run", error)

    @contextlib.contextmanager
    def logging(self, description: dict[str, Any]) -> Iterator[None]:
        """Keep the log open."""
        with RunLog(self.path, description, logged=self.logged, waiting=self._waiting) as self._log:
            try:
                yield
            finally:
                self.logged, self._waiting, self._log = self._log.logged, self._log.waiting, None

    def log(self, record: Mapping[str, float]) -> None:
        """Append one record of metrics."""
        if self._log:
            self._log(record)

    def save(self, make: Make, what: str) -> None:
        """Write a checkpoint.

        Args:
            make: makes it; called when ``logged`` is what the disk has.
            what: where the run is, in a word.
        """
        try:
            self.claim()
            if self._log:
                self._log.flush()
                self.logged = self._log.logged
            checkpoint.save(self.path, *make())
        except OSError as error:
            self.failed = error
            self._warn("A checkpoint", error)
            return
        self.written()
        self.last_saved = f"The last good checkpoint is '{self.path / checkpoint.NAME}', of {what}."

    def written(self) -> None:
        """Note that the latest checkpoint is this trainer's."""
        self.failed, self._stamp = None, checkpoint.stamp(self.path)

    def save_best(self, make: Make) -> None:
        """Write the checkpoint that is kept as the best one."""
        try:
            checkpoint.write(self.path / checkpoint.BEST, *make())
        except OSError as error:
            self._warn("The best checkpoint", error)

    def _warn(self, what: str, error: OSError) -> None:
        last = f" {self.last_saved}" if self.last_saved else ""
        warnings.warn(
            f"{what} could not be written to '{self.path}' ({one_line(error)}): training goes on.{last}", stacklevel=2
        )


@contextlib.contextmanager
def may_write(path: Path, own: RunFolder | None) -> Iterator[bool]:
    """Keep other writers out of a folder that a checkpoint is saved to; yields whether it is the saving run's ``own``.

    Raises:
        RunInUseError: another trainer writes to it.
    """
    if own is not None and path.resolve() == own.path.resolve():
        own.claim()
        yield True
        own.written()
        return
    lock = claim(path) if (path / LOCK).exists() else None
    try:
        yield False
    finally:
        if lock:
            release(lock)
