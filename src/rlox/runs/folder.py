"""A run's folder, for the one trainer that writes to it: its lock, its log and its checkpoints."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from rlox.errors import ConfigError, RunExistsError, RunInUseError, one_line
from rlox.files import as_typed, remove_sides
from rlox.runs import checkpoint
from rlox.runs.checkpoint import Arrays
from rlox.runs.lock import LOCK, claim, release
from rlox.runs.logs import CONFIG, LAST_SAVED, RunLog, check_new

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
        # Absolute: a simulator or a notebook may change the working directory.
        self.path, self.logged, self._stamp = path.absolute(), logged, stamp
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
        lock = claim(self.path)
        if checkpoint.stamp(self.path) != self._stamp:
            release(lock)
            raise RunInUseError(f"'{self.path}' has gone on since this trainer loaded it: load it again.")
        self._lock = lock
        for name in (checkpoint.NAME, checkpoint.BEST, CONFIG):
            remove_sides(self.path / name)

    @property
    def claimed(self) -> bool:
        """Whether others are kept out."""
        return self._lock is not None

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
            self.flush()
            checkpoint.save(self.path, *make())
        except OSError as error:
            self.failed = error
            self._warn("A checkpoint", error)
            return
        self.written(what)

    def flush(self) -> None:
        """Write the log to the disk, and count its bytes for the checkpoint that follows.

        Raises:
            OSError: it cannot be written.
        """
        if self._log:
            self._log.flush()
            self.logged = self._log.logged

    def written(self, what: str) -> None:
        """Note that the latest checkpoint is this trainer's, and where the run is in it."""
        self.failed, self._stamp = None, checkpoint.stamp(self.path)
        self.last_saved = last_saved(self.path, what)

    def save_best(self, make: Make) -> bool:
        """Write the checkpoint that is kept as the best one; returns whether it could be."""
        try:
            checkpoint.write(self.path / checkpoint.BEST, *make())
        except OSError as error:
            self._warn("The best checkpoint", error)
            return False
        return True

    def _warn(self, what: str, error: OSError) -> None:
        last = f" {self.last_saved}" if self.last_saved else ""
        warnings.warn(
            f"{what} could not be written to '{as_typed(self.path)}' ({one_line(error)}): training goes on.{last}",
            stacklevel=2,
        )


def last_saved(path: Path, what: str) -> str:
    """Return the sentence about the last good checkpoint of a run, which is at ``what``."""
    return f"{LAST_SAVED} '{as_typed(path / checkpoint.NAME)}', of {what}."


@contextlib.contextmanager
def may_write(path: Path, own: RunFolder | None, what: str) -> Iterator[bool]:
    """Keep other writers out of a folder that a checkpoint is saved to; yields whether it is the saving run's ``own``.

    Args:
        path: the folder.
        own: the run's.
        what: where the run is, in a word.

    Raises:
        RunInUseError: another trainer writes to it.
        RunExistsError: it is another run's.
    """
    if own is not None and path.resolve() == own.path.resolve():
        held = own.claimed
        own.claim()
        try:
            own.flush()
            yield True
            own.written(what)
        finally:
            if not held:
                own.release()
        return
    lock = claim(path) if (path / LOCK).exists() else None
    try:
        if (path / CONFIG).exists():
            raise RunExistsError(f"'{as_typed(path)}' is the folder of another run: name another one to save to.")
        yield False
    finally:
        if lock:
            release(lock)
