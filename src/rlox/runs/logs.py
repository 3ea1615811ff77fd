"""Where metrics go: a run folder's files."""

from __future__ import annotations

import contextlib
import json
import math
import platform
import time
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlox.errors import RunExistsError, one_line
from rlox.files import flush, whole

CONFIG = "config.json"
METRICS = "metrics.jsonl"


def versions() -> dict[str, str]:
    """Return the versions that a run's numbers depend on."""
    packages = ("rlox", "jax", "jaxlib", "equinox", "optax", "gymnasium", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


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
            f"Trainer.load('{run_dir}').train() or `rlox resume {run_dir}`."
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

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, run_dir: Path, description: dict[str, Any], *, logged: int):
        self._folder, self.logged = run_dir, logged
        self._waiting, self._before = b"", 0
        self._events: dict[bool, Any] = {}
        run_dir.mkdir(parents=True, exist_ok=True)
        with whole(run_dir / CONFIG) as side:
            side.write_text(json.dumps({**description, "versions": versions()}, indent=2) + "\n")
        self._file = (run_dir / METRICS).open("ab", buffering=0)
        found = self._file.tell()
        if found < logged:
            warnings.warn(
                f"'{run_dir / METRICS}' has {found:,} bytes, and had {logged:,} at the checkpoint that the run "
                "continues from: records are missing.",
                stacklevel=2,
            )
            self.logged = found
        self._file.truncate(self.logged)
        self._make_events()

    def __enter__(self) -> RunLog:
        return self

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """Append one record."""
        record = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._waiting += json.dumps({"time": round(time.time(), 3), **record}).encode() + b"\n"
        try:
            written = self._file.write(self._waiting) or 0
            if written < len(self._waiting):
                raise OSError("the disk is full")
        except OSError as error:
            self._events.clear()
            with contextlib.suppress(OSError):
                self._file.truncate(self.logged)
            warnings.warn(
                f"Metrics could not be written to '{self._folder}' ({one_line(error)}): training goes on, and the next "
                "record tries again.",
                stacklevel=2,
            )
            return
        new, self._waiting = self._waiting, b""
        self.logged += written
        try:
            if not self._events:
                self._make_events()
            else:
                for line in new.splitlines():
                    self._add_events(json.loads(line))
        except OSError:
            # Made again, from the lines, with the next record.
            self._events.clear()

    def flush(self) -> None:
        """Write the lines to the disk, so that a checkpoint that counts them does not outlive them."""
        flush(self._folder / METRICS)

    def _make_events(self) -> None:
        """Write the event files anew from the lines so far."""
        for folder in (self._folder, self._folder / "offline"):
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        self._events, self._before = {}, 0
        for record in records(self._folder):
            self._add_events(record)

    def _add_events(self, record: Mapping[str, Any]) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.summary import scalar

        # Only offline learning leaves the environment where it was.
        offline = record["env_steps"] == self._before
        self._before = record["env_steps"]
        if offline not in self._events:
            folder = self._folder / "offline" if offline else self._folder
            folder.mkdir(exist_ok=True)
            self._events[offline] = EventsWriter(str(folder / "events"))
        at = int(record["gradient_steps" if offline else "env_steps"])
        for name, value in record.items():
            if "/" in name and value is not None:
                self._events[offline].write_event(Event(wall_time=record["time"], step=at, summary=scalar(name, value)))
        self._events[offline].flush()

    def __exit__(self, *error: object) -> None:
        self._file.close()
        for events in self._events.values():
            with contextlib.suppress(OSError):
                events.close()


def records(run_dir: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a run in order; a line that is cut ends them."""
    with contextlib.suppress(FileNotFoundError), (run_dir / METRICS).open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield json.loads(line)
