"""What ``rlox compare`` starts for seeds that are learned at once: several runs in one process."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rlox.errors import RloxError
from rlox.runs.logs import FINISHED, LOG, SETTINGS

if TYPE_CHECKING:
    from rlox.trainer import Metrics, Trainer


def learn(*folders: Path, env: str | None = None) -> None:
    """Learn the runs of several folders at once, as the files beside them say, and evaluate each.

    Parameters
    ----------
    folders
        Folders of the runs, new ones or of runs to go on with.
    env
        Environment to evaluate in.
    """
    from rlox.processes import wait_for_writer
    from rlox.seeds import open_runs, train_together
    from rlox.spec import RunSpec

    texts = [folder.with_suffix(SETTINGS).read_text() for folder in folders]
    # A file never imports a module: the environment is named beside it.
    specs = [dataclasses.replace(RunSpec.from_toml(text), env=env) for text in texts]
    for folder in folders:
        wait_for_writer(folder)
    trainers = open_runs(specs, folders)
    before = [trainer.gradient_steps for trainer in trainers]
    failed = False
    for i, ended in enumerate(train_together(trainers, progress=True)):
        with trainers[i] as trainer, _telling(folders[i], own=i > 0):
            try:
                _finish(trainer, folders[i], before[i], ended)
                folders[i].with_suffix(FINISHED).touch()
            except RloxError as error:
                failed = True
                print(f"rlox: error: {error}", file=sys.stderr)
    if failed:
        sys.exit(1)


def _finish(trainer: Trainer, folder: Path, before: int, ended: Metrics | RloxError) -> None:
    """Evaluate a run, and say what it came to."""
    from rlox.cli.train import finish, what_was_learned

    if isinstance(ended, RloxError):
        raise ended
    if ended["gradient_steps"] > before:
        print(what_was_learned(trainer.spec, before, ended))
    finish(trainer, folder)


@contextlib.contextmanager
def _telling(folder: Path, *, own: bool) -> Iterator[None]:
    """Let what a run says go to its ``own`` file beside its folder; that of the first is the process's output."""
    if not own:
        yield
        return
    with (
        folder.with_suffix(LOG).open("w") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield
