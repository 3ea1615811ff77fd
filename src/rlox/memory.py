"""How much memory there is, here and in this container."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from rlox.errors import ConfigError


def available_memory() -> int | None:
    """Return the bytes that can be used without swapping, here and in this container, or None if nothing says so."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _text(_PROC / "meminfo"), flags=re.MULTILINE)
    system = [int(found[1]) * 1024] if found else []
    return min([*system, *_left_to_groups()], default=None)


_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_GROUP_FILES = (("memory.max", "memory.current", ""), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"))
"""Limit and use of a control group's memory in version 2 and 1, and what the entries of its statistics begin with."""


def _left_to_groups() -> Iterator[int]:
    """Yield the bytes that each control group leaves that this process is in, by itself or by one inside it."""
    for line in _text(_PROC / "self" / "cgroup").splitlines():
        _, controllers, group_path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        limit, usage, prefix = _GROUP_FILES[bool(controllers)]
        top = _GROUPS / "memory" if controllers else _GROUPS
        own = top / group_path.lstrip("/")
        # Inside a container the path can be the host's: what is not there is left out, and the top is the container's.
        for folder in (own, *own.parents):
            if not folder.is_relative_to(top):
                break
            most, used = _text(folder / limit).strip(), _text(folder / usage).strip()
            if most.isdigit() and used.isdigit():
                cached = re.findall(rf"^{prefix}(?:in)?active_file (\d+)", _text(folder / "memory.stat"), re.MULTILINE)
                yield max(int(most) - int(used) + sum(map(int, cached)), 0)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def check_replay_memory(needed: int, steps: int, setting: str = "buffer_size") -> None:
    """Refuse as many bytes for transitions as there are not.

    Args:
        needed: bytes.
        steps: transitions.
        setting: what says how many.

    Raises:
        ConfigError: they do not fit in memory.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise ConfigError(
            f"The replay of {setting}={steps:,} transitions needs {needed / 2**30:,.1f} GiB of memory, but "
            f"{available / 2**30:,.1f} GiB are available: lower {setting}."
        )
