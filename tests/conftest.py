"""The shape annotations of rlox.core are enforced in every test; compiled programs are kept from test to test."""

import os
from pathlib import Path

import hypothesis
import jaxtyping
import pytest

# By the environment, so that the processes that tests start share them.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

jaxtyping.install_import_hook("rlox.core", "typechecker.checked")

hypothesis.settings.register_profile("rlox", deadline=None, derandomize=True, database=None, max_examples=60)
hypothesis.settings.load_profile("rlox")


@pytest.fixture
def without_annotations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let arguments of a wrong type reach the function, as they do outside the tests."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
