"""What measurements depend on: the machine, and the commit of the code."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlox.runs.logs import versions

PACKAGE = Path(__file__).resolve().parents[1]


def describe_machine() -> dict[str, Any]:
    """Return the date, the commit (None if this is no checkout), processor, cores, memory, system and versions."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "cpu": _processor() or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()}",
        "versions": versions(),
    }


def _processor() -> str:
    """Return the processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _commit() -> str | None:
    """Return the commit of our checkout, with a plus sign if files of the package differ from it."""
    root = PACKAGE.parents[1]
    # An installed package may lie in somebody else's checkout.
    if root / "src" / "rlox" != PACKAGE or not (root / ".git").exists():
        return None
    command = ["git", "--no-optional-locks", "-C", str(root)]
    try:
        found, changes = (
            subprocess.run([*command, *args], capture_output=True, text=True, check=True).stdout.strip()
            for args in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "src"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found + ("+" if changes else "")
