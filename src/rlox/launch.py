"""A run's process: what it is started with, as plain values that travel to other machines, and why it ended."""

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

if TYPE_CHECKING:
    from rlox.plan import Job

ONE_THREAD = dict.fromkeys(("PJRT_NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
ANY_CORE = "any"
"""In place of a core's number: whichever the system chooses."""
FINISHED = ".finished"
"""Suffix of the file beside a run's folder that says that it has ended well."""


class Launch(NamedTuple):
    """What a run is started with, or goes on with from its checkpoint."""

    spec: str
    """Its ``RunSpec``, which has the budget, in TOML."""
    algorithm: str
    env: str | None
    """Beside the specification, since a file never imports a module."""
    folder: Path
    modules: tuple[str, ...] = ()
    """What it imports first."""

    @classmethod
    def of(cls, job: Job, modules: Sequence[str] = ()) -> Launch:
        """Return that of a run."""
        return cls(job.spec.to_toml(), job.spec.algorithm, job.spec.env, job.folder, tuple(modules))

    @property
    def settings(self) -> Path:
        """The file beside its folder that has the specification."""
        return self.folder.with_suffix(".toml")

    @property
    def log(self) -> Path:
        """The file beside its folder for what it says."""
        return self.folder.with_suffix(".log")

    @property
    def finished(self) -> Path:
        """The file beside its folder that says that it has ended well."""
        return self.folder.with_suffix(FINISHED)

    def write(self) -> None:
        """Write the specification beside its folder."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with whole(self.settings) as side:
            side.write_text(self.spec)

    def start(self, core: int | str = ANY_CORE, here: Path | None = None) -> subprocess.Popen[bytes]:
        """Start its process, once ``write`` was called.

        Args:
            core: number of the core that it is kept on.
            here: its current directory; by default ours.
        """
        command = [sys.executable, "-m", "rlox.processes", str(core), str(os.getpid()), str(self.folder)]
        command += [word for name in self.modules for word in ("--import", name)]
        command += ["train", self.algorithm, "--config", str(self.settings), "--run-dir", str(self.folder), "--resume"]
        if self.env is not None:
            command += ["--env", self.env]
        with self.log.open("wb") as log:
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

    def ended(self, code: int) -> str | None:
        """Note that its process has ended with a code; returns why it ended badly, in its own words if it left any."""
        if code == 0:
            self.finished.touch()
            return None
        if code < 0:
            name = signal.Signals(-code).name
            return f"{name} ended it{', as the system does when memory runs out' if name == 'SIGKILL' else ''}."
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").split("\n")
            told = [line for line in lines if line.startswith("rlox: error:")] or [
                line for line in lines if line.strip()
            ]
            if told:
                return told[-1].removeprefix("rlox: error: ")
        return f"it ended without a word: see '{self.log}'"
