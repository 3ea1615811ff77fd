"""A run's folder has one writer, and a disk that is full or cannot be written to does not end a training."""

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv

from disk import full
from probes import Diary, Dying, Hanging
from rlox import Policy, Trainer
from rlox.callbacks import KeepBest
from rlox.errors import ConfigError, RunExistsError, RunInUseError, WorkerDiedError
from rlox.files import whole
from rlox.loggers import CSVLogger
from rlox.runs import checkpoint
from schedules import differences, result

TINY: dict[str, Any] = {"hidden": 4, "batch_size": 8, "learning_starts": 10, "buffer_size": 5000}


def new(folder: Path) -> Trainer:
    return Trainer("awr", Diary(), config=TINY, run_dir=folder)


# One writer.


@pytest.mark.long
def test_a_folder_is_claimed_when_its_trainer_is_made(tmp_path: Path):
    with new(tmp_path / "run"), pytest.raises(RunInUseError) as error:
        new(tmp_path / "run")
    told = str(error.value)
    assert f"process {os.getpid()} on {socket.gethostname()!r}" in told
    assert "close the trainer that does" in told
    # It is free again, and nothing was written to it.
    with new(tmp_path / "run") as trainer:
        trainer.train(5, progress=False)
    with pytest.raises(RunExistsError):
        new(tmp_path / "run")


@pytest.mark.long
def test_a_loaded_run_claims_its_folder_when_it_trains(tmp_path: Path):
    with new(tmp_path / "run") as trainer:
        trainer.train(20, progress=False)
        loaded = Trainer.load(tmp_path / "run", env=Diary())
        Policy.load(tmp_path / "run").predict(np.zeros(2, np.float32))
        loaded.predict(np.zeros(2, np.float32))
        with pytest.raises(RunInUseError, match="is being written to by process"):
            loaded.train(5, progress=False)
    loaded.train(5, progress=False)
    assert loaded.env_steps == 25


def test_a_run_that_has_gone_on_since_it_was_loaded_is_not_overwritten(tmp_path: Path):
    with new(tmp_path / "run") as trainer:
        trainer.train(20, progress=False)
    first, second = (Trainer.load(tmp_path / "run", env=Diary()) for _ in range(2))
    with first:
        first.train(10, progress=False)
    with pytest.raises(RunInUseError, match="has gone on since this trainer loaded it: load it again"):
        second.train(10, progress=False)
    assert Trainer.load(tmp_path / "run", env=Diary()).env_steps == 30


def test_save_does_not_write_into_a_run_that_goes_on(tmp_path: Path):
    with new(tmp_path / "run") as trainer:
        trainer.train(12, progress=False)
        with new(tmp_path / "other") as other, pytest.raises(RunInUseError, match="is being written to"):
            other.save(tmp_path / "run")
        # Its own trainer may.
        trainer.save(tmp_path / "run")
        trainer.train(3, progress=False)
    assert Trainer.load(tmp_path / "run", env=Diary()).env_steps == 15


def test_a_killed_owner_leaves_no_lock(tmp_path: Path):
    with new(tmp_path / "run") as trainer:
        trainer.train(5, progress=False)
    loaded = Trainer.load(tmp_path / "run", env=Diary())
    code = "import sys, time; from pathlib import Path; from rlox.runs.lock import claim; "
    code += "lock = claim(Path(sys.argv[1])); print('claimed', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    while "claimed" not in process.stdout.readline():
        assert process.poll() is None
    with pytest.raises(RunInUseError, match=rf"process {process.pid} on"):
        loaded.train(5, progress=False)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert loaded.train(5, progress=False)["env_steps"] == 10


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(ConfigError, match=r"run_dir .* cannot be written to: "):
            new(folder)


def test_a_closed_trainer_does_not_train(tmp_path: Path):
    trainer = Trainer("awr", Diary(), config=TINY)
    trainer.close()
    with pytest.raises(ConfigError, match="was closed"):
        trainer.train(5)


def test_save_does_not_replace_another_run(tmp_path: Path):
    with new(tmp_path / "run") as trainer:
        trainer.train(20, eval_interval=20, n_eval_episodes=1, progress=False)
    before = (tmp_path / "run" / checkpoint.NAME).read_bytes()
    with pytest.warns(UserWarning, match="without its replay"):
        best = Trainer.load(tmp_path / "run" / checkpoint.BEST, env=Diary())
    with best, new(tmp_path / "other") as other:
        for trainer in (best, other):
            with pytest.raises(RunExistsError, match="run' is the folder of another run: name another one to save to"):
                trainer.save(tmp_path / "run")
            trainer.save(tmp_path / "saved")
    assert (tmp_path / "run" / checkpoint.NAME).read_bytes() == before


# A disk that is full.


def test_the_best_policy_that_could_not_be_written_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    returns = iter([4.0, 9.0, 8.5, 8.0])

    def evaluate(trainer: Trainer, n_episodes: int) -> dict[str, float]:
        return {"mean_reward": next(returns)}

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    how: dict[str, Any] = {"eval_interval": 10, "log_interval": 10, "progress": False}
    with new(tmp_path / "run") as trainer:
        trainer.train(10, **how)
        with full(3000), pytest.warns(UserWarning, match="could not be written") as told:
            trainer.train(10, **how)
        assert any("The best checkpoint could not be written" in str(one.message) for one in told)
        trainer.train(20, **how)
    with pytest.warns(UserWarning, match="without its replay"):
        best = Trainer.load(tmp_path / "run" / checkpoint.BEST, env=Diary())
    assert best.env_steps == 30
    assert best.last_metrics["eval/mean_reward"] == 8.5


def lines(folder: Path) -> list[int]:
    return [json.loads(line)["env_steps"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_goes_on_on_a_full_disk_and_nothing_good_is_lost(tmp_path: Path):
    trainer = new(tmp_path / "run")
    trainer.train(30, log_interval=10, progress=False)
    before = (tmp_path / "run" / checkpoint.NAME).read_bytes()
    room = (tmp_path / "run" / "metrics.jsonl").stat().st_size + 40
    with full(room), pytest.warns(UserWarning, match="could not be written") as told:
        metrics = trainer.train(30, log_interval=10, checkpoint_interval=10, progress=False)
    assert metrics["env_steps"] == 60
    words = [str(warning.message) for warning in told]
    assert any("Metrics could not be written" in message and "training goes on" in message for message in words)
    assert any("A checkpoint could not be written" in message and "env step 30" in message for message in words)
    assert (tmp_path / "run" / checkpoint.NAME).read_bytes() == before
    assert lines(tmp_path / "run") == [10, 20, 30]
    # There is room again: what was held back is written.
    trainer.train(10, log_interval=10, progress=False)
    trainer.close()
    assert lines(tmp_path / "run") == [10, 20, 30, 40, 50, 60, 70]
    assert Trainer.load(tmp_path / "run", env=Diary()).env_steps == 70


def test_metrics_that_could_not_be_cut_are_cut_and_written_with_the_next_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from rlox.runs.logs import RunLog

    cut, turns = RunLog._cut, iter([OSError(28, "No space left on device")])

    def fails_once(log: RunLog, file: Any) -> None:
        for error in turns:
            raise error
        cut(log, file)

    monkeypatch.setattr(RunLog, "_cut", fails_once)
    (tmp_path / "metrics.jsonl").write_text("written after the checkpoint\n")
    with pytest.warns(UserWarning, match=r"Metrics could not be written .*No space left on device"):
        log = RunLog(tmp_path, {}, logged=0)
    with log:
        log({"env_steps": 10, "gradient_steps": 0})
    assert lines(tmp_path) == [10]


@pytest.mark.long
def test_a_run_that_could_not_be_saved_ends_with_an_error_on_the_command_line(tmp_path: Path):
    flags = ["--total-timesteps", "300", "--hidden", "8", "--batch-size", "16", "--n-eval-episodes", "1"]
    command = [sys.executable, "-m", "rlox", "train", "awr", "--env", "CartPole-v1", *flags, "--run-dir", "run"]
    with full(2000):
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "JAX_COMPILATION_CACHE_DIR": ""}
        )
    assert done.returncode == 1, done.stderr
    assert "rlox: error: The policy could not be saved to 'run': " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "Evaluation over 1 episode:" in done.stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 200 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*of the weights are clipped")
def test_a_run_outlives_its_disk_when_that_fills_up(small_disk: Path):
    with new(small_disk / "run") as trainer:
        with pytest.warns(UserWarning, match="No space left on device"):
            metrics = trainer.train(4000, log_interval=100, checkpoint_interval=500, progress=False)
        assert metrics["env_steps"] == 4000
        loaded = Trainer.load(small_disk / "run", env=Diary())
        assert 0 < loaded.env_steps < 4000
        with pytest.raises(ConfigError, match=r"cannot be written: No space left on device\. Make room there"):
            trainer.save(small_disk / "elsewhere")
        (small_disk / "rest").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize))
        with pytest.raises(ConfigError, match=r"cannot be written: No space left on device"):
            trainer.policy.save(small_disk / "policy.safetensors")
        assert not [path for path in small_disk.iterdir() if "policy" in path.name]


def test_a_read_only_folder_is_read_and_trained_from(small_disk: Path, tmp_path: Path):
    with new(small_disk / "run") as trainer:
        trainer.train(20, progress=False)
    before = {path.name for path in (small_disk / "run").iterdir()}
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    Policy.load(small_disk / "run")
    loaded = Trainer.load(small_disk / "run", env=Diary())
    assert np.isfinite(loaded.evaluate(1)["mean_reward"])
    with pytest.warns(UserWarning, match=r"could not be written to .*Read-only file system.*training goes on"):
        assert loaded.train(10, progress=False)["env_steps"] == 30
    loaded.save(tmp_path / "saved")
    with pytest.raises(ConfigError, match="cannot be written: Read-only file system"):
        loaded.export_onnx(small_disk / "policy.onnx")
    with pytest.raises(ConfigError, match=r"cannot be written to: .*Read-only"):
        new(small_disk / "other")
    assert {path.name for path in (small_disk / "run").iterdir()} == before
    assert Trainer.load(tmp_path / "saved", env=Diary()).env_steps == 30


# What has to be known before.


def test_a_replay_that_cannot_fit_is_refused_with_its_bytes_before_training():
    with pytest.raises(ConfigError, match=r"buffer_size=\d[\d,]+ transitions needs [\d,.]+ GiB .*lower buffer_size"):
        Trainer("awr", Diary(), config={"buffer_size": 10**13})


@pytest.mark.long
def test_checkpoints_come_after_minutes_too(tmp_path: Path):
    class Slow(Diary):
        def step(self, action: Any) -> Any:
            time.sleep(0.02)
            return super().step(action)

    seen: list[int] = []

    def look(trainer: Trainer, metrics: dict[str, float]) -> None:
        seen.append(Trainer.load(tmp_path / "run", env=Diary()).env_steps)

    with Trainer("awr", Slow(), config=TINY, run_dir=tmp_path / "run", callbacks=look) as trainer:
        trainer.train(100, log_interval=100, checkpoint_minutes=0.6 / 60, progress=False)
    assert 0 < seen[0] < 100
    wrongs: list[Any] = [0, -1, True, "often"]
    for wrong in wrongs:
        with pytest.raises(ConfigError, match="checkpoint_minutes="):
            Trainer("awr", Diary(), config=TINY).train(5, checkpoint_minutes=wrong)


# An environment that fails.


@pytest.mark.long
def test_an_environment_that_hangs_stops_training_and_the_run_goes_on_elsewhere(tmp_path: Path):
    config = {**TINY, "n_envs": 2, "vectorization_mode": "async", "env_timeout": 2.0}
    began = time.monotonic()
    with Trainer("awr", Hanging, config=config, run_dir=tmp_path / "run") as trainer:
        words = r"did not answer within env_timeout=2 s at step 30.*last good checkpoint is .*env step 40"
        with pytest.raises(WorkerDiedError, match=words):
            trainer.train(100, checkpoint_interval=20, progress=False)
        with pytest.raises(WorkerDiedError, match=r"did not answer within env_timeout=2 s at step 30"):
            trainer.train(100, progress=False)
    assert time.monotonic() - began < 60
    with Trainer.load(
        tmp_path / "run", env=Diary, config={"vectorization_mode": "sync", "env_timeout": None}
    ) as loaded:
        assert loaded.env_steps == 40
        assert loaded.train(20, progress=False)["env_steps"] == 60


def test_an_environment_that_hangs_is_told_if_it_is_evaluated_or_ready_made():
    config = {**TINY, "vectorization_mode": "async", "env_timeout": 1.0}
    with Trainer("awr", Hanging, config=config) as trainer:
        with pytest.raises(WorkerDiedError, match=r"did not answer within env_timeout=1 s at step 30"):
            trainer.evaluate(30)
        assert trainer.evaluate(1)["n_episodes"] == 1
    made = AsyncVectorEnv([Hanging], context="forkserver")
    with Trainer("awr", made, config=config) as trainer, pytest.raises(WorkerDiedError, match="env_timeout=1 s"):
        trainer.train(100, progress=False)
    made.close(terminate=True)
    with pytest.warns(UserWarning, match="env_timeout=1 has no effect on a Diary, which is stepped in this process"):
        Trainer("awr", Diary(), config=config)


class Tired(Diary):
    """Raises at its 26th step, once."""

    tired = True

    def step(self, action: Any) -> Any:
        if len(self.shown) == 25 and Tired.tired:
            Tired.tired = False
            raise RuntimeError("the motor is hot")
        return super().step(action)


def test_a_state_is_written_once(tmp_path: Path):
    with Trainer("awr", Diary, config=TINY, run_dir=tmp_path / "run") as trainer:
        trainer.train(40, checkpoint_interval=20, progress=False)
    names = ("checkpoint", "checkpoint.1", "checkpoint.2")
    files = [tmp_path / "run" / f"{name}.safetensors" for name in names]
    steps = []
    for file in files:
        with Trainer.load(file, env=Diary, run_dir=tmp_path / file.stem) as loaded:
            steps.append(loaded.env_steps)
    assert steps == [40, 20, 0]


def test_seconds_before_an_error_are_counted(tmp_path: Path):
    Tired.tired = True
    with Trainer("awr", Tired, config=TINY, run_dir=tmp_path / "run") as trainer:
        with pytest.raises(RuntimeError, match="the motor is hot"):
            trainer.train(60, progress=False)
        spent = trainer.last_metrics["time/seconds"]
    with Trainer.load(tmp_path / "run", env=Tired) as loaded:
        saved = loaded.last_metrics["time/seconds"]
        found = loaded.train(progress=False)
    assert 0 < saved <= spent
    assert found["time/seconds"] == pytest.approx(saved + found["seconds"], abs=0.2)


@pytest.mark.parametrize("n", [1, 3])
def test_a_run_whose_environment_raised_goes_on_where_it_was(n: int, tmp_path: Path):
    Tired.tired = False
    config = {**TINY, "n_envs": n}
    with Trainer("awr", Tired, config=config, run_dir=tmp_path / "whole") as trainer:
        trainer.train(60 * n, progress=False)
    Tired.tired = True
    with Trainer("awr", Tired, config=config, run_dir=tmp_path / "run") as trainer:
        with pytest.raises(RuntimeError, match="the motor is hot"):
            trainer.train(60 * n, progress=False)
        assert trainer.env_steps == 25 * n
    with Trainer.load(tmp_path / "run", env=Tired) as loaded:
        assert loaded.env_steps == 25 * n
        loaded.train(progress=False)
    assert differences(result(tmp_path / "run"), result(tmp_path / "whole")) == []


@pytest.mark.parametrize("n", [1, 3])
def test_after_an_environment_raised_the_same_trainer_goes_on_where_it_was(n: int, tmp_path: Path):
    ends: list[Any] = []
    for tired in (False, True):
        Tired.tired = tired
        with Trainer("awr", Tired, config={**TINY, "n_envs": n}, run_dir=tmp_path / str(tired)) as trainer:
            if tired:
                with pytest.raises(RuntimeError, match="the motor is hot"):
                    trainer.train(60 * n, progress=False)
            trainer.train(60 * n - trainer.env_steps, progress=False)
            ends.append(result(tmp_path / str(tired)))
    assert differences(*ends) == []


def test_a_process_that_dies_in_a_step_is_named_and_its_folder_is_free_again(tmp_path: Path):
    config = {**TINY, "vectorization_mode": "async"}
    died = pytest.raises(WorkerDiedError, match=r"died at step 30.*last good checkpoint is .*env step 20")
    with died, Trainer("awr", Dying, config=config, run_dir=tmp_path / "run") as trainer:
        trainer.train(100, checkpoint_interval=20, progress=False)
    with Trainer.load(tmp_path / "run", env=Diary, config={"vectorization_mode": "sync"}) as loaded:
        assert loaded.train(20, progress=False)["env_steps"] == 40


# Where a run goes on.


def test_a_folder_with_a_dot_in_its_name_is_a_folder(tmp_path: Path):
    with new(tmp_path / "rate0.001") as trainer:
        trainer.train(20, progress=False)
    with Trainer.load(tmp_path / "rate0.001", env=Diary()) as loaded:
        loaded.train(10, progress=False)
        assert loaded.run_dir == tmp_path / "rate0.001"
    assert [path.name for path in tmp_path.iterdir()] == ["rate0.001"]


@pytest.mark.long
def test_resume_refuses_what_no_run_continues_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from rlox.cli import main

    with Trainer("awr", "CartPole-v1", config=TINY, run_dir=tmp_path / "run") as trainer:
        trainer.train(30, checkpoint_interval=10, progress=False)
        trainer.save(tmp_path / "copy")
    for path in (tmp_path / "copy", tmp_path / "run" / "checkpoint.1.safetensors"):
        with pytest.raises(SystemExit):
            main(["resume", str(path), "--total-timesteps", "50"])
        assert "in which no run continues: name the folder of a run" in capsys.readouterr().err
    place = ["--env", "CartPole-v1", "--total-timesteps", "50", "--run-dir", str(tmp_path / "copy"), "--resume"]
    settings = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with pytest.raises(SystemExit):
        main(["train", "awr", *place, *settings])
    assert "in which no run continues: name the folder of a run" in capsys.readouterr().err


@pytest.mark.parametrize("goes", [False, True], ids=["changes", "is removed"])
def test_a_run_stays_in_its_folder_where_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes: bool
):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    best = KeepBest("best.safetensors", "rollout/episode_return")
    with Trainer(
        "awr", "CartPole-v1", config=TINY, run_dir="run", callbacks=best, logger=CSVLogger("x.csv")
    ) as trainer:
        monkeypatch.chdir(tmp_path / "b")
        if goes:
            (tmp_path / "b").rmdir()
        trainer.train(60, checkpoint_interval=10, log_interval=20, progress=False)
    assert not list((tmp_path / "b").glob("*"))
    with Trainer.load(tmp_path / "a" / "run") as loaded:
        assert loaded.env_steps == 60
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"best.safetensors", "run", "x.csv"}


def test_a_run_in_a_new_folder_has_a_checkpoint_there_at_once(tmp_path: Path):
    with new(tmp_path / "run") as trainer:
        trainer.train(20, progress=False)
    stop: Any = {"callbacks": lambda trainer, metrics: seen.append(checkpoint.exists(tmp_path / "branch"))}
    seen: list[bool] = []
    with Trainer.load(tmp_path / "run", env=Diary(), run_dir=tmp_path / "branch", **stop) as loaded:
        loaded.train(5, log_interval=1, progress=False)
    assert seen[0]


@pytest.mark.parametrize("where", ["callback", "evaluation"])
def test_what_was_due_when_an_error_came_is_done_when_the_run_goes_on(where: str, tmp_path: Path):
    def fail(trainer: Trainer, metrics: dict[str, float]) -> None:
        if where == "callback" and metrics["env_steps"] == 30:
            raise RuntimeError("the network is down")

    class Breaking(Diary):
        def reset(self, **options: Any) -> Any:
            made.append(self)
            if where == "evaluation" and len(made) == 9:
                raise RuntimeError("the network is down")
            return super().reset(**options)

    made: list[Any] = []
    how: Any = {"log_interval": 10, "eval_interval": 15, "n_eval_episodes": 1, "checkpoint_interval": 20}
    failed = pytest.raises(RuntimeError, match="the network is down")
    with failed, Trainer("awr", lambda: Breaking(), config=TINY, run_dir=tmp_path / "run", callbacks=fail) as trainer:
        trainer.train(60, **how, progress=False)
    with Trainer.load(tmp_path / "run", env=Diary) as loaded:
        loaded.train(progress=False)
    with Trainer("awr", Diary, config=TINY, run_dir=tmp_path / "whole") as trainer:
        trainer.train(60, **how, progress=False)
    assert differences(result(tmp_path / "run"), result(tmp_path / "whole")) == []


def test_a_checkpoint_that_a_callback_saves_to_the_run_counts_its_records(tmp_path: Path):
    with Trainer(
        "awr", Diary(), config=TINY, run_dir=tmp_path / "run", callbacks=lambda trainer, _: keep(trainer)
    ) as trainer:
        trainer.train(60, log_interval=10, progress=False)
    with Trainer.load(tmp_path / "copy", env=Diary()) as loaded:
        loaded.train(progress=False)
    assert lines(tmp_path / "copy") == [10, 20, 30, 40, 50, 60]


def keep(trainer: Trainer) -> None:
    """Save to the run's own folder, and copy that at step 30."""
    assert trainer.run_dir
    trainer.save(trainer.run_dir)
    if trainer.env_steps == 30:
        shutil.copytree(trainer.run_dir, trainer.run_dir.with_name("copy"))


def test_an_evaluation_without_an_environment_is_refused_before_anything_is_learned(tmp_path: Path):
    with Trainer("bc", dataset="cartpole-random", config={"hidden": 4, "batch_size": 8}) as trainer:
        trainer.train_offline(5, progress=False)
        trainer.save(tmp_path)
    with Trainer.load(tmp_path, budget={"gradient_steps": 20, "eval_interval": 5}) as loaded:
        with pytest.raises(ConfigError, match="eval_interval needs an environment"):
            loaded.train_offline(progress=False)
        assert loaded.gradient_steps == 5


def test_a_replay_of_rounds_without_an_environment_is_counted_too():
    with pytest.raises(ConfigError, match="lower buffer_size"):
        Trainer("marwil", dataset="cartpole-random", config={"hidden": 4, "rollout_steps": 64, "buffer_size": 10**13})


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_folder_that_its_file_system_does_not_flush_is_no_error(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fsync = os.fsync

    def refusing(opened: int) -> None:
        if stat.S_ISDIR(os.fstat(opened).st_mode):
            raise OSError(number, "refused")
        fsync(opened)

    monkeypatch.setattr(os, "fsync", refusing)
    refused = contextlib.nullcontext() if number == errno.EINVAL else pytest.raises(OSError, match="refused")
    with refused, whole(tmp_path / "a.txt") as side:
        side.write_text("all of it")
    assert (tmp_path / "a.txt").read_text() == "all of it"


@pytest.mark.long
def test_what_goes_on_with_live_data_is_named(tmp_path: Path):
    steps = {"observations": np.zeros((8, 2)), "actions": np.arange(8) % 2, "rewards": np.ones(8)}
    data = {**steps, "terminals": np.arange(8) == 7}

    def stop(trainer: Trainer, metrics: Any) -> None:
        raise ZeroDivisionError

    trainer = Trainer("bc", dataset=data, config={"hidden": 4}, run_dir=tmp_path / "my run", callbacks=stop)
    with pytest.raises(ZeroDivisionError) as found:
        trainer.train_offline(1)
    way = f"Continue with: Trainer.load('{tmp_path / 'my run'}', dataset=...).train_offline()"
    assert way in found.value.__notes__[0]
    named = Trainer("bc", dataset="cartpole-random", config={"hidden": 4}, run_dir=tmp_path / "a run", callbacks=stop)
    with pytest.raises(ZeroDivisionError) as found:
        named.train_offline(1)
    assert f"Continue with: rlox resume '{tmp_path / 'a run'}'" in found.value.__notes__[0]


def test_an_error_of_the_environment_says_where_the_run_goes_on(tmp_path: Path):
    class Breaking(Diary):
        def step(self, action: Any) -> Any:
            if len(self.actions) == 30:
                raise ZeroDivisionError("mine")
            return super().step(action)

    trainer = Trainer("awr", Breaking, config={"hidden": 4, "learning_starts": 100}, run_dir=tmp_path / "run")
    with pytest.raises(ZeroDivisionError) as found:
        trainer.train(60, checkpoint_interval=10, progress=False)
    assert "last good checkpoint" in found.value.__notes__[0]
    assert f"Continue with: Trainer.load('{tmp_path / 'run'}', env=...).train()" in found.value.__notes__[0]
