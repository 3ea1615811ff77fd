"""Compiled programs are kept for later processes, and rounds run on one thread."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAIN = """
import logging, sys
{before}
import rlox
{after}
rounds = {{"rollout_steps": 64, "learning_starts": 0, "batch_size": 32, "hidden": 8}}
trainer = rlox.Trainer("awr", "CartPole-v1", config={config})
trainer.train(130, progress=False)
import os
names = [open(f"/proc/self/task/{{task}}/comm").read() for task in os.listdir("/proc/self/task")]
print(sum(name.startswith("tf_XLAEigen") for name in names))
"""


def run(
    tmp_path: Path, *, before: str = "", after: str = "", config: str = "rounds", **variables: str
) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "PJRT_"))}
    code = TRAIN.format(before=before, after=after, config=config)
    command = [sys.executable, "-W", "error", "-c", code]
    env |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), **variables}
    return subprocess.run(command, env=env, check=True, text=True, capture_output=True)


def programs(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*-cache"))


def test_a_second_process_reads_what_the_first_compiled(tmp_path: Path):
    told = "logging.basicConfig(); logging.getLogger('jax._src.compiler').setLevel(logging.DEBUG)"
    first = run(tmp_path, before=told).stderr
    kept = programs(tmp_path / "cache" / "rlox" / "xla")
    assert kept
    assert "Persistent compilation cache hit" not in first
    half_written = kept[0].with_name("jit_killed-cache")
    half_written.write_bytes(b"a")
    second = run(tmp_path, before=told).stderr
    assert second.count("Persistent compilation cache hit") == len(kept)
    assert programs(tmp_path) == kept, "what a killed process left is gone"


@pytest.mark.parametrize("way", ["variable", "function", "read-only"])
def test_the_cache_can_be_left_out(tmp_path: Path, way: str):
    if way == "variable":
        run(tmp_path, RLOX_COMPILATION_CACHE="off")
    elif way == "function":
        run(tmp_path, after="rlox.set_compilation_cache(None)")
    else:
        (tmp_path / "cache").write_text("no folder can be made below a file")
        run(tmp_path)
    assert not programs(tmp_path)


def test_the_cache_is_where_it_is_asked_for(tmp_path: Path):
    run(tmp_path, RLOX_COMPILATION_CACHE=str(tmp_path / "named"))
    assert programs(tmp_path / "named")
    run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "of_jax"), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0.05")
    assert programs(tmp_path / "of_jax")
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts the threads that Linux shows")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has one thread in any case")
def test_rounds_run_on_one_thread_unless_jax_has_started(tmp_path: Path):
    assert run(tmp_path).stdout == "1\n"
    assert run(tmp_path, config="{}").stdout != "1\n"
    assert run(tmp_path, before="import jax; jax.numpy.zeros(3)").stdout != "1\n"
    assert run(tmp_path, PJRT_NPROC="2").stdout != "1\n"
