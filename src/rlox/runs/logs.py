"""Where metrics go: a run folder's files."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import platform
import shlex
import socket
import struct
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from io import FileIO
from pathlib import Path
from typing import Any

from rlox import __version__
from rlox.errors import RunExistsError, one_line
from rlox.files import flush, whole

CONFIG = "config.json"
METRICS = "metrics.jsonl"
LAST_SAVED = "The last good checkpoint is"
"""How the sentence begins that says what is left of a run."""
SETTINGS, LOG, FINISHED = ".toml", ".log", ".finished"
"""Suffixes of the files beside a run's folder: its specification, what it says, and that it has ended well."""


def versions() -> dict[str, str]:
    """Return the versions that a run's numbers depend on."""
    packages = ("jax", "jaxlib", "equinox", "optax", "gymnasium", "numpy")
    others = [name for name in ("stable_baselines3", "torch") if name in sys.modules]
    found = {name: version(name) for name in (*packages, *others)}
    return {"python": platform.python_version(), "rlox": __version__, **found}


def check_new(run_dir: Path) -> None:
    """Refuse a run folder that holds anything but hidden files, such as those of a run that was killed at its start.

    Raises:
        RunExistsError: it does.
    """
    if run_dir.is_file():
        raise RunExistsError(f"run_dir '{run_dir}' is a file: name a new folder.")
    if run_dir.is_dir() and any(not path.name.startswith(".") for path in run_dir.iterdir()):
        raise RunExistsError(
            f"run_dir '{run_dir}' already holds files: name a new folder, or continue the run in it by "
            f"Trainer.load('{run_dir}').train() or `rlox resume {shlex.quote(str(run_dir))}`."
        )


class RunLog:
    """The files of a run: ``config.json``, ``metrics.jsonl`` with a line for each record, and TensorBoard events.

    The events are made from the lines: those of an environment are over environment steps, those of offline learning
    are a run beside it, ``offline``, over gradient steps. What cannot be written (a full disk) is written with the next
    record, and training goes on.

    Args:
        run_dir: the folder.
        description: what ``config.json`` says.
        logged: bytes of ``metrics.jsonl`` that belong to the run so far; what follows them was written after the
            checkpoint that it continues from, and is written again.
        waiting: lines that could not be written before.
    """

    def __init__(self, run_dir: Path, description: dict[str, Any], *, logged: int, waiting: bytes = b""):
        self._folder, self._description, self.logged = run_dir, description, logged
        self._file: FileIO | None = None
        self.waiting, self._before = waiting, 0
        self._events: dict[bool, FileIO] = {}
        self._write()

    def _open(self) -> FileIO:
        """Return ``metrics.jsonl``, cut to what belongs to the run."""
        if self._file is None:
            with whole(self._folder / CONFIG) as side:
                side.write_text(json.dumps({**self._description, "versions": versions()}, indent=2) + "\n")
            file = (self._folder / METRICS).open("ab", buffering=0)
            try:
                self._cut(file)
            except BaseException:
                file.close()
                raise
            self._file = file
        return self._file

    def _cut(self, file: FileIO) -> None:
        found = file.tell()
        if found < self.logged:
            warnings.warn(
                f"'{self._folder / METRICS}' has {found:,} bytes, and had {self.logged:,} at the checkpoint that the "
                "run continues from: records are missing.",
                stacklevel=2,
            )
        self.logged = min(self.logged, found)
        file.truncate(self.logged)

    def __enter__(self) -> RunLog:
        return self

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """Append one record."""
        record = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self.waiting += json.dumps({"time": round(time.time(), 3), **record}).encode() + b"\n"
        self._write()

    def flush(self) -> None:
        """Write the lines to the disk, so that a checkpoint that counts them does not outlive them.

        Raises:
            OSError: they cannot be written.
        """
        self._append()
        flush(self._folder / METRICS)

    def _write(self) -> None:
        """Write what is waiting, and the events of it; say what cannot be written."""
        try:
            new = self._append()
        except OSError as error:
            self._close_events()
            warnings.warn(
                f"Metrics could not be written to '{self._folder}' ({one_line(error)}): training goes on, and the next "
                "record tries again.",
                stacklevel=2,
            )
            return
        try:
            if not self._events:
                self._make_events()
            else:
                for line in new.splitlines():
                    self._add_events(json.loads(line))
        except OSError:
            # Made again, from the lines, with the next record.
            self._close_events()

    def _append(self) -> bytes:
        """Append the lines that are waiting, all or none; returns them."""
        file, lines = self._open(), self.waiting
        try:
            if file.write(lines) != len(lines):
                raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(self.logged)
            raise
        self.waiting = b""
        self.logged += len(lines)
        return lines

    def _make_events(self) -> None:
        """Write the event files anew from the lines so far."""
        for folder in (self._folder, self._folder / "offline"):
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        self._close_events()
        self._before = 0
        for record in records(self._folder):
            self._add_events(record)

    def _add_events(self, record: Mapping[str, Any]) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.summary import scalar

        # Only offline learning leaves the environment where it was.
        offline = record["env_steps"] == self._before
        self._before = record["env_steps"]
        if offline not in self._events:
            self._events[offline] = _events_file(self._folder / "offline" if offline else self._folder, record["time"])
        at = int(record["gradient_steps" if offline else "env_steps"])
        scalars = [scalar(name, value) for name, value in record.items() if "/" in name and value is not None]
        events = [Event(wall_time=record["time"], step=at, summary=summary) for summary in scalars]
        self._events[offline].write(b"".join(_framed(event.SerializeToString()) for event in events))

    def __exit__(self, *error: object) -> None:
        if self._file:
            self._file.close()
        self._close_events()

    def _close_events(self) -> None:
        while self._events:
            with contextlib.suppress(OSError):
                self._events.popitem()[1].close()


def _events_file(folder: Path, time: float) -> FileIO:
    """Return a new file for TensorBoard. It is not buffered, so that readers see each record as it comes."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    folder.mkdir(exist_ok=True)
    file = (folder / f"events.out.tfevents.{int(time)}.{socket.gethostname()}").open("wb", buffering=0)
    file.write(_framed(Event(wall_time=time, file_version="brain.Event:2").SerializeToString()))
    return file


def _framed(data: bytes) -> bytes:
    """Return a record of a TFRecord file: length, its checksum, data, their checksum."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


def records(run_dir: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a run in order; a line that is cut ends them."""
    with contextlib.suppress(FileNotFoundError), (run_dir / METRICS).open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield json.loads(line)
