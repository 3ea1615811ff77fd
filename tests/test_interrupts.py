"""A training that is asked to stop ends where nothing is half-changed, and continues."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium import spaces

from rlox import Trainer
from rlox.envs.envs import make_envs
from rlox.runs.history import read_run
from rlox.runs.interrupts import SIGNALS, Interrupted

SMALL: dict[str, Any] = {"hidden": 16, "batch_size": 32, "learning_starts": 40, "buffer_size": 1000}
ROUNDS: dict[str, Any] = {**SMALL, "rollout_steps": 64, "n_critic_updates": 3, "n_actor_updates": 3, "td_lambda": 0.9}


class Signalling(gym.Env[Any, Any]):
    """Sends its process signals in the middle of given steps."""

    def __init__(self, at: Mapping[int, int]):
        self.observation_space, self.action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)
        self.at, self.steps = at, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps in self.at:
            os.kill(os.getpid(), self.at[self.steps])
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), float(action), self.steps % 7 == 0, False, {}


def leaves(trainer: Trainer) -> list[Any]:
    state = trainer.state._replace(key=jax.random.key_data(trainer.state.key))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


@pytest.fixture(autouse=True)
def handlers_are_put_back() -> Any:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.long
@pytest.mark.parametrize("config", [SMALL, ROUNDS], ids=["every step", "rounds"])
def test_an_interrupted_training_ends_as_one_that_was_not(config: dict[str, Any]):
    plain, stopped = (Trainer("awr", Signalling(at), config=config) for at in ({}, {63: signal.SIGINT}))
    plain.train(150, log_interval=10)
    with pytest.raises(Interrupted, match=r"Stopped at step \d+: train\(\) continues"):
        stopped.train(150, log_interval=10)
    assert 63 <= stopped.env_steps < 150
    stopped.predict(np.zeros(2, np.float32))
    assert stopped.train()["env_steps"] == 150
    for one, other in zip(leaves(plain), leaves(stopped), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_leaves_a_checkpoint_and_says_how_to_continue(number: int, tmp_path: Path):
    trainer = Trainer("awr", Signalling({50: number}), config=SMALL, run_dir=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt, match=r"saved\. Continue with: Trainer\.load\('.*run', env=") as stop:
        trainer.train(150)
    assert stop.value.number == number  # pyright: ignore[reportAttributeAccessIssue]
    assert Trainer.load(tmp_path / "run").env_steps == trainer.env_steps


def test_offline_learning_is_interrupted_too():
    trainer = Trainer("bc", dataset="cartpole-random", config={"hidden": 8, "batch_size": 16})
    timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(Interrupted):
        trainer.train_offline(10**9)
    assert trainer.train_offline(5)["gradient_steps"] == trainer.gradient_steps


def test_a_second_signal_does_what_it_did_before():
    trainer = Trainer("awr", Signalling({50: signal.SIGINT, 51: signal.SIGINT}), config=SMALL)
    with pytest.raises(KeyboardInterrupt) as stop:
        trainer.train(150)
    assert not isinstance(stop.value, Interrupted)


def break_before(trainer: Trainer, program: str, patched: pytest.MonkeyPatch) -> None:
    """Let one of a trainer's programs be interrupted before it begins."""

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    learner: Any = trainer._learner
    patched.setattr(learner, "_programs", learner._programs._replace(**{program: interrupted}))


@pytest.mark.long
def test_a_round_that_could_not_be_learned_is_when_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = Trainer("awr", "CartPole-v1", config=ROUNDS)
    stopped = Trainer("awr", "CartPole-v1", config=ROUNDS, run_dir=tmp_path / "run")
    plain.train(150)
    with monkeypatch.context() as patched:
        break_before(stopped, "learn_round", patched)
        with pytest.raises(KeyboardInterrupt):
            stopped.train(150)
    assert stopped.env_steps == 64
    loaded = Trainer.load(tmp_path / "run", run_dir=tmp_path / "other")
    assert loaded.env_steps == len(loaded.replay_dataset()) == 64
    stopped.train()
    loaded.train()
    for one, *others in zip(*map(leaves, (plain, loaded, stopped)), strict=True):
        for other in others:
            np.testing.assert_array_equal(one, other)


@pytest.mark.long
def test_a_step_that_could_not_be_learned_from_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer = Trainer("awr", "CartPole-v1", config=SMALL, run_dir=tmp_path / "run")
    break_before(trainer, "learn", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(150)
    loaded = Trainer.load(tmp_path / "run")
    assert loaded.env_steps == len(loaded.replay_dataset()) == 40


def test_a_signal_in_the_middle_of_an_update_is_told_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer = Trainer("bc", dataset="cartpole-random", config={"hidden": 8, "batch_size": 16}, run_dir=tmp_path / "run")

    def interrupted(limit: int, *, offline: bool = False) -> None:
        # As where the compiled update has taken the state's arrays, and the new ones are not assigned yet.
        for leaf in jax.tree.leaves(trainer.state):
            leaf.delete()
        raise KeyboardInterrupt("the second signal")

    monkeypatch.setattr(trainer._learner, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt, match="the second signal"):
        trainer.train_offline(30)
    assert Trainer.load(tmp_path / "run").gradient_steps == 0


def test_what_is_due_is_done_before_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer = Trainer("bc", dataset="cartpole-random", config={"hidden": 8, "batch_size": 16}, run_dir=tmp_path / "run")
    advance = trainer._learner.advance

    def interrupted(limit: int, *, offline: bool = False) -> None:
        advance(limit, offline=offline)
        if trainer.gradient_steps == 20:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trainer._learner, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trainer.train_offline(30, log_interval=10, checkpoint_interval=10)
    assert Trainer.load(tmp_path / "run").gradient_steps == 10, "what is due at 20 has not been done"
    trainer.train_offline()
    assert [record["gradient_steps"] for record in read_run(tmp_path / "run").records] == [10, 20, 30]


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        trainer = Trainer("awr", Signalling({50: signal.SIGHUP}), config=SMALL)
        assert trainer.train(150)["env_steps"] == 150
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_no_handler_is_set():
    seen: list[Any] = []
    trainer = Trainer(
        "awr", Signalling({}), config=SMALL, callbacks=lambda *_: seen.append(signal.getsignal(signal.SIGINT))
    )
    thread = threading.Thread(target=trainer.train, args=(50,))
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
    assert trainer.env_steps == 50


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.long
def test_a_signal_to_the_whole_process_group_stops_the_command_line_and_resume_finishes(tmp_path: Path):
    flags = ["--total-timesteps", "1000000", "--hidden", "16", "--batch-size", "32", "--log-interval", "20"]
    envs = ["--n-envs", "2", "--vectorization-mode", "async", "--n-eval-episodes", "1", "--run-dir", "run"]
    command = [sys.executable, "-m", "rlox", "train", "awr", "--env", "CartPole-v1", *flags, *envs]
    options: dict[str, Any] = {"cwd": tmp_path, "stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **options)
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: (metrics.exists() and metrics.stat().st_size > 0) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, told
    assert told.splitlines()[-1].endswith("Continue with: rlox resume run"), told
    assert "Traceback" not in told
    stopped = Trainer.load(tmp_path / "run", run_dir=tmp_path / "next")
    assert 0 < stopped.env_steps < 1_000_000
    stopped.close()


@pytest.mark.long
def test_resume_finishes_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    from rlox.cli import main

    monkeypatch.chdir(tmp_path)
    config = {"hidden": 8, "batch_size": 16}
    stop = [lambda trainer, metrics: metrics["env_steps"] < 20]
    source: Any = {"env": "CartPole-v1", "dataset": "cartpole-random"}
    with Trainer("iql", **source, config=config, run_dir="run", callbacks=stop) as trainer:
        trainer.train_offline(30, n_eval_episodes=1)
        trainer.train(60, log_interval=20)
    main(["resume", "run"])
    told = capsys.readouterr().out
    assert "Continuing run after 20 environment steps and 30 gradient steps." in told
    assert "Trained 40 steps (60 in all)" in told
    assert "Learned from" not in told
    with pytest.raises(SystemExit) as stopped:
        main(["resume", "nowhere"])
    assert stopped.value.code == 2


def test_workers_leave_signals_to_their_parent_and_are_ended_with_it():
    envs = make_envs("CartPole-v1", 2, "async")
    processes: Any = envs.env.processes  # pyright: ignore[reportAttributeAccessIssue]
    envs.reset(0)
    for process in processes:
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGTERM)
    assert envs.step(np.zeros(2, int)).valid.all()
    envs.close()
    assert not any(process.is_alive() for process in processes)
