"""Compiled programs are kept for later processes, and rounds run on one thread."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

import rlox
from rlox.compilation import LARGEST, QUICK, VARIABLE, prepare

BEGIN = """
import logging, os, sys
{before}
import rlox
rounds = {{"rollout_steps": 64, "learning_starts": 0, "batch_size": 32, "hidden": 8}}
trainer = rlox.Trainer("awr", "CartPole-v1", config={config})
{after}
"""
TRAIN = "trainer.train(130, progress=False)"
COUNT = """
import jax
jax.numpy.zeros(3)
names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
print(sum(name.startswith("tf_XLAEigen") for name in names))
"""
FOLDER, SIZE, TIME = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


def run(
    tmp_path: Path, after: str, *, before: str = "", config: str = "rounds", **variables: str
) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "PJRT_"))}
    code = BEGIN.format(before=before, after=after, config=config)
    command = [sys.executable, "-W", "error", "-c", code]
    env |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), **variables}
    return subprocess.run(command, env=env, check=True, text=True, capture_output=True)


def programs(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*-cache"))


@pytest.mark.long
def test_a_second_process_reads_what_the_first_compiled(tmp_path: Path):
    told = "logging.basicConfig(); logging.getLogger('jax._src.compiler').setLevel(logging.DEBUG)"
    first = run(tmp_path, TRAIN, before=told).stderr
    kept = programs(tmp_path / "cache" / "rlox" / "xla")
    assert kept
    assert "Persistent compilation cache hit" not in first
    half_written = kept[0].with_name("jit_killed-cache")
    half_written.write_bytes(b"a")
    second = run(tmp_path, TRAIN, before=told).stderr
    assert second.count("Persistent compilation cache hit") == len(kept)
    assert programs(tmp_path) == kept, "what a killed process left is gone"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's cache folder, while JAX has no folder for compiled programs."""
    kept = {name: jax.config.values[name] for name in (FOLDER, SIZE, TIME)}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(VARIABLE, "")
    for name, value in ((FOLDER, None), (SIZE, -1), (TIME, 1.0)):
        jax.config.update(name, value)
    yield tmp_path / "cache"
    for name, value in kept.items():
        jax.config.update(name, value)


@pytest.mark.parametrize("way", ["variable", "function", "read-only"])
def test_the_cache_can_be_left_out(cache: Path, monkeypatch: pytest.MonkeyPatch, way: str):
    if way == "variable":
        monkeypatch.setenv(VARIABLE, "off")
    elif way == "function":
        rlox.set_compilation_cache(None)
    else:
        cache.write_text("no folder can be made below a file")
    prepare()
    assert jax.config.values[FOLDER] is None
    assert not cache.is_dir()


@pytest.mark.parametrize("way", ["default", "variable", "function"])
def test_the_cache_is_where_it_is_asked_for(cache: Path, monkeypatch: pytest.MonkeyPatch, way: str):
    asked = cache / "rlox" / "xla" if way == "default" else cache.with_name("named")
    if way == "variable":
        monkeypatch.setenv(VARIABLE, str(asked))
    elif way == "function":
        rlox.set_compilation_cache(asked)
    prepare()
    found = Path(jax.config.values[FOLDER])
    assert found.parent == asked
    assert found.is_dir()
    assert (jax.config.values[SIZE], jax.config.values[TIME]) == (LARGEST, QUICK)
    assert way == "default" or not cache.exists()


def test_a_cache_that_jax_is_given_stays(cache: Path):
    given = {FOLDER: str(cache.with_name("of_jax")), SIZE: 12345, TIME: 7.5}
    for name, value in given.items():
        jax.config.update(name, value)
    prepare()
    assert {name: jax.config.values[name] for name in given} == given
    assert not cache.exists()


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts the threads that Linux shows")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has one thread in any case")
def test_rounds_run_on_one_thread_unless_jax_has_started(tmp_path: Path):
    assert run(tmp_path, COUNT).stdout == "1\n"
    assert run(tmp_path, COUNT, config="{}").stdout != "1\n"
    assert run(tmp_path, COUNT, before="import jax; jax.numpy.zeros(3)").stdout != "1\n"
    assert run(tmp_path, COUNT, PJRT_NPROC="2").stdout != "1\n"
