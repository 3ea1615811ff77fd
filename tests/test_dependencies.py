"""What modules of the package import is declared in pyproject.toml."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
OF_EXTRAS = {"stable_baselines3", "torch"}
"""Packages that only `rlox.sb3` imports, which needs an extra."""


def imported(file: Path) -> set[str]:
    """Return the packages that a module imports as it is imported."""
    body = ast.parse(file.read_text()).body
    names = [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in body if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"rlox"}


def test_every_package_that_a_module_imports_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[\[><=]", line)[0].replace("-", "_") for line in project["dependencies"]}
    used = set().union(*map(imported, (ROOT / "src" / "rlox").rglob("*.py")))
    assert {"jax", "numpy"} <= used
    assert used - declared == OF_EXTRAS
