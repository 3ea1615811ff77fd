"""A process of runs: what it is started with, as plain values that travel to other machines, and why it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlox.files import whole
from rlox.runs.logs import FINISHED, LAST_SAVED, LOG, SETTINGS

if TYPE_CHECKING:
    from rlox.plan import Job

ONE_THREAD = dict.fromkeys(("PJRT_NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
ANY_CORE = "any"
"""In place of a core's number: whichever the system chooses."""


class Launch(NamedTuple):
    """What a run is started with, or goes on with from its checkpoint; or several that are learned at once."""

    specs: tuple[str, ...]
    """The ``RunSpec`` of each, which has the budget, in TOML."""
    folders: tuple[Path, ...]
    algorithm: str
    env: str | None
    """Beside the specification, since a file never imports a module."""
    modules: tuple[str, ...] = ()
    """What the process imports first."""

    @classmethod
    def of(cls, jobs: Sequence[Job], modules: Sequence[str] = ()) -> Launch:
        """Return that of runs of one algorithm in one environment."""
        specs, folders = tuple(job.spec.to_toml() for job in jobs), tuple(job.folder for job in jobs)
        return cls(specs, folders, jobs[0].spec.algorithm, jobs[0].spec.env, tuple(modules))

    def at(self, folder: Path) -> Launch:
        """Return the same of one run in another folder."""
        return self._replace(folders=(folder,))

    @property
    def folder(self) -> Path:
        """That of the first run, whose log has what is said of all."""
        return self.folders[0]

    def write(self) -> None:
        """Write the specifications beside the folders, and remove what says that the runs have ended well."""
        for folder, spec in zip(self.folders, self.specs, strict=True):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with whole(folder.with_suffix(SETTINGS)) as side:
                side.write_text(spec)
            folder.with_suffix(FINISHED).unlink(missing_ok=True)

    def start(self, core: int | str = ANY_CORE, here: Path | None = None) -> subprocess.Popen[bytes]:
        """Start the process, once ``write`` was called.

        Args:
            core: number of the core that it is kept on.
            here: its current directory; by default ours.
        """
        folder = str(self.folder)
        command = [sys.executable, "-m", "rlox.processes", str(core), str(os.getpid()), folder]
        command += [word for name in self.modules for word in ("--import", name)]
        if len(self.folders) > 1:
            for each in self.folders:
                each.with_suffix(LOG).write_bytes(b"")
            command += ["learn-at-once", *map(str, self.folders)]
        else:
            settings = str(self.folder.with_suffix(SETTINGS))
            command += ["train", self.algorithm, "--config", settings, "--run-dir", folder, "--resume"]
        if self.env is not None:
            command += ["--env", self.env]
        with self.folder.with_suffix(LOG).open("wb") as log:
            # Not in the terminal's group: Ctrl-C reaches us, and we end them in order.
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=here,
                env={**os.environ, **ONE_THREAD},
                start_new_session=True,
            )

    def ended(self, code: int) -> list[str | None]:
        """Note that the process has ended with a code; returns why each run ended badly, None if all is well."""
        if len(self.folders) == 1 and code == 0:
            self.folder.with_suffix(FINISHED).touch()
        return [self._why(folder, code) for folder in self.folders]

    def _why(self, folder: Path, code: int) -> str | None:
        """Return why a run ended badly, in its own words if it has left any, else in those of its process."""
        if code == 0 or (len(self.folders) > 1 and folder.with_suffix(FINISHED).exists()):
            return None
        if code < 0:
            name = signal.Signals(-code).name
            return f"{name} ended it{', as the system does when memory runs out' if name == 'SIGKILL' else ''}."
        for log in (folder.with_suffix(LOG), self.folder.with_suffix(LOG)):
            if told := _last_words(log):
                return told
        return f"it ended without a word: see '{self.folder.with_suffix(LOG)}'"


def _last_words(log: Path) -> str | None:
    """Return the error that a log ends with, or else its last line; None if it has none."""
    with contextlib.suppress(OSError):
        lines = [line for line in log.read_text(errors="replace").split("\n") if line.strip()]
        # Below the error of an environment, a traceback says where its run goes on.
        errors = [line for line in lines if not line.startswith(LAST_SAVED)]
        told = [line for line in lines if line.startswith("rlox: error:")] or errors
        if told:
            return told[-1].removeprefix("rlox: error: ")
    return None
