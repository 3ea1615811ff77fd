"""Makes single-line faults in a copy of the source, one at a time, and runs the test that has to notice each.

``tests/mutants.toml`` is the list. Exit code 1 if a fault goes unnoticed, or if a line of the list is not in the
source (any more).

    python scripts/mutants.py                 all of them
    python scripts/mutants.py replay crr      those whose file or test has one of these words in it
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TIMEOUT = 120
"""Seconds after which a test counts as having noticed: the fault made it hang."""


class Mutant(NamedTuple):
    """A fault: in a file of ``src/rlox``, ``old`` (which stands there once) becomes ``new``."""

    file: str
    old: str
    new: str
    test: str


def main(words: list[str]) -> int:
    """Apply the mutants that have one of ``words`` in their file or test (all, without words); return the exit code."""
    listed = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())["mutant"]
    mutants = [Mutant(**entry) for entry in listed]
    mutants = [m for m in mutants if not words or any(word in m.file + m.test for word in words)]
    began, failures = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        for i, mutant in enumerate(mutants, start=1):
            verdict = try_one(mutant, source)
            print(f"{i:3}/{len(mutants)} {verdict:9} {describe(mutant)}", flush=True)
            if verdict != "noticed":
                failures.append(mutant)
    print(f"{len(mutants) - len(failures)} of {len(mutants)} noticed in {time.monotonic() - began:.0f} s.")
    for mutant in failures:
        print(f"Not noticed by {mutant.test}: {describe(mutant)}")
    return 1 if failures else 0


def describe(mutant: Mutant) -> str:
    """Return a fault in one line."""
    old, new = (" ".join(text.split()) or "nothing" for text in (mutant.old, mutant.new))
    return f"{mutant.file}: {old} -> {new}"


def try_one(mutant: Mutant, source: Path) -> str:
    """Return ``noticed``, ``unnoticed``, ``not found`` (the line does not stand in the file once) or ``no test``."""
    path = source / "rlox" / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        return "not found"
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        return {True: "noticed", False: "unnoticed", None: "no test"}[fails(mutant.test, source)]
    finally:
        path.write_text(text)


def fails(test: str, source: Path) -> bool | None:
    """Return whether a test fails on a copy of the source; None if there is no such test."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", test]
    paths = os.pathsep.join([str(source), str(ROOT / "tests")])
    env = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return True
    if result.returncode in (4, 5):
        return None
    return result.returncode != 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
