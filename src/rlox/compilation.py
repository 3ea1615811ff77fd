"""How JAX compiles: what was compiled is kept in the user's cache folder, and rounds run on one thread."""

from __future__ import annotations

import contextlib
import os
import platform
import zlib
from pathlib import Path

import jax
from filelock import FileLock, Timeout

from rlox.core.config import Settings

VARIABLE = "RLOX_COMPILATION_CACHE"
"""Environment variable: a folder for compiled programs, or ``off``."""
OFF = ("off", "none", "no", "false", "0")
LARGEST = 256 * 2**20
"""Bytes of compiled programs that are kept; those that were not used for longest go first."""
QUICK = 0.05
"""Seconds: what compiles faster is not kept."""


def set_compilation_cache(folder: str | Path | None) -> None:
    """Choose the folder in which compiled programs are kept for later processes, or None to keep none.

    By default it is ``rlox/xla`` in the user's cache folder; the environment variable ``RLOX_COMPILATION_CACHE`` names
    another, or is ``off``. To be called before the first ``Trainer``; one that JAX's own settings name stays.
    """
    os.environ[VARIABLE] = OFF[0] if folder is None else str(folder)


def prepare(config: Settings | None = None) -> None:
    """Set JAX up for what is about to be compiled; a cache folder that cannot be written to is not used.

    Args:
        config: of what will learn, if anything will.
    """
    if getattr(config, "rollout_steps", None) is not None:
        _use_one_thread()
    folder = _folder()
    if folder is None or jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        _tidy(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", LARGEST)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", QUICK)


def _folder() -> Path | None:
    named = os.environ.get(VARIABLE, "").strip()
    if named.lower() in OFF:
        return None
    try:
        return (Path(named).expanduser() if named else _user_cache() / "rlox" / "xla") / _machine()
    except RuntimeError:  # The user has no home folder.
        return None


def _user_cache() -> Path:
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named)
    home = Path.home()
    default = {"Darwin": home / "Library" / "Caches", "Windows": home / "AppData" / "Local"}
    return default.get(platform.system(), home / ".cache")


def _machine() -> str:
    """Return a name of the processor's kind: computers of several kinds may share a home folder."""
    features = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        features += "".join(sorted({line for line in file if line.startswith(("flags", "Features"))}))
    return f"{platform.machine()}-{zlib.crc32(features.encode()):08x}"


def _tidy(folder: Path) -> None:
    """Remove what a process that was killed has written in part: the time of its use is written last.

    Raises:
        OSError: the folder cannot be written to.
    """
    with contextlib.suppress(Timeout), FileLock(folder / ".lockfile", timeout=1):
        for program in folder.glob("*-cache"):
            if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
                program.unlink(missing_ok=True)


def _use_one_thread() -> None:
    """Keep XLA to one thread, unless it has started: on several, the small operations of a round are slower."""
    from jax._src import xla_bridge  # It has no public name: asking for the backends starts them.

    if not xla_bridge.backends_are_initialized():
        os.environ.setdefault("PJRT_NPROC", "1")
