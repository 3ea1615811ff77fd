"""Where records go besides the run folder: a CSV file, Trackio, Weights & Biases, MLflow, or a function."""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rlox.errors import CheckpointError, ConfigError, RloxError, did_you_mean, one_line
from rlox.runs.csv_file import CSVFile
from rlox.runs.services import MLflowLogger, TrackioLogger, WandbLogger

__all__ = [
    "LOGGERS",
    "CSVLogger",
    "Logger",
    "LoggerLike",
    "Loggers",
    "LoggersLike",
    "MLflowLogger",
    "Record",
    "TrackioLogger",
    "WandbLogger",
]

Record = Mapping[str, float]
"""``env_steps``, ``gradient_steps`` and metrics, whose names are ``group/name``."""


@runtime_checkable
class Logger(Protocol):
    """What records are sent to."""

    def open(self, run: Mapping[str, Any], resume_id: str | None) -> str | None:
        """Get ready, before the first step.

        Args:
            run: what ``config.json`` says, ``run_dir`` (None without a folder), and where training begins:
                ``env_steps`` and ``gradient_steps``.
            resume_id: what ``open`` returned when the run that now continues began; None for a new one.

        Returns:
            By what it finds the run again, if it does; kept in checkpoints.
        """
        ...

    def log(self, record: Record, *, offline: bool) -> None:
        """Take one record; ``offline`` says that it is of learning from data, over gradient steps."""
        ...

    def close(self) -> None:
        """Send what is waiting, and end."""
        ...


LoggerLike = str | Logger | Callable[[dict[str, float]], Any]
"""A name of ``LOGGERS``, a logger, or a function that is called with every record."""
LoggersLike = LoggerLike | Sequence[LoggerLike] | None
"""One, several or none."""


class CSVLogger:
    """Writes a CSV file with a row for each record; a metric that comes later adds a column.

    A run that continues goes on in its file: rows of after its checkpoint are written again.

    Args:
        path: the file; None for ``metrics.csv`` in the run's folder.
    """

    def __init__(self, path: str | Path | None = None):
        self._path = None if path is None else Path(path).absolute()
        self._file: CSVFile | None = None

    def open(self, run: Mapping[str, Any], resume_id: str | None) -> str | None:
        path = self._path
        if path is None:
            if run["run_dir"] is None:
                raise ConfigError(
                    "The csv logger needs a place: pass run_dir= to Trainer, or CSVLogger('metrics.csv')."
                )
            path = Path(run["run_dir"]) / "metrics.csv"
        elif path.exists() and resume_id != path.name:
            raise ConfigError(f"'{path}' is there already, and not of a run that continues: name a new file.")
        if not path.parent.is_dir():
            raise ConfigError(f"'{path}' cannot be written: there is no folder '{path.parent}'. Make it first.")
        self._file = CSVFile(path, {name: run[name] for name in ("env_steps", "gradient_steps")})
        return path.name

    def log(self, record: Record, *, offline: bool) -> None:
        if self._file:
            self._file.add(record)

    def close(self) -> None:
        self._file = None


LOGGERS: dict[str, Callable[[], Logger]] = {
    "csv": CSVLogger,
    "trackio": TrackioLogger,
    "wandb": WandbLogger,
    "mlflow": MLflowLogger,
}
"""Loggers by name."""
_NAMES = {made: name for name, made in LOGGERS.items()}


class _Called:
    """A function as a logger."""

    def __init__(self, function: Callable[[Any], Any]):
        self._function = function

    def open(self, run: Mapping[str, Any], resume_id: str | None) -> str | None:
        return None

    def log(self, record: Record, *, offline: bool) -> None:
        self._function(dict(record))

    def close(self) -> None:
        pass


def _make(given: LoggerLike) -> tuple[str, Logger]:
    """Return a logger and what it is called."""
    if isinstance(given, str):
        if given not in LOGGERS:
            raise ConfigError(f"'{given}' is not a logger.{did_you_mean(given, LOGGERS)}")
        given = LOGGERS[given]()
    if isinstance(given, type):
        raise ConfigError(f"logger={given.__name__} is a class: pass {given.__name__}(...).")
    if isinstance(given, Logger):
        return _NAMES.get(type(given), type(given).__name__), given
    if callable(given):
        return getattr(given, "__name__", type(given).__name__), _Called(given)
    raise ConfigError(f"logger={given!r} is not a logger: pass a name ({', '.join(LOGGERS)}), a logger or a function.")


class Loggers:
    """The loggers of a trainer. What they raise once training has begun is a warning, and training goes on.

    Args:
        given: one, several or none.

    Raises:
        ConfigError: something that is not a logger, or whose package is missing.
    """

    def __init__(self, given: LoggersLike):
        several: Any = given if isinstance(given, list | tuple) else () if given is None else (given,)
        self.ids: dict[str, str] = {}
        """By what they find the run again; those of loggers that it had before are kept."""
        self._all: dict[str, Logger] = {}
        for one in several:
            name, logger = _make(one)
            if isinstance(one, str) and name in self._all:
                raise ConfigError(f"logger '{one}' is given more than once.")
            n = sum(key.partition("#")[0] == name for key in self._all)
            self._all[f"{name}#{n + 1}" if n else name] = logger
        self._opened: dict[str, Logger] = {}
        self._said: set[str] = set()
        self._again: dict[str, float] = {}
        # Also at the end of a program that does not close its trainer.
        weakref.finalize(self, _close, self._opened)

    @property
    def left(self) -> list[str]:
        """Names of those that the run was logged to before, and is not now."""
        return [name for name in self.ids if name in LOGGERS and name not in self._all]

    def open(self, run: Mapping[str, Any]) -> None:
        """Open those that are not yet open.

        Raises:
            ConfigError: one cannot start.
        """
        for name, logger in self._all.items():
            if name in self._opened:
                continue
            try:
                found = logger.open(run, self.ids.get(name))
            except RloxError:
                raise
            except Exception as error:
                raise ConfigError(f"Logger {name} cannot start: {type(error).__name__}: {one_line(error)}") from error
            self._opened[name] = logger
            if found is not None:
                self.ids[name] = str(found)

    def log(self, record: Record, *, offline: bool) -> None:
        """Hand a record to all of them."""
        for name, logger in self._opened.items():
            began = time.monotonic()
            if began < self._again.get(name, 0.0):
                continue
            try:
                logger.log(record, offline=offline)
            except Exception as error:
                # One that waits for a service that is down may take a tenth of the time, not all of it.
                self._again[name] = time.monotonic() + 10 * (time.monotonic() - began)
                if name not in self._said:
                    self._said.add(name)
                    _warn(name, error, "training goes on and records are missing there; this is said once")

    def close(self) -> None:
        """Close those that are open."""
        _close(self._opened)


def _close(opened: dict[str, Logger]) -> None:
    while opened:
        name, logger = opened.popitem()
        try:
            logger.close()
        except Exception as error:
            _warn(name, error, "it could not be closed")


def _warn(name: str, error: Exception, what: str) -> None:
    warnings.warn(f"Logger {name} failed ({type(error).__name__}: {one_line(error)}): {what}.", stacklevel=4)


def read_ids(path: Path, header: Mapping[str, Any]) -> dict[str, str]:
    """Return the ids that a checkpoint's header has.

    Raises:
        CheckpointError: they are no ids.
    """
    ids = header.get("loggers", {})
    if not isinstance(ids, dict) or not all(isinstance(value, str) for value in ids.values()):
        raise CheckpointError(f"Checkpoint '{path}' cannot be used: the ids of its loggers are not texts.")
    return ids
