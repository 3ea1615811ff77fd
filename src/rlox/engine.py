"""Where runs go on: in processes of this machine, or as tasks of Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from rlox.errors import ConfigError
from rlox.processes import Processes, cores_for

if TYPE_CHECKING:
    from rlox.plan import Job


class Engine(Protocol):
    """Runs that go on at the same time. A context manager: leaving it ends them, with a checkpoint each."""

    @property
    def words(self) -> str:
        """How many at a time, or where, for a message."""
        ...

    @property
    def running(self) -> Sequence[Job]:
        """Runs that were started and have not been seen to end."""
        ...

    @property
    def n_free(self) -> int:
        """How many more runs there are cores for."""
        ...

    def fetch(self, jobs: Sequence[Job]) -> None:
        """Bring what there is of runs to their folders."""
        ...

    def together(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Return what to start at a time: a run, or several that are learned in one program."""
        ...

    def start(self, *jobs: Job) -> None:
        """Start a run, or several together, or let them go on from their checkpoints."""
        ...

    def ended(self) -> list[tuple[Job, str | None]]:
        """Return the runs that have ended since the last call, and why they ended badly; None if all is well."""
        ...

    def stop(self, job: Job) -> None:
        """Ask a run to end with a checkpoint; it counts as running until it has."""
        ...

    def busy(self, n_jobs: int) -> float:
        """Return the share of the cores' time that the runs have used, if there were so many; nan if not known."""
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(self, *error: object) -> None: ...


def make_engine(
    *,
    processes: int | None = None,
    ray: str | None = None,
    storage: str | None = None,
    modules: Sequence[str] = (),
) -> Engine:
    """Return what runs go on with.

    Args:
        processes: runs at a time; None makes it as many as there are cores, here or in the cluster.
        ray: ``"local"`` starts Ray on this machine, anything else is the address of a cluster; None does without.
        storage: an address, as fsspec has them, where the runs on Ray are kept; None if their folder is one that all
            of its machines share.
        modules: what each run imports first.

    Raises:
        ConfigError: ``processes`` below 1, a storage without Ray or that is not known, or the extra is missing.
    """
    if ray is not None:
        from rlox.scale import Trials

        return Trials(ray, processes=processes, storage=storage, modules=modules)
    if storage is not None:
        raise ConfigError(f"storage '{storage}' is for runs on other machines: name them too, ray='ADDRESS' (--ray).")
    return Processes(cores_for(processes), modules)
