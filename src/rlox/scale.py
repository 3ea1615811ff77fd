"""Past one machine, on Ray: where collectors live, runs as tasks. The only file that imports Ray (extra ``ray``)."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import tomllib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rlox.data.reading import Reading
from rlox.errors import ConfigError, one_line
from rlox.launch import Launch
from rlox.processes import POLL, cores_for, is_finished
from rlox.runs import checkpoint
from rlox.runs.interrupts import SIGNALS, Interrupts
from rlox.runs.logs import CONFIG, FINISHED, LOG, METRICS, SETTINGS
from rlox.runs.storage import Storage, open_address
from rlox.spec import Budget

if TYPE_CHECKING:
    from rlox.plan import Job

LOCAL = "local"
OBJECT_STORE = 100 * 2**20
"""Bytes of shared memory of a Ray that is started here: tasks are sent a few kilobytes, and return less."""
RETRIES = 10
"""Times that a run goes on elsewhere, because its worker, its process or its machine was lost."""
KNOCK = 10.0
"""Seconds that the address of a cluster has to answer in."""
STARTS = 3
"""Times that a Ray is started here: on a busy machine it may miss its own deadline of half a minute."""
ENDING = 600.0
"""Seconds that runs have to end in, with their checkpoints, when all are ended."""
COPY_EVERY = 2.0
"""Seconds between two copies of a run to its storage, and to whoever waits for it, at the least."""
SHARE = 0.05
"""Of the time that may be spent on these copies, beside the run."""
STOPPED = "It was stopped, with a checkpoint."


class Connection:
    """A Ray to start collectors on: the one that is connected, else that of ``RAY_ADDRESS``, else one of this machine.

    Args:
        n_cpus: cores that are needed; a Ray that is started here promises as many.

    Raises:
        ConfigError: the extra is missing, nothing answers at the address, or too few cores are left.
    """

    _sharing: ClassVar[list[Connection]] = []
    """Those to the Ray that the first of them has started, or joined."""

    def __init__(self, n_cpus: int):
        address = os.environ.get("RAY_ADDRESS") or LOCAL
        self.ray, self._n_cpus, sharing = _import_for(address), n_cpus, Connection._sharing
        starts = not self.ray.is_initialized()
        if starts:
            _connect(self.ray, address, n_cpus)
            sharing.clear()
        found, taken = int(self.ray.cluster_resources().get("CPU", 0)), sum(other._n_cpus for other in sharing)
        if starts or sharing:
            sharing.append(self)
        if found - taken < n_cpus:
            self.close()
            others = f", of which collectors of other trainers have {taken}: close these," if taken else ":"
            raise ConfigError(
                f"n_workers={n_cpus} needs a core each, but this Ray has {found}{others} "
                f"{'or ' * bool(taken)}add machines to it."
            )

    def close(self) -> None:
        """Leave it; one that was started here ends with the last that shares it."""
        if self in Connection._sharing:
            Connection._sharing.remove(self)
            if not Connection._sharing:
                self.ray.shutdown()


class LostError(Exception):
    """A run's process was killed, and may go on from its checkpoint."""


class Trials:
    """Runs that go on as tasks of Ray, each on one core. A context manager, as ``Processes`` is.

    Args:
        address: ``"local"`` starts Ray on this machine, without a network; else that of a cluster.
        processes: runs at a time; None makes it as many as there are cores, here or in the cluster.
        storage: where runs are kept; None if all machines share their folders.
        modules: what each run imports first.

    Raises:
        ConfigError: a number below 1, an unknown storage, or the extra is missing.
    """

    def __init__(
        self, address: str, *, processes: int | None = None, storage: str | None = None, modules: Sequence[str] = ()
    ):
        self._ray, self._address, self._modules, self._storage = _import_for(address), address, modules, storage
        self._n = len(cores_for(processes)) if processes is not None or address == LOCAL else None
        if storage is not None:
            open_address(storage)
        self._running: dict[Any, Job] = {}
        """By what Ray calls the result of their tasks."""
        self._copies: dict[Job, Storage] = {}
        self._started, self._looked, self._turn = False, 0.0, 0

    @property
    def words(self) -> str:
        """How many at a time, for a message."""
        return "as tasks of Ray" if self._n is None else f"{self._n} at a time on Ray"

    @property
    def running(self) -> list[Job]:
        """Runs whose tasks Ray has, and that have not been seen to end."""
        return list(self._running.values())

    @property
    def n_free(self) -> int:
        """How many more runs there are cores for; of a cluster, as many as it has now, one at least."""
        # One that grows by itself may begin without a core, and grows only for what waits.
        n = self._n or max(int(self._ray.cluster_resources().get("CPU", 0)), 1)
        return max(n - len(self._running), 0)

    def fetch(self, jobs: Sequence[Job]) -> None:
        """Bring what the storage has of runs: their logs, and the rest of those that have ended well.

        Raises:
            ConfigError: it has a run of other settings in the place of one of them.
        """
        for job in jobs if self._storage is not None else ():
            self._copy(job).pull(_is_record)
            if is_finished(job) and not checkpoint.exists(job.folder):
                self._copy(job).pull()

    def together(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Return what to start at a time: a task each, which any machine may take."""
        return [[job] for job in jobs]

    def start(self, *jobs: Job) -> None:
        """Give a run to Ray.

        Raises:
            ConfigError: the storage has one of other settings in its place.
        """
        (job,) = jobs
        if self._storage is not None:
            with contextlib.suppress(OSError):  # The task looks too.
                self._copy(job)
        launch = Launch.of([job], self._modules).at(job.folder.absolute())
        # Where folders are shared, this is how a machine that does not have them is found out.
        launch.write()
        remote = self._ray.remote(run_trial).options(
            num_cpus=1,
            max_retries=RETRIES,
            retry_exceptions=[LostError, OSError],
            name=f"{job.label} {job.folder.name}",
        )
        self._running[remote.remote(launch, self._storage, Path.cwd())] = job

    def ended(self) -> list[tuple[Job, str | None]]:
        """Return the runs that have ended since the last call, and why they ended badly; None if all is well."""
        self._look()
        if not self._running:
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        return [self._end(result) for result in ready]

    def stop(self, job: Job) -> None:
        """Ask a run to end with a checkpoint; it counts as running until it has."""
        self._ray.cancel(next(result for result, other in self._running.items() if other == job))

    def busy(self, n_jobs: int) -> float:
        """Return nan: how busy other machines' cores were is not known here."""
        return float("nan")

    def __enter__(self) -> Trials:
        self._started = not self._ray.is_initialized()
        if self._started:
            _connect(self._ray, self._address, self._n)
        return self

    def __exit__(self, *error: object) -> None:
        try:
            for result in self._running:
                self._ray.cancel(result)
            if self._running:
                self._ray.wait(list(self._running), num_returns=len(self._running), timeout=ENDING)
            for job in self.running:
                self._bring(job)
        finally:
            if self._started:
                self._ray.shutdown()

    def _end(self, result: Any) -> tuple[Job, str | None]:
        job = self._running.pop(result)
        try:
            why = self._ray.get(result)
        except self._ray.exceptions.TaskCancelledError:
            why = STOPPED
        except self._ray.exceptions.RayTaskError as error:
            why = one_line(error.cause)
            if isinstance(error.cause, ConfigError):
                return job, why  # What is there is not of this run.
        except self._ray.exceptions.RayError as error:
            why = f"its worker was lost {RETRIES + 1} times: {one_line(error)}"
        return job, self._bring(job) or why

    def _bring(self, job: Job) -> str | None:
        """Bring a run that has ended from the storage; returns why that was not possible."""
        if self._storage is None:
            return None
        try:
            self._copy(job).pull()
        except OSError as error:
            return f"it could not be read from '{self._storage}': {one_line(error)}"
        return None

    def _look(self) -> None:
        """Bring the log of one of the runs that go on, each in its turn."""
        jobs, now = self.running, time.monotonic()
        if self._storage is None or not jobs or now - self._looked < COPY_EVERY / len(jobs):
            return
        self._looked, self._turn = now, self._turn + 1
        job = jobs[self._turn % len(jobs)]
        with contextlib.suppress(OSError):  # It is looked at again.
            self._copy(job).pull(_is_record)

    def _copy(self, job: Job) -> Storage:
        assert self._storage is not None
        if job not in self._copies:
            check_kept(self._storage, Launch.of([job]))
            self._copies[job] = Storage(self._storage, job.folder)
        return self._copies[job]


def run_trial(launch: Launch, address: str | None, here: Path) -> str | None:
    """Run a run to its end, as a task of Ray, on whichever machine that is; returns why it ended badly.

    It begins with what is there of it: in its folder, or in the storage at ``address``. Cancelled, it ends with a
    checkpoint.

    Args:
        launch: the run.
        address: where it is kept; None if its folder is shared.
        here: the caller's current directory, which is used if there is one of that name.

    Raises:
        ConfigError: the storage has one of other settings in its place.
        LostError: its process was killed.
        OSError: the storage cannot be read or written to.
    """
    with Interrupts() as interrupts, _place(launch, address) as (launch, storage):
        if storage is None and _read(launch.folder.with_suffix(SETTINGS)) != launch.specs[0]:
            return (
                f"'{launch.folder.parent}' is not shared with {os.uname().nodename!r}: give a folder that is "
                "(--output, or --run-dir of rlox train), or an address to keep runs at (--storage)."
            )
        copy = _Copies(storage) if storage else lambda: None
        process = launch.start(here=here if here.is_dir() else None)
        try:
            while process.poll() is None and interrupts.number is None:
                time.sleep(POLL)
                copy()
        finally:
            process.terminate()
            code = process.wait()
        (why,) = launch.ended(code)
        if storage:
            storage.push()
    if interrupts.number not in (None, signal.SIGINT):
        sys.exit(1)  # This machine is being taken away, and Ray starts the task again on another.
    if interrupts.number is not None and code:
        return STOPPED
    if code < 0:
        raise LostError(why)
    return why


@contextlib.contextmanager
def _place(launch: Launch, address: str | None) -> Iterator[tuple[Launch, Storage | None]]:
    """Yield a run with the folder that it has on this machine, and the storage that this is a copy of."""
    if address is None:
        yield launch, None
        return
    with tempfile.TemporaryDirectory(prefix="rlox-", ignore_cleanup_errors=True) as scratch:
        launch = launch.at(Path(scratch, *launch.folder.parts[-3:]))
        check_kept(address, launch)
        storage = Storage(address, launch.folder)
        storage.begin()
        launch.write()
        yield launch, storage


def check_kept(address: str, launch: Launch) -> None:
    """Refuse a storage that has another run in the place of a run: its search or comparison was another one.

    Its budget may be another, since the same command goes on with a longer one.

    Raises:
        ConfigError: naming the first setting that differs.
    """
    place = launch.folder.parts[-3:]
    with tempfile.TemporaryDirectory(prefix="rlox-", ignore_cleanup_errors=True) as scratch:
        there = Path(scratch, *place)
        Storage(address, there).pull(lambda name: name == SETTINGS)
        kept = _read(there.with_suffix(SETTINGS))
    if kept is None:
        return
    was, now = tomllib.loads(kept), tomllib.loads(launch.specs[0])
    # A setting that only one of them has is of another version.
    both = {*was} & {*now} - {"preset", *(field.name for field in dataclasses.fields(Budget))}
    fixed = both | {"env", "dataset", *(field.name for field in dataclasses.fields(Reading))}
    for name in {**now, **was}:
        if name in fixed and was.get(name) != now.get(name):
            raise ConfigError(
                f"storage '{address}' has a run '{'/'.join(place)}' with {name}={was.get(name)!r}, not "
                f"{now.get(name)!r}: an address is for one search or comparison, name another one (--storage)."
            )


class _Copies:
    """Copies a run to its storage while it goes on: often, but for a small share of the time."""

    def __init__(self, storage: Storage):
        self._storage, self._next = storage, 0.0

    def __call__(self) -> None:
        began = time.monotonic()
        if began < self._next:
            return
        with contextlib.suppress(Exception):  # The next one has it too; the last one is told.
            self._storage.push()
        seconds = time.monotonic() - began
        self._next = began + seconds + max(COPY_EVERY, seconds / SHARE)


def _is_record(name: str) -> bool:
    return name in (CONFIG, METRICS, LOG, FINISHED)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _connect(ray: Any, address: str, n: int | None) -> None:
    """Start Ray on this machine, or join a cluster; what our signals do stays as it is.

    Raises:
        ConfigError: there is no cluster at the address, or none that this version can join.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Which is what later versions do, and what this one warns of.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    own: dict[str, Any] = {"address": address}
    if address == LOCAL:
        # Runs are the work of this machine, and no guests: by default Ray gives way to all else.
        os.environ.setdefault("RAY_worker_niceness", "0")
        own |= {"num_cpus": n, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    else:
        _knock(address)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for left in reversed(range(STARTS)):
            try:
                with warnings.catch_warnings():
                    # JAX warns of a fork while its threads run, which here only starts programs.
                    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
                    ray.init(**own, log_to_driver=False, logging_level=logging.ERROR)
                return
            except Exception as error:  # Ray has no class of its own for it.
                ray.shutdown()
                if left == 0 or address != LOCAL:
                    raise _no_ray(address, error) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _knock(address: str) -> None:
    """Find out soon that nothing answers at an address: Ray itself tries again for minutes.

    Raises:
        ConfigError: nothing does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # A word of Ray's own, such as auto.
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK).close()
    except (OSError, OverflowError) as error:
        raise _no_ray(address, error) from None


def _no_ray(address: str, error: Exception) -> ConfigError:
    if address == LOCAL:
        return ConfigError(
            f"Ray cannot be started here ({one_line(error)}): make room in memory, on cores and in /tmp."
        )
    return ConfigError(
        f"There is no Ray at '{address}' that can be joined ({one_line(error)}): start one by `ray start --head`, and "
        "give the address that it prints."
    )


def _import_for(address: str) -> Any:
    """Return Ray, for a cluster or for this machine.

    Raises:
        ConfigError: the extra rlox[ray] is missing.
    """
    if address == LOCAL:
        # Which keeps all that Ray starts to the loopback address, on Linux too; it is read when Ray is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise ConfigError(
            "Runs and collectors on Ray need the extra rlox[ray]: pip install '.[ray]' in a clone of rlox."
        ) from None
