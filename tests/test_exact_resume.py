"""A run that was killed anywhere and goes on ends bit for bit as the run that was never stopped."""

import functools
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlox import Trainer
from rlox.runs import checkpoint
from schedules import SCHEDULES, differences, result
from tensorboard_events import scalars

LONG = 10
"""Times the budget of the runs that are killed at random."""
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


@functools.cache
def uninterrupted(name: str, folder: Path, times: int = 1) -> dict[str, Any]:
    """Run a schedule in one go; the folders ``at-0``, ``at-1``, ... beside it are the run at each record."""
    found: list[Path] = []

    def copy(trainer: Trainer, metrics: dict[str, float]) -> None:
        found.append(folder / f"at-{len(found)}")
        shutil.copytree(folder / "run", found[-1])

    schedule = SCHEDULES[name].longer(times)
    with schedule.begin(folder / "run", callbacks=copy if times == 1 else ()) as trainer:
        schedule.finish(trainer)
    return result(folder / "run")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.long
@every_schedule
def test_a_run_whose_folder_is_that_of_any_moment_ends_the_same(name: str, place: Path):
    folder = place / name
    wanted = uninterrupted(name, folder)
    moments = sorted(folder.glob("at-*"), key=lambda path: int(path.name[3:]))
    for moment in random.Random(name).sample(moments, 2):
        with SCHEDULES[name].load(moment) as trainer:
            SCHEDULES[name].finish(trainer)
        assert differences(result(moment), wanted) == []


@pytest.mark.long
@pytest.mark.parametrize("name", ["every step", "rounds", "offline to online"])
def test_a_run_that_is_interrupted_again_and_again_ends_the_same(name: str, place: Path, tmp_path: Path):
    wanted, folder, schedule = uninterrupted(name, place / name), tmp_path / "run", SCHEDULES[name]
    begin, stops = schedule.begin, random.Random(name)
    for _ in range(100):
        left = itertools.count(stops.randrange(4), -1)

        def stop(trainer: Trainer, metrics: dict[str, float], left: Iterator[int] = left) -> None:
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGINT)

        try:
            with begin(folder, callbacks=stop) as trainer:
                schedule.finish(trainer)
            break
        except KeyboardInterrupt:
            begin = schedule.load
    assert begin == schedule.load
    assert differences(result(folder), wanted) == []


def events(folder: Path) -> dict[str, Any]:
    return {name: values for name, values in scalars(folder).items() if not name.startswith("time")}


def test_events_of_tensorboard_are_those_of_the_records_that_count(place: Path, tmp_path: Path):
    name = "offline to online"
    uninterrupted(name, place / name)
    shutil.copytree(sorted((place / name).glob("at-*"))[5], tmp_path / "run")
    with SCHEDULES[name].load(tmp_path / "run") as trainer:
        SCHEDULES[name].finish(trainer)
    assert events(tmp_path / "run") == events(place / name / "run")
    assert events(tmp_path / "run" / "offline") == events(place / name / "run" / "offline")
    assert events(tmp_path / "run")["eval/mean_reward"]


def test_a_first_checkpoint_is_there_before_the_first_step(tmp_path: Path):
    seen: list[int] = []

    def look(trainer: Trainer, metrics: dict[str, float]) -> bool:
        seen.append(checkpoint.header(tmp_path / "run")["standing"]["cursor"]["begin"])
        seen.append(Trainer.load(tmp_path / "run").env_steps)
        return False

    with SCHEDULES["every step"].begin(tmp_path / "run", callbacks=look) as trainer:
        trainer.train(10, log_interval=1)
    assert seen == [0, 0]


def test_other_settings_and_another_budget_take_effect_where_a_run_goes_on(tmp_path: Path):
    with SCHEDULES["every step"].begin(tmp_path / "run") as trainer:
        trainer.train(60, log_interval=20, checkpoint_interval=30, progress=False)
    changed: Any = {"config": {"learning_rate": 1e-30}, "budget": {"total_timesteps": 100, "log_interval": 10}}
    before = checkpoint.load(tmp_path / "run")[0]
    with Trainer.load(tmp_path / "run", **changed) as trainer:
        assert trainer.config.learning_rate == 1e-30
        assert trainer.train(progress=False)["env_steps"] == 100
    after = result(tmp_path / "run")
    assert [line["env_steps"] for line in after["metrics"]] == [20, 40, 60, 70, 80, 90, 100]
    weights = "train.actor.network.weights[0]"
    assert (before[weights] == after[weights]).all()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["learning_rate"] == 1e-30


def kill_at_random(name: str, folder: Path, seconds: random.Random, longest: float) -> int:
    """Run a schedule in processes that are killed, until one ends; returns how many were killed."""
    kills = 0
    while True:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("schedules.py")), name, str(folder), str(LONG)],
            stderr=subprocess.PIPE,
            text=True,
        )
        end = time.monotonic() + seconds.uniform(0.5, longest)
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            longest *= 1.1
            continue
        told = process.communicate()[1]
        assert process.returncode == 0, told
        assert "Traceback" not in told
        return kills


@pytest.mark.slow
@every_schedule
def test_runs_that_are_killed_at_random_end_the_same(name: str, tmp_path: Path):
    wanted = uninterrupted(name, tmp_path, LONG)
    seconds, kills, runs = random.Random(name), 0, 0
    while kills < 20:
        runs += 1
        kills += kill_at_random(name, tmp_path / str(runs), seconds, longest=10)
        assert differences(result(tmp_path / str(runs)), wanted) == []
    with Path(os.environ.get("RLOX_KILLS", os.devnull)).open("a") as file:
        file.write(f"{name}: {kills} kills in {runs} runs, all ended the same\n")
