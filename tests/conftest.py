"""The shape annotations of rlox.core are enforced in every test; compiled programs are kept from test to test."""

import gc
import multiprocessing
import os
from importlib.metadata import version
from pathlib import Path

import hypothesis
import jaxtyping
import pytest

# By the environment, so that the processes that tests start share them.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# What the processes that step environments need is imported once, by the one that they are forked from.
multiprocessing.set_forkserver_preload(["gymnasium.envs.classic_control", "rlox.envs.envs"])

# Most tests compile more than they compute: without optimisations, that takes less than half of the time. Programs are
# small: in one part, which is not shared out over threads, they take two thirds of what is left.
UNOPTIMIZED = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
# XLA ends the process at a flag that it does not know: these are in jaxlib 0.5.3 to 0.10.
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    UNOPTIMIZED += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]

jaxtyping.install_import_hook("rlox.core", "typechecker.checked")

hypothesis.settings.register_profile("rlox", deadline=None, derandomize=True, database=None, max_examples=60)
hypothesis.settings.load_profile("rlox")


def pytest_configure(config: pytest.Config) -> None:
    """Compile without optimisations, here and in the processes that tests start, but where real budgets are spent."""
    if config.option.markexpr != "slow":
        os.environ["XLA_FLAGS"] = " ".join((*UNOPTIMIZED, os.environ.get("XLA_FLAGS", "")))


@pytest.fixture
def without_annotations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let arguments of a wrong type reach the function, as they do outside the tests."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def pytest_collection_finish() -> None:
    """Leave the modules, which stay, out of every collection of garbage to come."""
    gc.collect()
    gc.freeze()
